"""Damaged files are refused or read as their own readers do: briefly; see fuzz_containers.py."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz_containers import failure, mutated, seeds

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
