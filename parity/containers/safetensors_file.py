"""safetensors: a JSON header with offsets, then the tensors; own parser, streaming writer."""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from parity.containers.container import FileContainer
from parity.containers.files import File, parsed
from parity.containers.info import BITS, DTYPES, MOST_AXES, MOST_TENSORS, Info
from parity.containers.values import Values
from vit_spec.strict_json import LIMIT, shown

CODES = {
    **{name[0].upper() + name[3 + (name[0] == "u") :]: name for name in BITS},
    "BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
NAMES = {name: code for code, name in CODES.items()}
METADATA = "__metadata__"


class SafetensorsFile(FileContainer):
    """A safetensors file. Raises `BrokenFile`."""

    kind = "safetensors"

    def __init__(self, file: File) -> None:
        super().__init__(file)
        start, header = _header(file)
        texts = header.pop(METADATA, {})
        if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
            raise file.broken(f"{METADATA} is not an object of texts", "write it again")
        if len(header) > MOST_TENSORS:
            raise file.broken(
                f"it declares {len(header)} tensors; at most {MOST_TENSORS} are read", "split it"
            )
        self.metadata = texts
        self._places: dict[str, int] = {}
        ranges = []
        for name, entry in header.items():
            info, (begin, end) = _entry(file, name, entry)
            ranges.append((begin, end, name))
            self.tensors[name] = info
            self._places[name] = start + begin
        _check_ranges(file, sorted(ranges), start)

    def _read(self, name: str) -> np.ndarray:
        return self._file.array(self.tensors[name], self._places[name])


def _header(file: File) -> tuple[int, dict[str, Any]]:
    if file.size < 8:
        raise file.broken(f"{file.size} bytes are no safetensors file")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > LIMIT:
        raise file.broken(f"a header of {length} bytes is more than the {LIMIT} allowed")
    if length > file.size - 8:
        raise file.broken(
            f"it ends early: it has {file.size} bytes, and its header alone ends at {8 + length}"
        )
    text = file.read(8, length)
    if not text.startswith(b"{"):
        raise file.broken("its header does not start with {")
    return 8 + length, parsed(file.path, text, "the header")


def _entry(file: File, name: str, entry: Any) -> tuple[Info, tuple[int, int]]:
    """A tensor of the header, checked by itself."""
    who = f"the tensor {shown(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise file.broken(f"{who} lacks dtype, shape or data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise file.broken(
            f"{who} has dtype {shown(code)}, not one of {', '.join(CODES)}", "cast it and write"
        )
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise file.broken(f"{who} has shape {shown(shape)}, not up to {MOST_AXES} integers from 0")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise file.broken(f"{who} has data_offsets {shown(offsets)}, not a range from 0")
    info = Info.of(CODES[code], shape)
    if info.nbytes != offsets[1] - offsets[0]:
        raise file.broken(
            f"{who} has {offsets[1] - offsets[0]} bytes; {code} {shown(shape)} needs {info.nbytes}"
        )
    return info, (offsets[0], offsets[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _check_ranges(file: File, ranges: list[tuple[int, int, str]], start: int) -> None:
    """The tensors cover the rest of the file, from `start` on, once."""
    declared = start + max((end for _, end, _ in ranges), default=0)
    if declared > file.size:
        raise file.broken(
            f"it ends early: it has {file.size} bytes, and its header says {declared}"
        )
    end, before = 0, "the header"
    for begin, stop, after in [*ranges, (file.size - start, 0, "the end of the file")]:
        if begin != end:
            what = "overlap" if begin < end else f"leave {begin - end} bytes between them"
            raise file.broken(f"{shown(before)} and {shown(after)} {what}")
        end, before = stop, after


def write_safetensors(
    out: BinaryIO, tensors: Mapping[str, Info], values: Values, metadata: Mapping[str, str]
) -> None:
    """The header, then the tensors one by one: wide dtypes first, so that all are aligned.

    Raises `ValueError` for a dtype or a name that safetensors does not have.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    begin = 0
    for name in order:
        info = tensors[name]
        if info.dtype not in NAMES or name == METADATA:
            raise ValueError(
                f"{name!r} ({info.dtype}) cannot be in a safetensors file: its dtypes are "
                f"{', '.join(NAMES)}, and {METADATA} is no name"
            )
        offsets = [begin, begin := begin + info.nbytes]
        header[name] = {
            "dtype": NAMES[info.dtype], "shape": list(info.shape), "data_offsets": offsets
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (math.ceil(len(text) / 8) * 8 - len(text))
    if len(text) > LIMIT:
        raise ValueError(f"the header has {len(text)} bytes; at most {LIMIT} are read back")
    out.write(struct.pack("<Q", len(text)) + text)
    with values.stream(order) as pieces:
        for _, piece in pieces:
            out.write(piece)
