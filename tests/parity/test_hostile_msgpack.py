"""Hostile and damaged msgpack files: refused by name, before memory is taken."""

import contextlib
import struct
import time

import flax.serialization
import msgpack
import numpy as np
import pytest

from parity import containers
from tests.parity.hostile_files import TERA, refused


def ext(code, *content):
    """An extension of Flax."""
    return msgpack.packb({"a": msgpack.ExtType(code, msgpack.packb(content))})


KEYS = [b"\xa7%07d\xc0" % i for i in range(200_000)]
AXES = msgpack.packb(([0] * 32, "float32", b""))
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
    "many keys": (b"\xdf" + struct.pack(">L", 200_000) + b"".join(KEYS), "more than 100000 values"),
    "many axes": (
        msgpack.packb({"a": [msgpack.ExtType(1, AXES)] * 4000}),
        "more than 100000 values",
    ),
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
    refused(tmp_path / "a.msgpack", message, traced="many" not in case)


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
