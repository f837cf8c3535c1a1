"""Gradients that PyTorch adds up inexactly, row after row, in the type of the weights.

On CPUs, the gradients of LayerNorm's scale and bias are kept in one accumulator of their own type
for all rows (aten's native_layer_norm_backward): in bfloat16 a few percent are lost over 200 rows,
and up to 70 % over 6000. Its other sums over rows have float32 accumulators.

So two questions are asked one after the other. Are the rows right? Their exact sum goes on, to be
compared like everything else. And is PyTorch's own sum what the type explains? It may be `PRACTICE`
times as far from the exact one as a plain sum of these rows, one accumulator of the type, comes on
its way, or as one rounding is. If it is further away, it goes on as it is, to fail.
"""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.tolerance import PRACTICE

LAYER_NORM = torch.ops.aten.native_layer_norm_backward.default
CONVOLUTION = torch.ops.aten.convolution_backward.default
SUM = torch.ops.aten.sum.dim_IntList


class ExactRowSums(TorchDispatchMode):
    """Within, below float64, the backward pass of LayerNorm gives the exact sums of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = 1  # of the longest sum over rows that there was
        self.lost = 0.0  # largest error of an own sum that was passed over, of its largest value
        self.rows = 0  # of that sum
        self.dtype = ""  # of that sum

    @property
    def notes(self) -> tuple[str, ...]:
        """What was passed over, for the report."""
        if not self.rows:
            return ()
        return (
            f"PyTorch adds up the gradients of LayerNorm's scale and bias in {self.dtype}, row "
            f"after row: over {self.rows} rows up to {self.lost:.1e} of them is lost. That is what "
            f"this type explains, so the exact sums of the rows are compared",
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if func is SUM and results.numel():
            self.terms = max(self.terms, args[0].numel() // results.numel())
        if func is CONVOLUTION:
            self.terms = max(self.terms, args[0].numel() // args[0].shape[1])
        if func is not LAYER_NORM or args[0].dtype == torch.float64:
            return results
        of_input, of_scale, of_bias = results
        self.terms = max(self.terms, args[3].numel())
        grad, rows = (value.double().reshape(-1, *args[2]) for value in args[:2])
        mean, deviation = (value.double().reshape(-1, *[1] * len(args[2])) for value in args[3:5])
        scaled = grad * ((rows - mean) * deviation)
        return of_input, self._settled(of_scale, scaled), self._settled(of_bias, grad)

    def _settled(self, own: Tensor | None, terms: Tensor) -> Tensor | None:
        """The exact sum of `terms` (n, ...), if `own` (...) is what its type explains."""
        if own is None or not own.numel():
            return own
        exact = terms.sum(0)
        error, scale = largest(own - exact), largest(exact)
        allowed = PRACTICE * torch.finfo(own.dtype).eps * scale
        if error > allowed:
            allowed = PRACTICE * largest(plain_sums(terms, own.dtype) - terms.cumsum(0))
            if scale and self.lost * scale < error <= allowed:
                self.lost, self.rows = error / scale, len(terms)
                self.dtype = str(own.dtype).removeprefix("torch.")
        return exact.to(own.dtype) if error <= allowed else own


def plain_sums(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of the first 1, 2, ... n `terms` (n, ...), rounded to `dtype` after each of them."""
    sums = terms.to(dtype)
    for before, total in itertools.pairwise(sums.unbind()):
        total += before
    return sums


def largest(values: Tensor) -> float:
    """Largest absolute value."""
    return float(values.abs().max())
