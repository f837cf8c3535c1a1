"""Hostile and damaged pickles: refused by name, before memory is taken, and no code is run."""

import argparse
import codecs
import collections
import os
import pickle
import struct
import warnings

import pytest
import torch

from parity import containers
from parity.containers.info import MOST_TENSORS
from parity.containers.pickles import MOST_STEPS
from tests.parity.hostile_files import TERA, archive, refused


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_run_no_code(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    for value, message in (
        (Attack(), "posix.mkdir.*could run code"),
        (argparse.Namespace(lr=Attack()), "posix.mkdir.*could run code"),
        (torch.nn.Linear(1, 1), "could run code|holds a module"),
    ):
        saved = {"model": {"w": torch.zeros(2)}, "args": value}
        torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "a.pth", message)
    assert not (tmp_path / "attacked").exists()
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"w": Attack()}))
    refused(tmp_path / "a.pth", "plain pickle")


class Call:
    """Calls what `weights_only` allows."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


REPEATED = torch.zeros(1, dtype=torch.uint8).expand(2**40)
BOMBS = {
    "bytearray": Call(bytearray, 2 * 10**9),
    "Counter": Call(collections.Counter, REPEATED),
    "set": Call(set, REPEATED),
    "OrderedDict": Call(collections.OrderedDict, torch.zeros(1, 1).expand(2**40, 2)),
    "encode": Call(codecs.encode, Call(codecs.encode, b"1", "hex"), "hex"),
    "Size": Call(torch.Size, REPEATED),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", BOMBS)
def test_calls_without_bound_are_refused_before_they_are_made(tmp_path, name, zipped):
    saved = {"w": torch.zeros(2), "more": BOMBS[name]}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "a.pth", f"it holds .*{name}.*take all memory")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_keeps_beside_its_weights_is_no_bomb(tmp_path, zipped):
    w = torch.nn.Parameter(torch.ones(2))
    extra = {"size": w.shape, "steps": collections.Counter([3, 3]), "names": {"a"}, "d": w.dtype}
    settings = argparse.Namespace(lr=1.0, device=torch.device("cpu"))
    saved = {"model": collections.OrderedDict(w=w), "args": settings, **extra}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with containers.opened(tmp_path / "a.pth") as opened:
        assert opened.read("model.w").tolist() == [1, 1]


def test_torch_claims(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1).expand(TERA)}, path)
    refused(path, "more than the .* bytes of the file")
    torch.save({"w": torch.zeros(3).to_sparse()}, path)
    refused(path, "torch.sparse_coo float32 on cpu, not a plain tensor")
    with warnings.catch_warnings(action="ignore"):  # a prototype, says PyTorch
        torch.save({"w": torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])}, path)
    refused(path, "nested float32 on cpu, not a plain tensor")
    torch.save([torch.zeros(1)], path)
    refused(path, "holds list, not a dict")
    torch.save({(1, 2): torch.zeros(1)}, path)
    refused(path, "the key .1, 2., not a text")
    torch.save({"w": torch.zeros(70_000)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claim = b"J" + struct.pack("<i", 70_000)
    assert data.count(claim) == 2  # of the storage, of the shape
    path.write_bytes(data.replace(claim, b"J" + struct.pack("<i", 2**31 - 1)))
    refused(path, "a storage claims 2147483647 elements")
    path.write_bytes(data[:-1])
    refused(path, "torch.load refuses it")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    refused(path, "TorchScript program")


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
LONG = {
    "values": b"N" * 1_000_000,
    "marks": b"(" * 1_000_000,
    "memo": b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(400_000)),
    "memo at the end": b"Nr\xff\xff\xff\x7f",
    "deep": b"]" * 200_000 + b"a" * 200_000,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", LONG)
def test_long_pickles(tmp_path, case, zipped):
    pickled = b"\x80\x02" + LONG[case] + b"."
    files = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}
    members = [(f"archive/{name}", data) for name, data in files.items()]
    data = archive(*members) if zipped else LEGACY + pickled + b"\x80\x02]."
    (tmp_path / "a.pth").write_bytes(data)
    steps = "holds NoneType" if "end" in case else f"more than {MOST_STEPS} steps"
    refused(tmp_path / "a.pth", steps, traced=False)


def test_a_dict_that_is_in_others_many_times(tmp_path):
    content = {}
    for _ in range(14):
        content = dict.fromkeys("abcdefghijklmnopqrst", content)
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", f"more than {MOST_TENSORS} entries", traced=False)
