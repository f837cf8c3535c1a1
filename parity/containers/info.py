"""What a tensor is, before its values are read: dtype, shape and size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

BITS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
EXTENDED = (
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)  # fmt: skip
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in ("bool", *BITS, "float16", "float32", "float64", "complex64", "complex128")
} | {name: np.dtype(getattr(ml_dtypes, name)) for name in EXTENDED}
MOST_AXES = 32
MOST_TENSORS = 50_000
"""In one file. A ViT of 48 blocks has 600, and as many again for each moment of its training."""


@dataclass(frozen=True)
class Info:
    """A tensor's dtype by NumPy's name, its shape, and the bytes of its values."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, dtype: str | np.dtype[Any], shape: Sequence[int]) -> "Info":
        """The one with the size that dtype and shape give. Raises `ValueError`."""
        name = dtype if isinstance(dtype, str) else dtype.name
        if name not in DTYPES:
            raise ValueError(
                f"dtype {name!r} is none that tensors have ({', '.join(DTYPES)}): cast to one"
            )
        if len(shape) > MOST_AXES:
            raise ValueError(f"a shape of {len(shape):,} axes has more than {MOST_AXES}")
        shape = tuple(int(s) for s in shape)
        if any(s < 0 for s in shape):
            raise ValueError(f"shape {str(shape)[:80]} has a negative size")
        return cls(name, shape, math.prod(shape) * DTYPES[name].itemsize)
