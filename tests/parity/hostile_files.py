"""Hostile files, made by hand, and what is asked of every reader of them."""

import io
import json
import struct
import time
import tracemalloc
import zipfile

import pytest

from parity import containers

TERA = 2**40


def refused(path, message, *, traced=True):
    """`BrokenFile` with file, `message` and remedy, in a second and, `traced`, in little memory.

    Tracing takes many times as long as reading where there are very many values.
    """
    if traced:
        tracemalloc.start()
    begin = time.process_time()
    try:
        with (
            pytest.raises(containers.BrokenFile, match=message) as caught,
            containers.opened(path) as opened,
        ):
            for name in opened.tensors:
                opened.read(name)
        assert time.process_time() - begin < 1
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
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


def npy(descr="<f4", shape=(1,), data=bytes(4), order="False", version=1):
    """An array in NumPy's format with any head."""
    head = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<L", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + data


def archive(*members, method=zipfile.ZIP_STORED):
    """A zip archive of (name, data)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return out.getvalue()
