"""One forward pass of one side as tensors that can be compared with the other side's.

Float64, PyTorch's names and layout whatever the side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.capture import IMAGE_MODULES, Call
from parity.points import Layout, Placed, Points
from parity.structures import is_float, named, numpy, tensor


@dataclass(frozen=True)
class Event:
    """One module call: its first input and its first output."""

    path: str
    kind: str  # class name
    module: Any
    input: Tensor | None
    output: Tensor | None
    call: Call
    layout: Layout | None = None  # of JAX's arrays, where a rule reshapes the layer's kernel


@dataclass(frozen=True)
class Trace:
    """All module calls of a pass, and the weights it was made with."""

    side: str  # "jax" or "torch"
    events: dict[str, Event]  # by PyTorch's path, in the order in which they finished
    state: Mapping[str, Tensor]  # weights by PyTorch's name
    images: Tensor | None = None  # as given to this side (b, H, W, c), before its preprocessing

    def within(self, parent: str) -> Iterator[Event]:
        """Events of the direct parts of a module, in order."""
        for path, event in self.events.items():
            if path and path.rpartition(".")[0] == parent:
                yield event

    def weight(self, path: str, leaf: str = "weight") -> Tensor | None:
        """A parameter of a module."""
        return self.state.get(f"{path}.{leaf}" if path else leaf)


def make_trace(
    side: str,
    calls: list[Call],
    state: Mapping[str, np.ndarray],
    points: Points | None = None,
    images: np.ndarray | None = None,
) -> Trace:
    """The trace of recorded calls; `points` places those of JAX."""
    events: dict[str, Event] = {}
    placed = (Placed(call.path, call) for call in calls) if points is None else points.placed(calls)
    for point in placed:
        path, call = point.path, point.call
        if call.kind == "Identity" or path in events:
            continue  # a module that is called again is judged by its first call
        first = next((v for _, v in named((call.args, call.kwargs), "") if _is_data(v)), None)
        output = next((v for _, v in named(call.output, "") if _is_data(v)), None)
        if point.layout is not None:
            first = None if first is None else point.layout.input_to_torch(numpy(first))
            output = None if output is None else point.output(output)
        channels_last = side == "jax" and call.kind.startswith(IMAGE_MODULES)
        events[path] = Event(
            path=path,
            kind=call.kind,
            module=call.module,
            input=_standard(first, channels_last),
            output=_standard(output, channels_last),
            call=call,
            layout=point.layout,
        )
    return Trace(
        side=side,
        events=events,
        state={name: tensor(value) for name, value in state.items()},
        images=None if images is None else tensor(images),
    )


def gap_of(a: Tensor | None, b: Tensor | None) -> float:
    """Largest difference relative to the largest value of `b`, where NaN equals NaN and infinity
    itself; infinite if such values lie elsewhere, or the shapes differ."""
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    finite = torch.isfinite(b)
    if not finite.all():
        x, y = a[~finite], b[~finite]
        if not ((x == y) | (x.isnan() & y.isnan())).all():
            return float("inf")
        a, b = a[finite], b[finite]
    if not a.numel():
        return 0.0
    difference, scale = float((a - b).abs().max()), float(b.abs().max())
    if not np.isfinite(difference):
        return float("inf")
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def _is_data(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and is_float(value)


def _standard(value: Any, channels_last: bool) -> Tensor | None:
    if value is None:
        return None
    array = numpy(value)
    if channels_last and array.ndim == 4:
        array = np.moveaxis(array, -1, 1)
    return tensor(array)
