"""Where NaN and infinity first appear on each side, and what overflowed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from parity.diagnosis.trace import Trace, make_trace
from parity.findings import Location
from parity.structures import tensor
from vit_spec.words import some


class Place(NamedTuple):
    """Where a pass of one side has its first values that are not finite."""

    path: str | None  # of the module; None: nowhere
    text: str  # with how many values

    def __str__(self) -> str:
        return self.text


NOWHERE = Place(None, "")


def broken(ours: Trace, theirs: Trace, location: Location | None) -> Iterator[str]:
    """A note where NaN or infinity reaches the outputs, or makes the first difference."""
    ends = [trace.events[""].output for trace in (ours, theirs) if "" in trace.events]
    if all(map(_is_finite, ends)) and (location is None or np.isfinite(location.gap)):
        return
    yield from _told(first(ours), first(theirs))


def _told(jax: Place, torch_place: Place) -> Iterator[str]:
    if jax == torch_place != NOWHERE:
        yield f"NaN or infinity on both sides, first {jax}"
    elif NOWHERE not in (jax, torch_place):
        yield f"NaN or infinity on both sides: JAX first {jax}, PyTorch first {torch_place}"
    for side, place, other in (("JAX", jax, torch_place), ("PyTorch", torch_place, jax)):
        if place != other == NOWHERE:
            yield f"NaN or infinity in {side} only, first {place}"


def first(trace: Trace) -> Place:
    """Where a side has its first values that are not finite, and how many."""
    if not _is_finite(trace.images):
        return Place("", f"in the inputs ({_counts(trace.images)})")
    for path, event in trace.events.items():
        if not _is_finite(event.input):
            what = f"what {path} is given" if path else "the inputs"
            return Place(path, f"in {what} ({_counts(event.input)})")
        if not _is_finite(event.output):
            what = f"the output of {path or 'the model'}"
            return Place(path, f"in {what} ({_counts(event.output)})")
    return NOWHERE


def overflow(pair: Any, dtype: str) -> str:
    """Where the sides of a pair that agrees in float64 overflow in a coarser type, and why; empty
    if no forward pass does."""
    points = getattr(pair, "points", None)
    limit = float(ml_dtypes.finfo(np.dtype(dtype)).max)
    beyond = f"exceed {limit:g}, the largest number of {dtype}"
    jax, *others = pair.sides(dtype)
    narrow, wide = ({n: tensor(t) for n, t in state.items()}
                    for state in (others[-1].state(), pair.states()[1]))  # fmt: skip
    lost = tuple(n for n, t in narrow.items() if not _is_finite(t) and _is_finite(wide[n]))
    if lost:
        largest = max(float(wide[name].abs().max()) for name in lost)
        return f"weights overflow, {some(lost, 4)}: values up to {largest:.4g} {beyond}"
    for given in pair.feed.sets(dtype).values():
        placed = () if points is None else (points,)
        ours = first(make_trace("jax", jax.calls(given), {}, *placed))
        theirs, truth = (make_trace("torch", side.calls(given), {}) for side in others)
        other = first(theirs)
        place = ours if ours != NOWHERE else other
        if place == NOWHERE or first(truth) != NOWHERE:
            continue
        (text,) = _told(ours, other)
        largest = _largest(truth, place.path)
        what = "values of that module" if largest > limit else "values inside that module"
        size = f" (up to {largest:.4g} in float64)" if largest > limit else ""
        return f"{text}: {what}{size} {beyond}"
    return ""


def _largest(trace: Trace, path: str | None) -> float:
    event = trace.events.get(path or "")
    values = [] if event is None else [t for t in (event.input, event.output) if t is not None]
    return max((float(t.abs().max()) for t in values if t.numel()), default=0.0)


def _is_finite(values: Tensor | None) -> bool:
    return values is None or bool(torch.isfinite(values).all())


def _counts(values: Tensor | None) -> str:
    values = torch.as_tensor(values)
    counts = {"NaN": int(values.isnan().sum()), "infinite": int(values.isinf().sum())}
    found = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{found} of {values.numel():,} values"
