"""What counts as equal. Derived once, for everything: no test and no level has a bound of its own.

float64 is the proof: two correct implementations differ by rounding alone, which grows like the
root of the depth. The largest gap of a tensor, relative to its largest value, must stay below
`PROOF * eps * sqrt(depth)`.

Lower precisions are the practice: both sides are compared with the float64 result, and pass when
neither is further from it than `PRACTICE` times the other. So the bound follows the hardware.
An error below `eps * sqrt(depth)` counts as that much: being exact by luck proves nothing.

A sum of n random terms has an error of `eps * sqrt(n / 24)` of its accumulator, which is float32 or
better, or is made so: the check asks JAX for it (`parity/wide_sums.py`), and takes the exact sum of
the rows of LayerNorm's backward pass in PyTorch, which has none (`parity/row_sums.py`).
"""

import math

import ml_dtypes
import numpy as np

PROOF = 1024.0
"""c of the float64 bound: 2.3e-13 * sqrt(depth)."""
PRACTICE = 8.0
"""k of the lower precisions."""


def epsilon(dtype: str) -> float:
    """Distance from 1 to the next number of a floating type."""
    return float(ml_dtypes.finfo(np.dtype(dtype)).eps)


def rounding(dtype: str, depth: int, terms: int = 1) -> float:
    """Relative error that rounding alone explains after `depth` blocks, and in a sum of so many
    random terms, whose accumulator is float32 or better (docs/numerics.md)."""
    accumulator = min(epsilon(dtype), epsilon("float32"))
    return max(epsilon(dtype) * math.sqrt(max(1, depth)), accumulator * math.sqrt(terms / 24))


def proof_bound(depth: int) -> float:
    """Largest relative gap in float64."""
    return PROOF * rounding("float64", depth)
