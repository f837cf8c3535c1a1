"""Hostile and damaged safetensors files: refused by name, before memory is taken."""

import json

import pytest

from parity.containers.info import MOST_TENSORS
from tests.parity.hostile_files import TERA, entry, refused, safetensors

EMPTY = b'{"x": {"dtype": "F32", "shape": [0, 0, 0, 0, 0], "data_offsets": [0, 0]},'
SAFETENSORS = {
    "cut": (b"\x08\0\0", "no known kind"),
    "header beyond the file": (
        safetensors({}, length=99),
        "ends early: it has 10 bytes, and its header alone ends at 107;",
    ),
    "header of 17 MB": (safetensors({}, length=17_000_000), "more than the 16000000 allowed"),
    "header of terabytes": (safetensors({}, length=TERA), "more than the 16000000 allowed"),
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
    "cut short": (
        safetensors({"a": entry(0, 4)}, bytes(3)),
        "ends early: it has 72 bytes, and its header says 73;",
    ),
    "terabytes": (
        safetensors({"a": entry(0, 4 * TERA, shape=(TERA,))}, bytes(4)),
        "ends early: it has 97 bytes, and its header says 4398046511197;",
    ),
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
    "two million lists": (safetensors(b'{"a":[' + b"[]," * 2_000_000 + b"0]}"), "4000002 values"),
    "two million deep": (safetensors(b'{"a":' + b"[" * 2_000_000), "about 2000001 values"),
    "million tensors": (safetensors(EMPTY * 100_000), "about 1200000 values"),
    "many tensors": (
        safetensors(b"{%b}" % b",".join(b'"%d":1' % i for i in range(MOST_TENSORS + 1))),
        "declares 50001 tensors; at most 50000",
    ),
    "wide characters": (
        safetensors(b'{"a": "\xf0\x9f\x98\x80%b"}' % (b"x" * 200_000)),
        "lacks dtype",
    ),
    "infinite": (safetensors(b'{"a": 1e999}'), "'1e999' is too large"),
    "escapes": (safetensors({"\x1b[2J\n" * 500: 3}), "lacks dtype"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(tmp_path, case):
    data, message = SAFETENSORS[case]
    (tmp_path / "a.bin").write_bytes(data)
    refused(tmp_path / "a.bin", message)
