"""What counts as equal. Derived once, for everything: no test and no level has a bound of its own.

float64 is the proof: two correct implementations differ by rounding alone, which grows like the
root of the depth. The largest gap of a tensor, relative to its largest value, must stay below
`PROOF * eps * sqrt(depth)`.

Lower precisions are the practice: both sides are compared with the float64 result, and pass when
neither is further from it than `PRACTICE` times the other. So the bound follows the hardware.
An error below `eps * sqrt(depth)` counts as that much: being exact by luck proves nothing.

A sum over rows is judged in the same way where it is inexact by itself, which is LayerNorm's backward
pass in PyTorch: its rows are compared by their exact sum, and its own sum may be `PRACTICE` times as
far from that as a plain sum of the same rows in the same type (`parity/row_sums.py`).
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


def rounding(dtype: str, depth: int) -> float:
    """Relative error that rounding alone explains after `depth` blocks."""
    return epsilon(dtype) * math.sqrt(max(1, depth))


def proof_bound(depth: int) -> float:
    """Largest relative gap in float64."""
    return PROOF * rounding("float64", depth)
