"""What is opened: files by content, shards by their index, directories, addresses of the Hub."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from parity import containers
from tests.parity.hostile_files import refused
from tests.parity.test_containers import read, same, state, write

SHA = "0123456789" * 4
INDEX = "model.safetensors.index.json"


def sharded(folder, kind="safetensors", stem="model", suffix="safetensors"):
    """A directory of two shards and their index."""
    names, places = list(state()), {}
    for i, part in enumerate((names[:3], names[3:])):
        file = f"{stem}-{i + 1:05}-of-00002.{suffix}"
        write(folder / file, kind, {n: state()[n] for n in part})
        places |= dict.fromkeys(part, file)
    content = {"metadata": {"total_size": 100}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(content, indent=2))
    return places


def index(folder, places):
    """Another index."""
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def test_shards(tmp_path):
    sharded(tmp_path)
    for path in (tmp_path, tmp_path / INDEX):
        same(read(path), state())
        with containers.opened(path) as opened:
            assert (opened.kind, opened.metadata) == ("safetensors", {"total_size": "100"})
            kept = opened.read("step")
    assert kept == state()["step"]


def test_shards_of_pickles(tmp_path):
    sharded(tmp_path, "torch", "pytorch_model", "bin")
    same(read(tmp_path), state())


def test_shards_stay_in_their_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    places = sharded(folder)
    first = places["step"]
    write(tmp_path / "outside.safetensors", "safetensors", state())
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to(tmp_path)
    for name in (
        "../outside.safetensors", str(tmp_path / "outside.safetensors"), "link.safetensors",
        "up/outside.safetensors", "C:\\x", "a\\..\\..\\b", "", "a\0b", "x" * 5000,
    ):  # fmt: skip
        index(folder, places | {"step": name})
        refused_index(folder, "outside its folder|which is missing")
    index(folder, places | {"step": "loop"})
    refused_index(folder, "outside its folder|which is missing")
    (folder / "inner.safetensors").symlink_to(first)
    index(folder, {n: "inner.safetensors" if p == first else p for n, p in places.items()})
    same(read(folder), state())


def refused_index(folder, message, *, traced=True):
    """Refused in the name of the index."""
    refused(folder / INDEX, message, traced=traced)
    with pytest.raises(containers.BrokenFile), containers.opened(folder):
        pass


def test_shards_that_do_not_fit_the_index(tmp_path):
    places = sharded(tmp_path)
    for wrong, message in (
        (places | {"more": places["step"]}, "'more' is not in 'model-0000"),
        ({n: p for n, p in places.items() if n != "step"}, "has 'step', which the index lacks"),
        (places | {"step": "none.safetensors"}, "'none.safetensors', which is missing"),
        (places | {"step": 3}, "no weight_map"),
        ({}, "names no file"),
    ):
        index(tmp_path, wrong)
        refused_index(tmp_path, message)
    (tmp_path / INDEX).write_text("{")
    refused_index(tmp_path, "not JSON")
    index(tmp_path, {"a": "nested.index.json"})
    (tmp_path / "nested.index.json").write_text("{}")
    with pytest.raises(containers.BrokenFile, match="no known kind"), containers.opened(tmp_path):
        pass


def test_links_out_of_a_directory(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write(tmp_path / "outside.npz", "npz", state())
    (tmp_path / "secret.json").write_text('{"a": 1}')
    for name in ("model.safetensors", "some.npz"):
        (folder / name).symlink_to(tmp_path / "outside.npz")
        with (
            pytest.raises(containers.BrokenFile, match=f"{name}: it is a link that leads out"),
            containers.opened(folder),
        ):
            pass
        same(read(folder / name), state())  # it was named
        (folder / name).unlink()
    write(folder / "inner.npz", "npz", state())
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    with (
        containers.opened(folder) as opened,
        pytest.raises(containers.BrokenFile, match=r"config.json: it is a link that leads out"),
    ):
        _ = opened.config


@pytest.mark.parametrize("name", ["model.safetensors", "some.npz"])
def test_a_link_to_nothing_is_not_passed_over_for_another_file(name, tmp_path):
    (tmp_path / name).symlink_to("gone")
    if name == "model.safetensors":
        write(tmp_path / "pytorch_model.bin", "torch", state())
    with (
        pytest.raises(containers.BrokenFile, match=f"{name}: it is a link to nothing; put the"),
        containers.opened(tmp_path),
    ):
        pass


def test_an_index_of_very_many_files(tmp_path):
    index(tmp_path, {f"{i}": f"{i}.safetensors" for i in range(100_000)})
    refused_index(tmp_path, "names 100000 tensors; at most 50000", traced=False)
    index(tmp_path, {f"{i}": f"{i}.safetensors" for i in range(1_000)})
    refused_index(tmp_path, "more than 512")


def test_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model.safetensors nor"):
        read(tmp_path)
    write(tmp_path / "some.npz", "npz", state())
    same(read(tmp_path), state())
    write(tmp_path / "other.npz", "npz", state())
    with pytest.raises(ValueError, match="2 files of tensors .other.npz, some.npz.: give one"):
        read(tmp_path)
    for number in range(8):
        write(tmp_path / f"{number}.npz", "npz", state())
    with pytest.raises(ValueError, match=r"10 files .*\(0.npz, .*, 5.npz, and 4 more\): give one"):
        read(tmp_path)
    write(tmp_path / "model.safetensors", "safetensors", {"x": np.ones(2)})
    assert list(read(tmp_path)) == ["x"]


@pytest.mark.parametrize("length", [0x43C, 0x280, 0x4B50, 0x8B1F, 0x180])
def test_a_header_as_long_as_the_signs_of_other_kinds(tmp_path, length):
    x = np.ones(2, np.float32)
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    header = header.replace(" ", "").encode().ljust(length)
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + x.tobytes())
    assert len(header) == length
    same(read(tmp_path / "a"), {"x": x})


def cached(folder):
    """A cache of huggingface_hub with one repository."""
    repository = folder / "hub" / "models--org--name"
    snapshot, blobs = repository / "snapshots" / SHA, repository / "blobs"
    for path in (snapshot, blobs, repository / "refs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    for name in os.listdir(folder / "files"):
        (folder / "files" / name).rename(blobs / f"blob-{name}")
        (snapshot / name).symlink_to(blobs / f"blob-{name}")


def from_hub(folder, address):
    """What another process prints that reads an address without the network."""
    script = (
        "from parity import containers\n"
        f"with containers.opened({address!r}) as c:\n"
        "    print(len(c.tensors), c.kind, c.config, c.read('step'))\n"
    )
    environment = os.environ | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )


def test_the_hub_offline(tmp_path):
    (tmp_path / "files").mkdir()
    sharded(tmp_path / "files")
    (tmp_path / "files" / "config.json").write_text('{"a": 1}')
    write(tmp_path / "files" / "w.npz", "npz", state())
    cached(tmp_path)
    for address, kind in (
        ("hf://org/name", "safetensors"),
        ("hf://org/name@main", "safetensors"),
        (f"hf://org/name@{SHA}/w.npz", "npz"),
    ):
        result = from_hub(tmp_path, address)
        assert result.stdout == f"6 {kind} {{'a': 1}} 0\n", result.stderr
    result = from_hub(tmp_path, "hf://org/other")
    assert "hub.Unreached: hf://org/other: model.safetensors" in result.stderr
    assert "not in the cache, and the Hub cannot be reached" in result.stderr
    same(read(tmp_path / "hub" / "models--org--name" / "snapshots" / SHA), state())


def test_addresses(monkeypatch):
    for address in ("hf://name", "hf://org/name/../../x", "hf://org/name@/x"):
        with pytest.raises(ValueError, match="write hf://ORG/NAME"), containers.opened(address):
            pass
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with (
        pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"),
        containers.opened("hf://org/name"),
    ):
        pass


def test_a_pickle_named_safetensors(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "a.safetensors")
    same(read(tmp_path / "a.safetensors"), {"x": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello", "starts with b'hello', which no known kind does"),
        (b"\x93NUMPY\1\0", "numpy.savez"),
    ],
)
def test_what_is_often_taken_for_tensors(tmp_path, data, message):
    (tmp_path / "a.bin").write_bytes(data)
    refused(tmp_path / "a.bin", message)


def test_pipes_and_missing_files_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    with pytest.raises(FileNotFoundError), containers.opened(tmp_path / "none"):
        pass
