"""PyTorch's zip archives, written without PyTorch: a pickle of names and sizes, then the tensors.

The layout is that of `torch.save`: `data.pkl`, `version`, `byteorder`, and `data/0`, `data/1`, ...
"""

import math
import struct
import zipfile
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO

from parity.containers.info import Info
from parity.containers.values import Values
from parity.containers.zip_writing import aligned

ROOT = "archive"
STORAGES = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool", "complex64": "ComplexFloat", "complex128": "ComplexDouble",
}  # fmt: skip
UNTYPED = (
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
"""Dtypes of tensors that have no class of storage; PyTorch keeps their bytes and the dtype."""


def write_torch(out: BinaryIO, tensors: Mapping[str, Info], values: Values) -> None:
    """A dict of tensors, one at a time. Raises `ValueError` for a dtype that PyTorch lacks."""
    pickled = b"\x80\x02}(" + b"".join(
        _text(name) + _tensor(name, info, key)
        for key, (name, info) in enumerate(tensors.items())
    )  # fmt: skip
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("data.pkl", pickled + b"u."), ("byteorder", b"little"), ("version", b"3\n"),
        ):  # fmt: skip
            with aligned(archive, out, f"{ROOT}/{name}") as member:
                member.write(data)
        with values.stream(tensors) as pieces:
            for key, (_, parts) in enumerate(groupby(pieces, itemgetter(0))):
                with aligned(archive, out, f"{ROOT}/data/{key}") as member:
                    for _, piece in parts:
                        member.write(piece)


def _tensor(name: str, info: Info, key: int) -> bytes:
    """The call that makes a tensor of a storage, its offset, sizes and strides."""
    dtype = b""
    if info.dtype in STORAGES:
        kind, count, version = f"{STORAGES[info.dtype]}Storage", math.prod(info.shape), 2
    elif info.dtype in UNTYPED:
        kind, count, version = "UntypedStorage", info.nbytes, 3
        dtype = _global("torch", info.dtype)
    else:
        raise ValueError(f"{name!r} is {info.dtype}, which PyTorch does not have: cast it")
    module = "torch" if version == 2 else "torch.storage"
    storage = _tuple([
        _text("storage"), _global(module, kind), _text(str(key)), _text("cpu"), _integer(count)
    ])  # fmt: skip
    hooks = _global("collections", "OrderedDict") + b")R"
    strides = [math.prod(info.shape[i + 1 :]) for i in range(len(info.shape))]
    arguments = [
        storage + b"Q", _integer(0), _tuple(map(_integer, info.shape)),
        _tuple(map(_integer, strides)), b"\x89", hooks, dtype,
    ]  # fmt: skip
    return _global("torch._utils", f"_rebuild_tensor_v{version}") + _tuple(arguments) + b"R"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(parts: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(parts) + b"t"
