"""Hostile and damaged npz files: refused by name, before memory is taken and code is run."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

from tests.parity.hostile_files import TERA, archive, npy, refused


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


def zip64():
    """An archive whose member claims 2**62 bytes in the field for large files."""
    data, size = archive(("a.npy", npy())), struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    at, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
    entry = bytearray(data[at:end]) + size
    entry[20:28], entry[30:32] = b"\xff" * 8, struct.pack("<H", len(size))
    tail = data[end : end + 12] + struct.pack("<L", len(entry)) + data[end + 16 :]
    return data[:at] + entry + tail


def zip64_end():
    """An archive whose second end claims 2**60 members."""
    data = archive(("a.npy", npy()))
    at = data.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<LL", data, at + 12)
    end = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2**60, 2**60, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    old = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, start, 0)
    return data[:at] + end + locator + old


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
    "deep head": (lambda: archive(("a.npy", npy(shape="(" * 500))), "damaged head"),
    "head of 10 MB": (
        lambda: archive(("a.npy", npy("<f4" + " " * 10_000_000, version=2)), method=DEFLATED),
        "declares a head of 10000058 bytes; at most 1000",
    ),
    "many members": (
        lambda: archive(*((f"{i}.npy", b"") for i in range(10_001))),
        "declares 10001 members .* at most 10000",
    ),
    "zip64": (zip64, "overlap"),
    "end of zip64": (zip64_end, "declares 1152921504606846976 members"),
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
