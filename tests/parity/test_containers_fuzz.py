"""Damaged files are refused or read as their own readers do: briefly; see fuzz_containers.py."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity import containers
from tests.damage import mutated
from tests.fuzz_containers import failure, seeds

SEEDS = seeds()


def test_undamaged_files_are_read(tmp_path):
    for data in SEEDS.values():
        (tmp_path / "a").write_bytes(data)
        assert failure(tmp_path / "a") is None


@pytest.mark.parametrize("name", SEEDS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(choose=st.integers(0, 2**64))
def test_damaged_files(tmp_path, name, choose):
    path = tmp_path / "a"
    path.write_bytes(mutated(SEEDS[name], random.Random(choose)))
    assert failure(path) is None


def test_a_reader_that_takes_300_mb_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(SEEDS["npz"])
    monkeypatch.setattr(containers, "opened", lambda _: np.empty(300_000_000, np.uint8))
    assert failure(tmp_path / "a")[0] == "MemoryError"
