"""Settings of all tests."""

import jax
import pytest

from parity.formats import format
from parity.formats.format import usual_sides

TINY_SIDES = {16, 28, 32, 56, 64}


@pytest.fixture(autouse=True)
def tiny_images_are_usual(monkeypatch):
    """Tiny models stand for published ones: files of tensors alone need no `image_size=`."""
    monkeypatch.setattr(format, "usual_sides", lambda: usual_sides() | TINY_SIDES)


@pytest.fixture
def x64():
    """JAX with float64 and full-precision products."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def quickly_compiled():
    """XLA optimizes little, in subprocesses too: for what compiles longer than it computes."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "true")
        jax.config.update(name, True)
        jax.clear_caches()
        yield
    jax.config.update(name, before)
    jax.clear_caches()
