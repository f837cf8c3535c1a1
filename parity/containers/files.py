"""A file opened for reading, with every range checked against its size, and its one error."""

import contextlib
import mmap
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.info import DTYPES, Info
from vit_spec import strict_json
from vit_spec.links import leads_out
from vit_spec.strict_json import LIMIT

AGAIN = "it is damaged or cut short: copy, download or convert it again"
PIECE = 1 << 22
CHECKED = 1 << 20  # at a time, so that it stays in the processor's cache
POPULATE = 22  # Linux's MADV_POPULATE_READ
CONFIG_LIMIT = 10_000_000
REWRITE = "write it again, or download it again"


class BrokenFile(ValueError):
    """A damaged or hostile file: names the file, what is wrong, and what to do."""


def broken(path: Path, what: str, do: str = AGAIN) -> BrokenFile:
    """The error for `path`."""
    return BrokenFile(f"{path}: {what}; {do}")


def parsed(path: Path, text: bytes, what: str, limit: int = LIMIT) -> dict[str, Any]:
    """A JSON object, read as `vit_spec.strict_json` does. Raises `BrokenFile`."""
    try:
        return strict_json.loads(text, limit=limit)
    except ValueError as error:
        raise broken(path, f"{what} {error}", REWRITE) from error


def beside(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any] | None:
    """The JSON object in a file beside the weights, or None if there is no such file.

    Raises `BrokenFile`, also for what is no file, and for a link that leads out of the folder.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise broken(path, "it is not a regular file", "put the file there, or remove it")
    check_link(path)
    with reading(path) as file:
        if file.size > limit:
            raise file.broken(f"it has {file.size} bytes, more than the {limit} allowed", REWRITE)
        return parsed(path, file.read(0, file.size), "the file", limit)


def check_link(path: Path) -> None:
    """Raises `BrokenFile` for a link that leads out of its folder."""
    if leads_out(path):
        raise broken(
            path, "it is a link that leads out of its folder",
            "do not use it; or put the file itself into the folder",
        )  # fmt: skip


class File:
    """A regular file. Raises `FileNotFoundError`, `BrokenFile` for a device, a pipe or a socket."""

    def __init__(self, path: Path):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        if not path.is_file():
            raise broken(path, "it is not a regular file", "give a file or a directory")
        self.path = path
        self._handle = path.open("rb", buffering=0)
        self.size = os.fstat(self._handle.fileno()).st_size

    def broken(self, what: str, do: str = AGAIN) -> BrokenFile:
        """The error for this file."""
        return broken(self.path, what, do)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`. Raises `BrokenFile` if the file does not have them."""
        self._check(offset, count)
        found = b""
        while len(found) < count:  # one call reads at most 2 GiB
            piece = os.pread(self._handle.fileno(), count - len(found), offset + len(found))
            if not piece:
                raise self.broken("it became shorter while it was read")
            found = found + piece if found else piece
        return found

    def pieces(self, offset: int, count: int, step: int = PIECE) -> Iterator[bytes]:
        """The same bytes in pieces of `step`."""
        for start in range(0, count, step):
            yield self.read(offset + start, min(step, count - start))

    def check_crc(self, offset: int, count: int, crc: int, what: str) -> None:
        """Raises `BrokenFile` if the bytes do not have that CRC-32."""
        self._check(offset, count)
        found, buffer, end = 0, memoryview(bytearray(min(count, CHECKED))), offset + count
        while offset < end:
            size = os.preadv(self._handle.fileno(), [buffer[: end - offset]], offset)
            if not size:
                raise self.broken("it became shorter while it was read")
            found, offset = zlib.crc32(buffer[:size], found), offset + size
        if found != crc:
            raise self.broken(f"{what} has other bytes than its checksum says")

    def array(self, info: Info, offset: int) -> np.ndarray:
        """A tensor in C order at `offset`: mapped, or copied if misaligned; read only."""
        self._check(offset, info.nbytes)
        dtype = DTYPES[info.dtype]
        if info.nbytes == 0:
            return frozen(np.empty(info.shape, dtype))
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        length = offset - start + info.nbytes
        try:
            mapped = mmap.mmap(self._handle.fileno(), length, access=mmap.ACCESS_READ, offset=start)
        except ValueError as error:  # shorter than a moment ago
            raise self.broken("it became shorter while it was read") from error
        if sys.platform == "linux" and length >= PIECE:
            with contextlib.suppress(OSError):  # older than 5.14
                mapped.madvise(POPULATE)
        array = np.ndarray(info.shape, dtype, buffer=mapped, offset=offset - start)
        self.check_values(array)
        return array if array.flags.aligned else frozen(array.copy())

    def check_values(self, array: np.ndarray) -> None:
        """Raises `BrokenFile` for booleans that are neither 0 nor 1."""
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise self.broken("a tensor of booleans has bytes other than 0 and 1")

    def close(self) -> None:
        """Ends reading; tensors that were read stay valid."""
        self._handle.close()

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.broken(
                f"it declares {count} bytes at {offset} and has {self.size} bytes in all"
            )


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, read only from now on."""
    array.flags.writeable = False
    return array


@contextlib.contextmanager
def reading(path: Path) -> Iterator[File]:
    """A `File` that is closed after the block."""
    file = File(path)
    try:
        yield file
    finally:
        file.close()
