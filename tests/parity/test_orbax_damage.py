"""Damaged directories of Orbax: refused or read, in little time and memory; see fuzz_orbax.py."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parity
from parity.containers.files import BrokenFile
from parity.orbax.zstandard import MAGIC
from tests import damage, fuzz_orbax
from tests.parity.format_oracles import assert_same_bits

OUTSIDE = b"../" * 8 + b"etc/passwd"  # as long as a name of OCDBT's files


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A process that reads damaged steps."""
    reader = fuzz_orbax.Reader(tmp_path_factory.mktemp("fuzz"))
    yield reader
    reader.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 10_000), seed=st.integers(0, 2**64))
def test_damaged_steps(reader, place, seed):
    name, file = reader.files[place % len(reader.files)]
    assert reader.failure(name, file, str(seed)) is None


def test_the_end_of_the_process_that_reads_is_a_failure(reader):
    name, file = reader.files[0]
    for ended_before_it_is_asked in (True, False):
        os.kill(reader.process.pid, signal.SIGSEGV)
        if ended_before_it_is_asked:
            reader.process.join()
        assert reader.failure(name, file, "0") == ("crash", "exit code -11")
    assert reader.failure(name, file, "0") is None


def test_a_step_that_takes_300_mb_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "inspect", lambda _: np.empty(300_000_000, np.uint8))
    assert damage.failure(tmp_path, {})[0] == "MemoryError"


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return fuzz_orbax.seeds(tmp_path_factory.mktemp("steps"))


@pytest.fixture
def step(steps, request, tmp_path):
    return shutil.copytree(steps[request.param], tmp_path / "step")


def test_arrays_in_files_and_in_trees_of_any_height_are_read(steps, tmp_path):
    found = [parity.convert(step, tmp_path / name) for name, step in steps.items()]
    assert len(found) == 4
    for other in found[1:]:
        assert_same_bits(found[0], other)


def edited(file: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes by others, and mends the checksums."""
    data = file.read_bytes()
    assert old in data and len(old) == len(new)
    file.write_bytes(fuzz_orbax.repaired(data.replace(old, new)))


@pytest.mark.parametrize("step", ["open tree"], indirect=True)
@pytest.mark.parametrize("place", ["manifest.ocdbt", "d/*"])
def test_a_tree_does_not_lead_out_of_its_folder(step, place):
    names = [b"d/" + file.name.encode() for file in (step / "state" / "d").iterdir()]
    assert {len(name) for name in names} == {len(OUTSIDE)}
    for file in (step / "state").glob(place):
        for name in names:
            if name in file.read_bytes():
                edited(file, name, OUTSIDE)
    with pytest.raises(BrokenFile, match=r"a value lies at '\w+::\.\..* no place of Orbax"):
        parity.inspect(step)


@pytest.mark.parametrize("step", ["packed"], indirect=True)
def test_values_that_are_not_there_or_cannot_be_in_so_few_bytes_are_refused(step):
    file = step / "state" / "params.blocks.0.mlp.fc1.kernel" / "0.0"
    file.write_bytes(b"")
    with pytest.raises(BrokenFile, match=r"0 bytes are said to hold the 32768 of a piece of block"):
        parity.inspect(step)
    file.unlink()
    with pytest.raises(BrokenFile, match=r"the piece 0.0 of blocks.0.mlp.fc1.kernel is not there"):
        parity.inspect(step)


def frame(descriptor: int, head: bytes) -> bytes:
    """A frame of Zstandard of 32,768 zeros in one block."""
    block = (32768 << 3 | 0b011).to_bytes(3, "little") + b"\0"  # the last one, of one byte
    return MAGIC + bytes([descriptor]) + head + block


@pytest.mark.parametrize("step", ["packed"], indirect=True)
@pytest.mark.parametrize(
    ("descriptor", "head"),
    [(0, b"\xa8"), (0b11100000, (1 << 31).to_bytes(8, "little")), (0b10100000, b"\xff" * 4)],
    ids=["window", "content of 8 bytes", "content of 4 bytes"],
)
def test_values_that_ask_for_gigabytes_to_be_decoded_are_refused(step, descriptor, head):
    file = step / "state" / "params.blocks.0.mlp.fc1.kernel" / "0.0"
    file.write_bytes(frame(0, b"\x40"))  # 256 KB: decoded, and not what was saved
    with pytest.raises(BrokenFile, match=r"fc1.kernel is not as saved"):
        parity.read(step)
    file.write_bytes(frame(descriptor, head))
    with pytest.raises(BrokenFile, match=r"a piece of blocks.0.mlp.fc1.kernel is packed in no usu"):
        parity.inspect(step)


@pytest.mark.parametrize("step", ["tree"], indirect=True)
def test_a_node_that_asks_for_gigabytes_to_be_decoded_is_refused(step):
    file = step / "state" / "manifest.ocdbt"
    data = file.read_bytes()
    assert data[13:18] == b"\1" + MAGIC
    file.write_bytes(fuzz_orbax.repaired(data[:18] + b"\0\xa8" + data[20:]))
    with pytest.raises(BrokenFile, match="a node of the tree of its values is packed in no usual"):
        parity.inspect(step)


@pytest.mark.parametrize("step", ["files"], indirect=True)
def test_a_name_does_not_lead_out_of_the_folder(step):
    file = step / "state" / "_METADATA"
    file.write_text(file.read_text().replace('"pos_embed"', '"../../pos_embed"'))
    with pytest.raises(BrokenFile, match="is no leaf of a tree"):
        parity.inspect(step)


@pytest.mark.parametrize("form", ["files", "tree"])
def test_a_path_may_go_up(steps, form, tmp_path, monkeypatch):
    shutil.copytree(steps[form], tmp_path / "step")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written = parity.convert("../step", "out", certificate=False)
    assert_same_bits(written / "model.safetensors", weights(steps[form], tmp_path / "straight"))


def weights(step, folder):
    return parity.convert(step, folder, certificate=False) / "model.safetensors"


@pytest.mark.parametrize("form", ["files", "tree"])
def test_without_tensorstore_it_is_said_what_to_install(steps, form, monkeypatch):
    for name in ("parity.orbax.arrays", "parity.orbax.places"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ValueError, match=r"needs tensorstore: pip install 'vitwin\[orbax\]'"):
        parity.convert(steps[form], "out", certificate=False)
