"""Flax's msgpack: nested dicts of arrays, flattened with '/'."""

import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from parity.containers.container import FileContainer, left_out
from parity.containers.files import File, frozen
from parity.containers.info import DTYPES, Info
from parity.containers.msgpack_scan import DEPTH, Place, scan
from parity.containers.values import Values, pieces
from vit_spec.strict_json import shown

CHUNKED = "__msgpack_chunked_array__"
CHUNK = 1 << 30  # Flax's own
Source = np.ndarray | list[Place]  # a number in the file, or where the tensor's parts are


class MsgpackFile(FileContainer):
    """A file of `flax.serialization`. Raises `BrokenFile`."""

    kind = "msgpack"

    def __init__(self, file: File) -> None:
        super().__init__(file)
        root = scan(file)
        if not isinstance(root, dict):
            raise file.broken(f"it holds {type(root).__name__}, not a dict of arrays")
        self._sources: dict[str, Source] = {}
        others: dict[str, None] = {}
        for name, leaf in _leaves(file, root, ()):
            if name in self.tensors or name in others:
                raise file.broken(f"two entries are named {shown(name)}", "rename one")
            if isinstance(leaf, tuple):
                self.tensors[name], self._sources[name] = leaf
            else:
                others[name] = None
        self.metadata = left_out([*others])

    def _read(self, name: str) -> np.ndarray:
        info, source = self.tensors[name], self._sources[name]
        if isinstance(source, np.ndarray):
            return source
        if len(source) == 1:
            return self._file.array(info, source[0].offset)
        flat, start = np.empty(info.nbytes, np.uint8), 0
        for place in source:
            for piece in self._file.pieces(place.offset, place.info.nbytes):
                flat[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
                start += len(piece)
        array = flat.view(DTYPES[info.dtype]).reshape(info.shape)
        self._file.check_values(array)
        return frozen(array)


def _leaves(file: File, node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Names and tensors as (info, source); `None` for what is no tensor."""
    if isinstance(node, dict) and CHUNKED in node:
        yield "/".join(path), _chunked(file, node, "/".join(path))
    elif isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _leaves(file, value, (*path, str(key)))
    elif isinstance(node, Place):
        yield "/".join(path), (node.info, [node])
    elif isinstance(node, bool | int | float | np.complex128):
        array = frozen(np.asarray(node))  # integers beyond int64 become uint64
        yield "/".join(path), (Info.of(array.dtype, ()), array)
    else:
        yield "/".join(path), None


def _chunked(file: File, node: dict[str, Any], name: str) -> tuple[Info, Source]:
    """The tensor that Flax split into flat chunks."""
    chunks, shape = _listed(node.get("chunks")), _listed(node.get("shape"))
    if (
        not chunks or shape is None or any(type(s) is not int for s in shape)
        or not all(isinstance(c, Place) and len(c.info.shape) == 1 for c in chunks)
        or len({c.info.dtype for c in chunks}) != 1
    ):  # fmt: skip
        raise file.broken(f"the chunks of {shown(name)} are incomplete")
    try:
        info = Info.of(chunks[0].info.dtype, shape)
    except ValueError as error:
        raise file.broken(f"{shown(name)}: {error}") from error
    if info.nbytes != sum(c.info.nbytes for c in chunks):
        raise file.broken(f"the chunks of {shown(name)} are not as many bytes as its shape needs")
    return info, chunks


def _listed(node: Any) -> list[Any] | None:
    """The values of Flax's {"0": ..., "1": ...}, in order."""
    if not isinstance(node, dict) or set(node) != {str(i) for i in range(len(node))}:
        return None
    return [node[str(i)] for i in range(len(node))]


def write_msgpack(out: BinaryIO, tensors: Mapping[str, Info], values: Values) -> None:
    """What `flax.serialization.msgpack_restore` reads: dicts nested at each '/' of the names.

    Raises `ValueError` for names that cannot be nested.
    """
    tree: dict[str, Any] = {}
    for name, info in tensors.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} is below {key!r}, which is a tensor: rename one")
        if last in node or CHUNKED in (*path, last) or len(path) >= DEPTH - 2:
            raise ValueError(f"{name!r} cannot be nested beside the other names: rename it")
        node[last] = (name, info)
    _write(out, tree, values)


def _write(out: BinaryIO, node: Any, values: Values) -> None:
    if isinstance(node, dict):
        out.write(_length(len(node), (0x80, 15), (0xDE, 0xDF)))
        for key, value in node.items():
            out.write(_text(key))
            _write(out, value, values)
        return
    name, info = node
    flat = values.flat(name)
    if info.nbytes <= CHUNK:
        _write_array(out, info, flat)
        return
    size = DTYPES[info.dtype].itemsize
    step = max(1, CHUNK // size) * size
    count = math.ceil(info.nbytes / step)
    out.write(b"\x83" + _text(CHUNKED) + b"\xc3" + _text("shape"))
    out.write(_length(len(info.shape), (0x80, 15), (0xDE, 0xDF)))
    for i, axis in enumerate(info.shape):
        out.write(_text(str(i)) + _integer(axis))
    out.write(_text("chunks") + _length(count, (0x80, 15), (0xDE, 0xDF)))
    for i in range(count):
        part = flat[i * step : (i + 1) * step]
        out.write(_text(str(i)))
        _write_array(out, Info.of(info.dtype, [len(part) // size]), part)


def _write_array(out: BinaryIO, info: Info, flat: memoryview) -> None:
    """Extension 1: shape, dtype and bytes."""
    head = b"\x93" + _length(len(info.shape), (0x90, 15), (0xDC, 0xDD))
    head += b"".join(map(_integer, info.shape)) + _text(info.dtype)
    head += b"\xc6" + struct.pack(">I", info.nbytes)
    out.write(b"\xc9" + struct.pack(">Ib", len(head) + info.nbytes, 1) + head)
    for piece in pieces(flat):
        out.write(piece)


def _length(count: int, small: tuple[int, int], wide: tuple[int, int]) -> bytes:
    first, most = small
    if count <= most:
        return bytes([first | count])
    if count <= 0xFFFF:
        return bytes([wide[0]]) + struct.pack(">H", count)
    return bytes([wide[1]]) + struct.pack(">I", count)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _length(len(raw), (0xA0, 31), (0xDA, 0xDB)) + raw


def _integer(value: int) -> bytes:
    return bytes([value]) if value < 128 else b"\xcf" + struct.pack(">Q", value)
