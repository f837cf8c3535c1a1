"""Writes a container of any kind, tensor by tensor, beside its place, and then renames it."""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.info import Info
from parity.containers.msgpack_file import write_msgpack
from parity.containers.npz_file import write_npz
from parity.containers.safetensors_file import write_safetensors
from parity.containers.torch_writing import write_torch
from parity.containers.values import Values
from vit_spec.checkpoint import replacing
from vit_spec.names import unknown_name

KINDS = ("safetensors", "npz", "msgpack", "torch")
FLOW = 1 << 24
_WRITERS = {"npz": write_npz, "msgpack": write_msgpack, "torch": write_torch}


def write(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Info],
    values: Callable[[str], np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file; what was there before stays whole until the new one is on the disk.

    Args:
        kind: one of `KINDS`. All have a few tensors in memory at a time.
        tensors: what the file will hold, in this order where the kind has one.
        values: gives the values of a name, as declared in `tensors`.
        metadata: texts, for which only safetensors has a place.

    Raises:
        ValueError: an unknown kind; values other than declared; a name or a dtype that the kind
            cannot hold; metadata that it has no place for.
        OSError: the disk refuses.
    """
    path = Path(path)
    if kind not in KINDS:
        raise ValueError(unknown_name("kind of container", kind, KINDS))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file in it")
    if metadata and kind != "safetensors":
        raise ValueError(f"{kind} has no place for metadata: leave it out, or write safetensors")
    for name, info in tensors.items():
        if info != Info.of(info.dtype, info.shape):
            raise ValueError(f"{name!r} is declared {info}, whose nbytes is not what it needs")
    checked = Values(tensors, values)
    with replacing(path) as temporary, flowing(temporary) as out:
        if kind == "safetensors":
            write_safetensors(out, tensors, checked, metadata or {})
        else:
            _WRITERS[kind](out, tensors, checked)
    flush_directory(path.parent)


def flowing(path: Path) -> io.BufferedWriter:
    """A new file that the disk writes while more of it is computed."""
    return io.BufferedWriter(_Flowing(path, "wb"))


class _Flowing(io.FileIO):
    """A file that the disk writes while the next tensors are computed, not all of it at the end."""

    _waiting = 0

    def write(self, data: Any, /) -> int:
        """Starts writing out every few megabytes, where the system can be told to."""
        count = super().write(data)
        self._waiting += count
        if self._waiting >= FLOW and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # Linux starts at once
            self._waiting = 0
        return count


def flush_directory(folder: Path) -> None:
    """Waits until the disk has the names in a folder, such as those after a rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
