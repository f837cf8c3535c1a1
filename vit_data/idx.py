"""The idx files of MNIST and its relatives: big-endian header, then uint8 values. No twin.

Format: http://yann.lecun.com/exdb/mnist (two zero bytes, type 8 for uint8, number of sides, then
each side as a 32-bit integer).
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

FILES = tuple(
    f"{prefix}-{kind}-ubyte"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


def read_idx(path: Path) -> np.ndarray:
    """The values of one idx file, gzipped or not: uint8, of the shape that the header states.

    Raises `ValueError` for a file that is truncated, too long or no idx file.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or install it again") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} starts with {data[:4].hex()}, not 000008: no idx file of bytes")
    sides = data[3]
    if len(data) < 4 + 4 * sides:
        raise ValueError(f"{path} ends within its header: copy or install it again")
    shape = struct.unpack(f">{sides}I", data[4 : 4 + 4 * sides])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * sides)
    if len(values) != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(values)} values and its header states {shape}, which is "
            f"{math.prod(shape)}: copy or install it again"
        )
    return values.reshape(shape)


def read_pair(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, h, w)` and labels `(n,)` of one split; `prefix` is `train` or `t10k`."""
    images = read_idx(_existing(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_existing(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{prefix} in {folder}: images {images.shape} and labels {labels.shape} must be "
            "(n, h, w) and (n,): the files do not belong together"
        )
    return images, labels


def missing_files(folder: Path) -> list[str]:
    """The names of the idx files that `folder` has neither gzipped nor plain."""
    return [name for name in FILES if not _candidates(folder, name)]


def fingerprint(folder: Path) -> str:
    """12 hex digits that differ when any of the four files differs."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256(_existing(folder, name).read_bytes()).digest())
    return digest.hexdigest()[:12]


def _candidates(folder: Path, name: str) -> list[Path]:
    return [p for p in (folder / f"{name}.gz", folder / name) if p.is_file()]


def _existing(folder: Path, name: str) -> Path:
    found = _candidates(folder, name)
    if not found:
        raise FileNotFoundError(f"{folder} has neither {name}.gz nor {name}")
    return found[0]
