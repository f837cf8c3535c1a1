"""Arrays in C order: transposed ones are copied block by block, several times as fast as NumPy."""

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

BLOCK = 256
PADDING = 16  # so that the rows of a block do not compete for one set of the cache


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order and native order of bytes; itself if it is already so."""
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    flat = _columns(array)
    if flat is None:
        return np.ascontiguousarray(array).reshape(array.shape)
    out = np.empty(flat.shape, flat.dtype)
    _transpose(flat.T, out)
    return out.reshape(array.shape)


class Rooms:
    """Memory for arrays of which only the last few are in use: so it stays the same few pages."""

    def __init__(self, count: int) -> None:
        self._rooms = deque(np.empty(0, np.uint8) for _ in range(count))

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory that comes again after `count` calls; values are whatever was there."""
        room, size = self._rooms.popleft(), math.prod(shape) * dtype.itemsize
        room = room if len(room) >= size else np.empty(size, np.uint8)
        self._rooms.append(room)
        return room[:size].view(dtype).reshape(shape)


def panels(array: np.ndarray, rooms: Rooms) -> Iterator[np.ndarray]:
    """The array in C order; of a transposed one some rows at a time, each in one of the rooms.

    So a large array is in the processor's cache when it is written.
    """
    flat = _columns(array) if array.dtype.isnative else None
    if flat is None:
        yield contiguous(array)
        return
    for row in range(0, len(flat), BLOCK):
        part = flat[row : row + BLOCK]
        out = rooms.array(part.shape, part.dtype)
        _transpose(part.T, out)
        yield out


def same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of the same shape and dtype have the same bits."""
    return bool(np.array_equal(bytes_of(one), bytes_of(other)))


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array in C order, copied only if it is in another order."""
    return contiguous(array).reshape(-1).view(np.uint8)


def _columns(array: np.ndarray) -> np.ndarray | None:
    """The same values in two axes, the second of which is not the contiguous one; else None."""
    if array.flags.c_contiguous or array.size < BLOCK * BLOCK:
        return None
    shape, strides = [1], [0]
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size == 1:
            continue
        if strides[-1] == size * stride or shape == [1]:
            shape[-1], strides[-1] = shape[-1] * size, stride
        else:
            shape.append(size)
            strides.append(stride)
    if len(shape) != 2 or strides[0] != array.itemsize or strides[1] < shape[0] * array.itemsize:
        return None
    return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)


def _transpose(source: np.ndarray, out: np.ndarray) -> None:
    """`out` becomes the transpose of `source`, whose rows are contiguous."""
    rows, columns = source.shape
    scratch = np.empty((BLOCK, BLOCK + PADDING), source.dtype)
    for column in range(0, columns, BLOCK):
        for row in range(0, rows, BLOCK):
            part = source[row : row + BLOCK, column : column + BLOCK]
            block = scratch[: part.shape[0], : part.shape[1]]
            block[...] = part
            out[column : column + BLOCK, row : row + BLOCK] = block.T
