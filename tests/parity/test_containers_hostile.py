"""Hostile and damaged files: each is refused by name, before memory is taken and code is run."""

import argparse
import contextlib
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib

import flax.serialization
import msgpack
import numpy as np
import pytest
import torch

from parity import containers

TERA = 2**40


def refused(path, message):
    """`BrokenFile` with file, `message` and remedy, in a second and in little memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    with (
        pytest.raises(containers.BrokenFile, match=message) as caught,
        containers.opened(path) as opened,
    ):
        for name in opened.tensors:
            opened.read(name)
    assert time.perf_counter() - begin < 1
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "; " in text and len(text) < 1000
    assert text.isprintable()


def safetensors(header, data=b"", length=None):
    """A file with that header, a dict or text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, dtype="F32", shape=(1,)):
    """A tensor of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SAFETENSORS = {
    "cut": (b"\x08\0\0", "no known kind"),
    "header beyond the file": (safetensors({}, length=99), "header should have 99 bytes"),
    "header of 100 MB": (safetensors({}, length=100_000_001), "more than the 100000000 allowed"),
    "header of terabytes": (safetensors({}, length=TERA), "more than the 100000000 allowed"),
    "not JSON": (safetensors(b'{"a": '), "not JSON"),
    "NaN": (safetensors(b'{"a": NaN}'), "NaN is not JSON"),
    "not UTF-8": (safetensors(b'{"\xff": 1}'), "not JSON"),
    "lone surrogate": (safetensors(b'{"\\ud800": 1}'), "not JSON"),
    "deep": (safetensors(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "long integer": (safetensors(b'{"a": ' + b"9" * 100_000 + b"}"), "not JSON"),
    "duplicate": (
        safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)),
        "the key 'a' twice",
    ),
    "overlap": (safetensors({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "'a' and 'b' overlap"),
    "hole": (safetensors({"a": entry(0, 4), "b": entry(6, 10)}, bytes(10)), "leave 2 bytes"),
    "tail": (safetensors({"a": entry(0, 4)}, bytes(5)), "leave 1 bytes"),
    "out of the file": (safetensors({"a": entry(0, 4)}, bytes(3)), "overlap"),
    "terabytes": (safetensors({"a": entry(0, 4 * TERA, shape=(TERA,))}, bytes(4)), "overlap"),
    "negative": (safetensors({"a": entry(-4, 0)}), "not a range from 0"),
    "reversed": (safetensors({"a": entry(4, 0)}, bytes(4)), "not a range from 0"),
    "float offset": (safetensors({"a": entry(0, 4.0)}, bytes(4)), "not a range from 0"),
    "negative shape": (safetensors({"a": entry(0, 4, shape=(-1, -1))}, bytes(4)), "integers from"),
    "boolean shape": (safetensors({"a": entry(0, 4, shape=(True,))}, bytes(4)), "integers from"),
    "33 axes": (safetensors({"a": entry(0, 4, shape=(1,) * 33)}, bytes(4)), "up to 32"),
    "size": (safetensors({"a": entry(0, 4, shape=(2,))}, bytes(4)), "has 4 bytes; F32 .2. needs 8"),
    "wrapped": (safetensors({"a": entry(0, 0, shape=(2**32, 2**32))}), "has 0 bytes"),
    "dtype": (safetensors({"a": entry(0, 4, "F4")}, bytes(4)), "dtype 'F4', not one of"),
    "entry": (safetensors({"a": 3}), "lacks dtype"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), "not an object of texts"),
    "bool": (safetensors({"a": entry(0, 1, "BOOL")}, b"\2"), "other than 0 and 1"),
    "escapes": (safetensors({"\x1b[2J\n" * 500: 3}), "lacks dtype"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(tmp_path, case):
    data, message = SAFETENSORS[case]
    (tmp_path / "a.bin").write_bytes(data)
    refused(tmp_path / "a.bin", message)


def npy(descr="<f4", shape=(1,), data=bytes(4), order="False"):
    """An array in NumPy's format with any head."""
    head = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + data


def archive(*members, method=zipfile.ZIP_STORED):
    """A zip archive of (name, data)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return out.getvalue()


def patched(data, old, new):
    """`data` with the only or the last `old` replaced."""
    at = data.rindex(old)
    return data[:at] + new + data[at + len(old) :]


def repeated():
    """An archive whose directory lists one member twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("a.npy", npy())
        opened.filelist.append(opened.filelist[0])
    return out.getvalue()


def overlapping():
    """An archive whose two members are the same bytes under two names."""
    data = archive(("a.npy", npy()), ("b.npy", npy()))
    at = data.rindex(b"PK\1\2")
    return data[: at + 42] + struct.pack("<L", 0) + data[at + 46 :]


def bomb():
    """An archive of ten members of 200 MB of zeros."""
    head = npy(shape=(50_000_000,), data=b"")
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece, data, crc = bytes(2_000_000), engine.compress(head), zlib.crc32(head)
    for _ in range(100):
        data, crc = data + engine.compress(piece), zlib.crc32(piece, crc)
    data += engine.flush()
    out, directory = b"", b""
    for i in range(10):
        name, size = b"%d.npy" % i, len(head) + 200_000_000
        common = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, crc, len(data), size, len(name), 0)
        directory += b"PK\1\2\x14\0" + common + struct.pack("<HHHLL", 0, 0, 0, 0, len(out)) + name
        out += b"PK\3\4" + common + name + data
    return out + directory + struct.pack(
        "<4sHHHHLLH", b"PK\5\6", 0, 0, 10, 10, len(directory), len(out), 0
    )  # fmt: skip


def objects():
    """An array of objects whose pickle runs code."""
    out = io.BytesIO()
    np.savez(out, a=np.array([Attack()], object))
    return out.getvalue()


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("attacked",)


DEFLATED = zipfile.ZIP_DEFLATED
NPZ = {
    "no directory": (lambda: archive(("a.npy", npy()))[:-30], "no directory"),
    "objects": (objects, "holds Python objects"),
    "descr of an object": (lambda: archive(("a.npy", npy("|O"))), "holds Python objects"),
    "structured": (lambda: archive(("a.npy", npy([("a", "<f4")]))), "which no tensor has"),
    "text": (lambda: archive(("a.npy", npy("<U1"))), "which no tensor has"),
    "code in the head": (lambda: archive(("a.npy", npy(order="exit()"))), "damaged head"),
    "deep head": (lambda: archive(("a.npy", npy(shape="(" * 5000))), "damaged head"),
    "negative": (lambda: archive(("a.npy", npy(shape="(-1,)"))), "damaged head"),
    "terabytes": (lambda: archive(("a.npy", npy(shape=(TERA,)))), "the archive declares 4"),
    "deflated terabytes": (
        lambda: archive(("a.npy", npy(shape=(TERA,))), method=DEFLATED),
        "the archive declares 4",
    ),
    "checksum": (lambda: patched(archive(("a.npy", npy())), b"\0\0\0\0PK\1\2", b"\0\1\0\0PK\1\2"),
                 "other bytes than its checksum"),
    "twice": (repeated, "there twice"),
    "overlap": (overlapping, "not where the directory says|overlap"),
    "bomb": (bomb, "declare to be 2000.* when inflated"),
    "up": (lambda: archive(("../a.npy", npy())), "leads out of the archive"),
    "middle": (lambda: archive(("a/../../b.npy", npy())), "leads out of the archive"),
    "absolute": (lambda: archive(("/etc/a.npy", npy())), "leads out of the archive"),
    "drive": (lambda: archive(("C:a.npy", npy())), "leads out of the archive"),
    "backslash": (lambda: archive(("a\\b.npy", npy())), "leads out of the archive"),
    "method": (lambda: archive(("a.npy", npy()), method=zipfile.ZIP_LZMA), "packed by method 14"),
    "prefix": (lambda: b"PK\3\4" + archive(("a.npy", npy())), "directory should be"),
    "suffix": (lambda: archive(("a.npy", npy())) + b"x", "after the end"),
    "other": (lambda: archive(("a.txt", b"")), "a zip archive of"),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_npz(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    data, message = NPZ[case]
    (tmp_path / "a.npz").write_bytes(data())
    refused(tmp_path / "a.npz", message)
    assert not (tmp_path / "attacked").exists()


def test_a_deflated_member_that_lies_about_its_size(tmp_path):
    data = archive(("a.npy", npy(shape=(1000,), data=bytes(4000))), method=DEFLATED)
    real = struct.pack("<L", len(npy(shape=(1000,), data=bytes(4000))))
    wrong = struct.pack("<L", len(npy(shape=(1000,), data=bytes(3996))))
    (tmp_path / "a.npz").write_bytes(data.replace(real, wrong))
    refused(tmp_path / "a.npz", "the archive declares 3996")
    large = struct.pack("<L", 2**31)
    (tmp_path / "a.npz").write_bytes(data.replace(real, large))
    refused(tmp_path / "a.npz", "declares 2147483648 bytes in")


def ext(code, *content):
    """An extension of Flax."""
    return msgpack.packb({"a": msgpack.ExtType(code, msgpack.packb(content))})


FLAX = flax.serialization.msgpack_serialize({"a": np.arange(3.0)})
MSGPACK = {
    "cut": (FLAX[:-1], "longer than what follows|ends inside"),
    "tail": (FLAX + b"\0", "1 bytes follow its end"),
    "deep": (b"\x81\xa1a" * 100 + b"\0", "nested deeper than 64"),
    "deep lists": (b"\x81\xa1a" + b"\x91" * 10_000 + b"\0", "nested deeper than 64"),
    "long list": (b"\x81\xa1a\xdd" + b"\xff" * 4, "an? array of 4294967295"),
    "long map": (b"\xdf" + b"\xff" * 4, "a map of 4294967295"),
    "long text": (b"\x81\xdb" + b"\xff" * 4, "a str of 4294967295"),
    "long extension": (b"\x81\xa1a\xc9" + b"\xff" * 4 + b"\1", "a ext of 4294967295"),
    "text of 2 MB": (b"\x81\xa1a\xdb" + struct.pack(">L", 2_000_000) + bytes(2_000_000), "allowed"),
    "duplicate": (b"\x82\xa1a\1\xa1a\2", "'a' is there twice"),
    "two paths": (msgpack.packb({"a": {"b": 1}, "a/b": 2}), "two entries are named 'a/b'"),
    "key": (b"\x81\xc0\1", "neither text nor"),
    "not UTF-8": (b"\x81\xa1\xff\1", "not UTF-8"),
    "reserved": (b"\x81\xa1a\xc1", "0xc1 at 3 is not msgpack"),
    "terabytes": (ext(1, (TERA,), "float32", b"abcd"), "has 4 bytes; float32"),
    "negative": (ext(1, (-1, -4), "uint8", b"abcd"), "negative size"),
    "dtype": (ext(1, (1,), "object", b"abcdefgh"), "dtype 'object' is none"),
    "size": (ext(1, (3,), "float32", b"abcd"), "has 4 bytes"),
    "short": (ext(1, (1,), "float32"), "not shape, dtype and bytes"),
    "scalar": (ext(3, (1,), "uint8", b"a"), "a scalar has shape"),
    "complex": (ext(2, 1.0), "not two numbers"),
    "extension": (ext(7, 1), "extension 7 is none of Flax's"),
    "chunks": (msgpack.packb({"a": {"__msgpack_chunked_array__": True}}), "chunks of 'a'"),
    "number": (msgpack.packb({"a": 1})[:-1] + b"\xcf", "ends inside"),
}


@pytest.mark.parametrize("case", MSGPACK)
def test_msgpack(tmp_path, case):
    data, message = MSGPACK[case]
    (tmp_path / "a.msgpack").write_bytes(data)
    refused(tmp_path / "a.msgpack", message)


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


def test_torch_claims(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1).expand(TERA)}, path)
    refused(path, "more than the .* bytes of the file")
    torch.save({"w": torch.zeros(3).to_sparse()}, path)
    refused(path, "torch.sparse_coo float32 on cpu, not a plain tensor")
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


@pytest.mark.parametrize("count", [5_000_000, 900_000], ids=["axes", "nils"])
def test_long_lists_in_msgpack_are_read_in_linear_time(tmp_path, count):
    length = b"\xdd" + struct.pack(">I", count)
    if count > 1_000_000:  # one array of very many axes
        array = b"\x93" + length + b"\x01" * count + b"\xa7float32\xc4\x00"
        content = b"\xc9" + struct.pack(">Ib", len(array), 1) + array
    else:
        content = length + b"\xc0" * count
    path = tmp_path / "x.msgpack"
    path.write_bytes(b"\x81\xa1a" + content)
    begin = time.process_time()
    with contextlib.suppress(containers.BrokenFile), containers.opened(path) as opened:
        assert not opened.tensors  # a list of nothing is no tensor
    assert time.process_time() - begin < 5
