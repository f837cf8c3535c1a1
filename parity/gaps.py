"""Two or three streams of measurements, tensor by tensor, to gaps.

Streams are read side by side and nothing is kept longer than its partner needs.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from parity.report import Gap
from parity.tolerance import PRACTICE, proof_bound, rounding

Stream = Iterable[tuple[str, np.ndarray]]


def proof(level: str, jax: Stream, torch: Stream, *, depth: int) -> Iterator[Gap]:
    """Gaps of float64 streams, relative to PyTorch's largest value."""
    bound = proof_bound(depth)
    for name, (a, b) in _aligned(jax, torch):
        problem = _problem(a, b)
        if problem:
            yield Gap(
                level=level,
                dtype="float64",
                name=name,
                gap=math.nan,
                bound=bound,
                scale=math.nan,
                note=problem,
            )
            continue
        a, b = wide(a), wide(b)
        scale = _largest(b)
        yield Gap(
            level=level,
            dtype="float64",
            name=name,
            gap=_ratio(_largest(a - b), scale),
            bound=bound,
            scale=scale,
        )


def practice(
    level: str,
    dtype: str,
    jax: Stream,
    torch: Stream,
    truth: Stream,
    *,
    depth: int,
    terms: Callable[[], int] = lambda: 1,
) -> Iterator[Gap]:
    """Gaps in low precision: the larger error against `truth`, bounded by the smaller one. `terms`
    tells, once PyTorch has measured, how many numbers a sum of it had."""
    for name, (a, b, t) in _aligned(jax, torch, truth):
        problem = _problem(a, b, t)
        if problem:
            yield Gap(
                level=level,
                dtype=dtype,
                name=name,
                gap=math.nan,
                bound=math.nan,
                scale=math.nan,
                note=problem,
            )
            continue
        a, b, t = wide(a), wide(b), wide(t)
        if name.startswith("v "):  # a square has twice the gradient's relative error, its root once
            a, b, t = (np.sqrt(np.abs(x)) for x in (a, b, t))
        scale = _largest(t)
        errors = {"JAX": _ratio(_largest(a - t), scale), "PyTorch": _ratio(_largest(b - t), scale)}
        floor = rounding(dtype, depth, terms())
        bound = PRACTICE * max(min(errors.values()), floor)
        note = ", ".join(f"{side} {error:.1e}" for side, error in errors.items()) + " from float64"
        yield Gap(
            level=level,
            dtype=dtype,
            name=name,
            gap=max(errors.values()),
            bound=bound,
            scale=scale,
            note=note,
        )


def over_steps(level: str, gaps_by_step: Iterable[Iterable[Gap]]) -> list[Gap]:
    """One gap a name: that of the first step out of bounds, else the largest of all steps."""
    worst: dict[str, Gap] = {}
    for step, gaps in enumerate(gaps_by_step):
        for gap in gaps:
            old = worst.get(gap.name)
            if old is None or (old.passed and (not gap.passed or gap.gap > old.gap)):
                worst[gap.name] = replace(gap, level=level, step=step)
    return list(worst.values())


def same_bits(
    name: str, jax: np.ndarray | None, torch: np.ndarray | None, back: np.ndarray | None
) -> Gap:
    """The gap of a tensor that must have the same bits on both sides and after a round trip."""
    note, gap, scale = "", 0.0, 0.0
    if jax is None or torch is None or back is None:
        gap, note = np.inf, f"only {'PyTorch' if jax is None else 'JAX'} has it"
    elif jax.shape != torch.shape or jax.dtype != torch.dtype:
        gap, note = np.inf, f"JAX {jax.dtype} {jax.shape}, PyTorch {torch.dtype} {torch.shape}"
    elif not (np.isfinite(wide(torch)).all() and np.isfinite(wide(jax)).all()):
        gap, note = np.nan, "NaN or infinite values"
    else:
        scale = float(np.abs(torch.astype(np.float64)).max(initial=0.0))
        for other, what in ((jax, "differ"), (back, "are changed by the round trip")):
            if np.ascontiguousarray(other).tobytes() != np.ascontiguousarray(torch).tobytes():
                count = np.count_nonzero(other != torch)
                gap, note = (
                    max(count / max(1, torch.size), 1e-300),
                    f"{count} of {torch.size} values {what}",
                )
    return Gap(
        level="weights",
        dtype=torch.dtype.name if torch is not None else "",
        name=name,
        gap=gap,
        bound=0.0,
        scale=scale,
        note=note,
    )


def _aligned(*streams: Stream) -> Iterator[tuple[str, tuple[np.ndarray | None, ...]]]:
    """The arrays of each name, in the order of the last stream; None where one lacks it."""
    *others, reference = (iter(s) for s in streams)
    waiting: list[dict[str, np.ndarray]] = [{} for _ in others]
    for name, value in reference:
        yield (
            name,
            (
                *(_take(name, other, held) for other, held in zip(others, waiting, strict=True)),
                value,
            ),
        )
    for index, (other, held) in enumerate(zip(others, waiting, strict=True)):
        for name, value in [*held.items(), *other]:
            yield name, tuple(value if i == index else None for i in range(len(streams)))


def _take(
    name: str, stream: Iterator[tuple[str, np.ndarray]], held: dict[str, np.ndarray]
) -> np.ndarray | None:
    if name in held:
        return held.pop(name)
    for found, value in stream:
        if found == name:
            return value
        held[found] = value
    return None


def _problem(*arrays: np.ndarray | None) -> str:
    """Why arrays cannot be compared, or nothing."""
    sides = ("JAX", "PyTorch", "the float64 reference")
    for side, array in zip(sides, arrays, strict=False):
        if array is None:
            return f"{side} has no such quantity"
    shapes = [a.shape for a in arrays if a is not None]
    if len(set(shapes)) > 1:
        return "shapes differ: " + ", ".join(
            f"{side} {shape}" for side, shape in zip(sides, shapes, strict=False)
        )
    broken = [
        f"{side} has {count} NaN or infinite values"
        for side, array in zip(sides, arrays, strict=False)
        if array is not None and (count := np.count_nonzero(~np.isfinite(wide(array))))
    ]
    return ", ".join(broken)


def wide(array: Any) -> np.ndarray:
    """Any floating type as float64."""
    return array.astype(np.float64, copy=False)


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf
