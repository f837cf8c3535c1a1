"""Preparing leaves a whole data set or nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_data.datasets import digits
from vit_data.prepare import data_root, prepared

FULL_DISK = """
import resource, signal, sys
from vit_data import open_source
import tensorflow_datasets
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
open_source("digits", split="train", data_dir=sys.argv[1])
"""


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    # A limit on the size of files makes writes fail as a full disk does.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert "OSError: cannot write digits to" in done.stderr
    assert "free some space" in done.stderr
    assert list(tmp_path.iterdir()) == []


class Interrupted(digits.Builder, skip_registration=True):
    """A builder that is interrupted after the first examples."""

    name = "digits"

    def _generate_examples(self, images, labels):
        yield from super()._generate_examples(images[:5], labels[:5])
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_and_the_next_attempt_succeeds(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        prepared(Interrupted, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert prepared(digits.Builder, tmp_path).info.splits["test"].num_examples == 360


def test_a_leftover_without_its_info_is_replaced(tmp_path):
    leftover = tmp_path / "digits" / "1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"x")
    assert prepared(digits.Builder, tmp_path).info.splits["train"].num_examples == 1437
    assert not (leftover / "half").exists()


def test_only_old_remains_of_killed_processes_are_removed(tmp_path):
    for name, age in ((".preparing-old", 2 * 86400), (".preparing-new", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    prepared(digits.Builder, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".preparing-new", "digits"]


def test_a_data_dir_that_cannot_be_written_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="not a writable folder.*VITWIN_DATA"):
        prepared(digits.Builder, tmp_path / "file")


def test_the_data_root_is_argument_then_variable_then_cache(monkeypatch):
    monkeypatch.delenv("VITWIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root() == Path("/cache/vitwin")
    monkeypatch.setenv("VITWIN_DATA", "/data")
    assert data_root() == Path("/data")
    assert data_root("/given") == Path("/given")
