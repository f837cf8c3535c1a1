"""Hypotheses about models of which only inputs and outputs are seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.diagnosis.trace import gap_of
from parity.findings import Attempt, Cause, is_near
from parity.structures import Image, replaced, tensor

Change = Callable[[np.ndarray], np.ndarray]
INPUTS: dict[str, Change] = {
    "takes the channels reversed (RGB/BGR)": lambda x: x[..., ::-1],
    "takes height and width swapped": lambda x: x.swapaxes(1, 2),
    "takes the image mirrored": lambda x: x[:, :, ::-1],
    "takes the image upside down": lambda x: x[:, ::-1],
    "takes values divided by 255": lambda x: x / 255,
    "takes values times 255": lambda x: x * 255,
    "takes values from -1 to 1 in place of 0 to 1": lambda x: 2 * x - 1,
    "takes values from 0 to 1 in place of -1 to 1": lambda x: (x + 1) / 2,
}
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "returns probabilities (softmax)": lambda y: y.softmax(-1),
    "returns log-probabilities": lambda y: y.log_softmax(-1),
    "returns sigmoids": torch.sigmoid,
    "returns the last axis reversed": lambda y: y.flip(-1),
    "returns the opposite sign": lambda y: -y,
    "returns the last two axes swapped": lambda y: y.mT if y.ndim > 1 else y,
    "returns rows of unit length": lambda y: y / y.norm(dim=-1, keepdim=True),
}


def explain(
    jax: Any, torch_side: Any, given: Any, bound: float
) -> tuple[list[Cause], list[Attempt], bool]:
    """Causes, attempts, and whether anything differs at all."""
    ours, theirs = _outputs(jax, given), _outputs(torch_side, given)
    gap = _gap(ours, theirs)
    if gap <= bound:
        return [], [], False
    found: list[tuple[str, str, str, float]] = []
    for text, change in OUTPUTS.items():
        for name, a, b in (("JAX", theirs, ours), ("PyTorch", ours, theirs)):
            found.append(("output", name, text, _gap({k: change(v) for k, v in a.items()}, b)))
    for text, change in INPUTS.items():
        changed = _changed(given, change)
        if changed is None:
            continue
        found.append(("input", "JAX", text, _gap(ours, _outputs(torch_side, changed))))
        found.append(("input", "PyTorch", text, _gap(_outputs(jax, changed), theirs)))
    found.sort(key=lambda f: f[3])
    causes = [
        Cause(
            place=place,
            what=f"what the {place} is",
            jax=text if name == "JAX" else "does not",
            torch=text if name == "PyTorch" else "does not",
            gap=gap,
            residual=residual,
            places=(place,),
        )
        for place, name, text, residual in found
        if residual <= bound
    ]
    attempts = [
        Attempt(place=place, hypothesis=f"{name} {text}", residual=residual)
        for place, name, text, residual in found[:5]
        if is_near(residual, gap)
    ]
    if len(causes) > 1:  # several explanations fit these inputs: all are said, none is chosen
        others = tuple(f"{c.place}: {c.claim}" for c in causes[1:])
        causes = [replace(causes[0], rivals=others)]
    return causes, attempts, True


def _changed(given: Any, change: Change) -> Any:
    """The inputs with every image changed; None if there is no image."""
    images = 0

    def leaf(value: Any) -> Any:
        nonlocal images
        if isinstance(value, Image):
            images += 1
            return Image(np.ascontiguousarray(change(value.array)))
        return value

    changed = replaced(given, leaf)
    return changed if images else None


def _outputs(side: Any, given: Any) -> dict[str, Tensor]:
    try:
        return {name: tensor(value).double() for name, value in side.outputs(given)}
    except (ValueError, TypeError, RuntimeError):  # a shape that this side does not take
        return {}


def _gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    if not a or a.keys() != b.keys():
        return float("inf")
    return max(gap_of(a[name], b[name]) for name in a)
