"""Fixtures of the training program's tests."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import train
from tests.train.short_runs import EVERY, SHORT


@pytest.fixture(scope="module", autouse=True)
def short_runs_compile_quickly(quickly_compiled):
    """That both sides compute the same is tested elsewhere, on programs as users run them."""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the digits are prepared, once for all tests."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def quick(data_dir, monkeypatch):
    """Arguments of a short run; the float64 proof has tests of its own."""
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    return ["digits", *SHORT, "--data-dir", data_dir]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder of compiled programs, which many runs share."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def compiled_once(programs):
    """Runs of a module keep what they compile."""
    settings = {
        "jax_compilation_cache_dir": programs,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in (settings, before):
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)
        if values is settings:
            yield


@pytest.fixture
def saving(data_dir, tmp_path, monkeypatch):
    """Arguments of a short run in `tmp_path/run` that saves after the steps 4, 8 and 12."""
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    return [
        "digits",
        *SHORT,
        "--model.depth",
        "1",
        *EVERY,
        "--data-dir",
        data_dir,
        "--out",
        str(tmp_path / "run"),
    ]
