"""The head of an array in NumPy's format: version, dtype, order and shape."""

import ast
import io
import re
import struct
from dataclasses import dataclass

import numpy as np

from parity.containers.files import File
from parity.containers.info import DTYPES, MOST_AXES, Info
from vit_spec.strict_json import shown

MAGIC = b"\x93NUMPY"
LIMIT = 1_000  # of 32 axes 700
MOST = 12 + LIMIT
PLAIN = re.compile(r"[A-Za-z0-9_'\"<>|=(){},: \n\[\]]*")
RAW = "|V2"  # how NumPy stores bfloat16
AGAIN = "load it where you trust it and save its arrays of numbers again with numpy.savez"


@dataclass(frozen=True)
class Head:
    """What precedes the values: their tensor, how they are stored, and the length of the head."""

    info: Info
    stored: np.dtype
    fortran: bool
    length: int


def read_head(file: File, name: str, start: bytes, size: int) -> Head:
    """The head at the start of a member of `size` bytes. Raises `BrokenFile`."""
    who = f"the array {shown(name)}"
    version = tuple(start[6:8])
    if start[:6] != MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        raise file.broken(f"{who} is not in NumPy's format")
    wide = version != (1, 0)
    if len(start) < 12:
        raise file.broken(f"{who} is cut short")
    (length,) = struct.unpack_from("<L" if wide else "<H", start, 8)
    begin = 12 if wide else 10
    if length > LIMIT or begin + length > len(start):
        raise file.broken(f"{who} declares a head of {length} bytes; at most {LIMIT} are allowed")
    try:
        text = start[begin : begin + length].decode("utf-8" if version == (3, 0) else "latin1")
        if not PLAIN.fullmatch(text) or len(re.findall(r"[(\[{]", text)) > 40:
            raise ValueError("it is no plain dictionary")
        content = ast.literal_eval(text)
        stored, fortran, shape = content["descr"], content["fortran_order"], content["shape"]
        fields = set(content) == {"descr", "fortran_order", "shape"}
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise file.broken(f"{who} has a damaged head ({str(error)[:80]})") from error
    if (
        not fields or type(fortran) is not bool or not isinstance(shape, tuple)
        or len(shape) > MOST_AXES or any(type(s) is not int or s < 0 for s in shape)
    ):  # fmt: skip
        raise file.broken(f"{who} has a damaged head: {shown(text.strip())}")
    if isinstance(stored, str) and "O" in stored:
        raise file.broken(f"{who} holds Python objects, whose pickles could run code", AGAIN)
    dtype, kept = _dtype(file, who, stored)
    info = Info.of(dtype, shape)
    if info.nbytes != size - begin - length:
        raise file.broken(
            f"{who} is {dtype} {shown(shape)}, {info.nbytes} bytes, and the archive declares "
            f"{size - begin - length}"
        )
    return Head(info, kept, fortran, begin + length)


def _dtype(file: File, who: str, stored: object) -> tuple[str, np.dtype]:
    """The tensor's dtype and the one of its bytes."""
    if stored in (RAW, "<V2", ">V2", "V2"):
        return "bfloat16", DTYPES["bfloat16"]
    if isinstance(stored, str) and re.fullmatch(r"[<>|=]?[a-z?]\d{0,2}", stored):
        try:
            dtype = np.dtype(stored)
        except TypeError:
            dtype = None
        if dtype is not None and dtype.name in DTYPES:
            return dtype.name, dtype
    raise file.broken(f"{who} has dtype {shown(stored)}, which no tensor has", AGAIN)


def head(info: Info) -> bytes:
    """The head of a tensor, `numpy.save`'s own but for bfloat16. Raises `ValueError`."""
    dtype = DTYPES[info.dtype]
    if info.dtype != "bfloat16" and dtype.isbuiltin != 1:
        raise ValueError(
            f"{info.dtype} cannot be in NumPy's format, which has no name for it: "
            "write safetensors, or cast"
        )
    descr = RAW if info.dtype == "bfloat16" else np.lib.format.dtype_to_descr(dtype)
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": descr, "fortran_order": False, "shape": info.shape}
    )
    return out.getvalue()
