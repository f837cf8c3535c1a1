"""The arrays in the folder `state` of a step, read one at a time by TensorStore.

Orbax stands on it. All that is declared is checked against the files before it decodes a value.
"""

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from parity.containers.files import BrokenFile, broken
from parity.containers.info import DTYPES
from parity.orbax.digests import digest
from parity.orbax.metadata import MOST_ZARRAY, ZARRAY, Declared, read_declared, read_metadata
from parity.orbax.places import MANIFEST, Files, Tree
from parity.orbax.zstandard import HEAD, fits
from vit_spec.names import printable
from vit_spec.strict_json import shown

MOST_CHUNKS = 100_000
MOST_PACKED = {"zstd": 1 << 15, "gzip": 1032}
"""Bytes of one: a block of Zstandard is 4 bytes or more, and stands for 128 KiB (RFC 8878)."""


class Stored:
    """Arrays of zarr below a folder; `keys` are their places by name. Raises `BrokenFile`."""

    def __init__(self, folder: Path, keys: Mapping[str, str], *, in_tree: bool) -> None:
        self._folder, self._keys = folder, keys
        if in_tree is not (folder / MANIFEST).is_file():
            raise self._broken(f"what it says of use_ocdbt and {MANIFEST} do not fit")
        try:
            self._values: Files | Tree = (Tree if in_tree else Files)(folder)
        except (BrokenFile, MemoryError):
            raise
        except Exception as error:
            raise self._broken(f"its tree of values is not read: {_said_by(error)}") from error
        self.declared = {name: self._declared(name) for name in keys}

    def check(self) -> None:
        """Raises `BrokenFile` unless all values are there, and can be in so many bytes."""
        for name, array in self.declared.items():
            shape = array.info.shape
            if any(c > s for c, s in zip(array.chunks, shape, strict=True)):  # one is read whole
                raise self._broken(f"{name} is {shape} in pieces of {array.chunks}")
            if (count := math.prod(_counts(array))) > MOST_CHUNKS:
                raise self._broken(f"{name} is {shape} in {count} pieces")
            for index in _pieces(array):
                self._check_piece(name, _key(index), array)

    def values(self, name: str) -> np.ndarray:
        """The values of an array."""
        array = self.declared[name]
        found = self._unpacked(name, array) if array.packed == "gzip" else self._read(name)
        if found.dtype != DTYPES[array.info.dtype] or found.shape != array.info.shape:
            raise self._broken(f"{name} reads as {found.dtype} {found.shape}")
        return found

    def _read(self, name: str) -> np.ndarray:
        store = {**self._values.store}
        store["path"] = f"{store.get('path', '')}{self._keys[name]}/"
        spec = {"driver": "zarr", "kvstore": store}
        try:
            opened = ts.open(spec, context=_context(), open=True, read=True).result()
            return np.asarray(opened.read().result())
        except MemoryError:
            raise
        except Exception as error:
            raise self._broken(f"{name} is not read: {_said_by(error)}") from error

    def _unpacked(self, name: str, array: Declared) -> np.ndarray:
        """What gzip has packed, of which TensorStore would decode any amount."""
        found = np.empty(array.info.shape, DTYPES[array.info.dtype])
        for index in _pieces(array):
            place = self._values.find(f"{self._keys[name]}/{_key(index)}")
            size = array.chunk_bytes
            try:
                stream = zlib.decompressobj(wbits=31)
                piece = stream.decompress(place.read() if place else b"", size + 1)
            except zlib.error as error:
                raise self._broken(f"a piece of {name} is not read: {error}") from error
            if len(piece) != size:
                raise self._broken(f"a piece of {name} is not of {size} bytes")
            starts = [i * c for i, c in zip(index, array.chunks, strict=True)]
            part = tuple(slice(s, s + c) for s, c in zip(starts, array.chunks, strict=True))
            inside = tuple(slice(0, n) for n in found[part].shape)
            found[part] = np.frombuffer(piece, found.dtype).reshape(array.chunks)[inside]
        return found

    def _declared(self, name: str) -> Declared:
        key = f"{self._keys[name]}/{ZARRAY}"
        place = self._values.find(key)
        if place is None or place.size > MOST_ZARRAY:
            raise self._broken(f"it has no {shown(key)} of at most {MOST_ZARRAY} bytes")
        return read_declared(place.file, place.read(), key)

    def _check_piece(self, name: str, index: str, array: Declared) -> None:
        place, size = self._values.find(f"{self._keys[name]}/{index}"), array.chunk_bytes
        if place is None:
            raise self._broken(f"the piece {index} of {name} is not there")
        least, most = size, size
        if array.packed:
            least, most = size // MOST_PACKED[array.packed], size + size // 128 + 1000
        if not least <= place.size <= most:
            what = f"{place.size} bytes are said to hold the {size} of a piece of {name}"
            raise self._broken(what)
        if array.packed == "zstd" and not fits(place.read(0, HEAD)):
            raise self._broken(f"a piece of {name} is packed in no usual way")

    def _broken(self, what: str) -> BrokenFile:
        return broken(self._folder, what)


class Arrays(Stored):
    """The moving average of a step, or else its parameters. Raises `BrokenFile`."""

    def __init__(self, folder: Path) -> None:
        self.saved = saved = read_metadata(folder)
        keys = {name: f"{saved.part}.{name}" for name in saved.names}
        super().__init__(folder, keys, in_tree=saved.in_tree)

    def read(self, name: str, expected: str) -> np.ndarray:
        """The values of an array, which must have that digest."""
        array = self.values(name)
        if digest(array) != expected:
            raise self._broken(f"{name} is not as saved")
        return array


def _counts(array: Declared) -> list[int]:
    """How many pieces there are along each axis."""
    return [-(-s // c) for s, c in zip(array.info.shape, array.chunks, strict=True)]


def _pieces(array: Declared) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, _counts(array)))


def _key(index: tuple[int, ...]) -> str:
    """The name of a piece."""
    return ".".join(map(str, index)) or "0"


@cache
def _context() -> Any:
    """One thing at a time, and nothing is kept."""
    one = {"limit": 1}
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": one,
            "file_io_concurrency": one,
        }
    )


def _said_by(error: Exception) -> str:
    """The first line of TensorStore's message, printable and short."""
    return printable(f"{type(error).__name__}: {error}".split("\n")[0])[:300]
