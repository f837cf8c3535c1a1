"""The digest of an array that `vit_jax.digests` computes, in NumPy, from pieces of the array.

Both give the same number.
"""

import numpy as np

from vit_spec.run_step import MIXES, SALTS

BLOCK = 1 << 16  # words at a time, so that they stay in the processor's cache


class Digest:
    """The digest of an array whose bytes come in pieces, in C order."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        salt = sum(ord(c) * 31**i for i, c in enumerate(f"{dtype}{tuple(shape)}"))
        self._salts = [(s + salt) % 2**32 for s in SALTS]
        self._unsigned = np.dtype(f"u{min(dtype.itemsize, 4)}")
        self._sums, self._at = [0, 0], 0
        self._places = np.arange(BLOCK, dtype=np.uint32)
        self._buffers = np.empty((2, len(self._places)), np.uint32)

    def update(self, piece: memoryview | np.ndarray) -> None:
        """Takes the bytes of the next values."""
        flat = np.frombuffer(piece, self._unsigned)
        for start in range(0, len(flat), BLOCK):
            words = flat[start : start + BLOCK]
            count = len(words)
            places, (hashed, spare) = self._places[:count], self._buffers[:, :count]
            for i, salt in enumerate(self._salts):
                np.add(places, np.uint32((self._at + salt) % 2**32), out=hashed)
                _mix(hashed, spare)
                np.bitwise_xor(hashed, words, out=hashed)
                _mix(hashed, spare)
                self._sums[i] += int(hashed.sum(dtype=np.uint32))
            self._at += count

    def text(self) -> str:
        """16 hexadecimal digits."""
        return "".join(f"{found % 2**32:08x}" for found in self._sums)


def digest(array: np.ndarray) -> str:
    """The digest of an array."""
    found = Digest(array.dtype, array.shape)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.text()


def _mix(x: np.ndarray, spare: np.ndarray) -> None:
    """Changes `x` in place."""
    for shift, factor in MIXES:
        np.right_shift(x, np.uint32(shift), out=spare)
        np.bitwise_xor(x, spare, out=x)
        np.multiply(x, np.uint32(factor), out=x)
    np.right_shift(x, np.uint32(16), out=spare)
    np.bitwise_xor(x, spare, out=x)
