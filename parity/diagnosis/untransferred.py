"""Two models that were never given the same weights: the commonest mistake, and no bug."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

UNRELATED = 0.5
"""Correlation of two kernels below which one is no copy of the other, rounded, trained on or
damaged: draws of their own have 1 / sqrt(their size)."""
NEARLY_ALL = 0.9


def not_transferred(
    jax: Mapping[str, Tensor], torch_state: Mapping[str, Tensor], unknown: Collection[str]
) -> str:
    """What to do first, if the two sides' weights have nothing to do with each other; else empty.

    `unknown` are the tensors that differ in a way that nothing explains. Nearly all kernels have to
    be among them and unrelated; biases and norms say nothing, as they may begin as constants.
    """
    kernels = [
        name
        for name, ours in jax.items()
        if name in torch_state
        and ours.ndim > 1
        and ours.shape == torch_state[name].shape
        and not (_is_constant(ours) and _is_constant(torch_state[name]))
    ]
    strange = [
        name
        for name in kernels
        if name in unknown and abs(_correlation(jax[name], torch_state[name])) < UNRELATED
    ]
    if not strange or len(strange) < NEARLY_ALL * len(kernels):
        return ""
    some = "every weight differs" if len(strange) == len(kernels) else "nearly every weight differs"
    return (
        f"{some} ({len(strange)} of {len(kernels)} kernels are unrelated): the two models do not "
        f"hold the same weights; parity.transfer(torch_model, jax_model) first"
    )


def _is_constant(t: Tensor) -> bool:
    return bool((t == t.flatten()[:1]).all())


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = (x.double().flatten() - x.double().mean() for x in (a, b))
    size = float(a.norm() * b.norm())
    return float(torch.dot(a, b)) / size if size else 0.0
