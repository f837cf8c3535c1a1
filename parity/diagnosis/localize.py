"""The first measuring point that differs, and the smallest module that differs by itself."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen
from torch import Tensor, nn

from parity.capture import IMAGE_MODULES
from parity.diagnosis.trace import Event, Trace, gap_of
from parity.findings import Location
from parity.structures import is_float, named, numpy, tensor


class Localizer:
    """Both sides of one pass. Gaps of modules fed the same input are computed when asked for."""

    def __init__(self, jax: Trace, torch: Trace, bound: float, variables: Any = None):
        self.jax, self.torch, self.bound = jax, torch, bound
        self.variables = variables  # of a Linen model, for calling its modules again
        self.known: dict[str, float | None] = {}
        shared = [path for path in torch.events if path in jax.events]
        self.paths = [p for p in shared if p == "" or self._comparable(p)]

    def _comparable(self, path: str) -> bool:
        """Whether the shapes agree, or those of the whole outputs do not, which is to be found."""
        theirs = self.torch.events[path].output
        ours = _like(self.jax.events[path].output, theirs)
        if ours is None or theirs is None or ours.shape == theirs.shape:
            return True
        return "" in self.jax.events and "" in self.torch.events and not self._comparable("")

    def locate(self) -> Location | None:
        """Where the passes first differ; None if no shared measuring point does."""
        first, gap = next(
            ((path, gap) for path in self.paths if (gap := self.gap(path)) > self.bound), ("", 0.0)
        )
        if gap <= self.bound:
            return None
        culprit, sound, reached = self._descend("")
        own = None if culprit is None else self.own_gap(culprit)
        return Location(
            first=first or "output",
            gap=gap,
            bound=self.bound,
            culprit="" if culprit is None else culprit or "the model",
            own_gap=own or 0.0,
            sound=sound,
            reached=reached,
        )

    def gap(self, path: str) -> float:
        """The gap of a module's output in the pass as it was."""
        ours, theirs = self.jax.events[path].output, self.torch.events[path].output
        return gap_of(_like(ours, theirs), theirs)

    def own_gap(self, path: str) -> float | None:
        """The gap of a module's output when JAX's gets PyTorch's input; None if it cannot."""
        if path not in self.known:
            self.known[path] = self.gap("") if path == "" else self._call_again(path)
        return self.known[path]

    def differs(self, path: str) -> bool:
        """Whether a module differs by itself."""
        own = self.own_gap(path)
        return own is not None and own > self.bound

    def _descend(self, path: str) -> tuple[str | None, tuple[str, ...], str]:
        """The smallest module that differs by itself, its parts that do not, and the first of them
        that already got another input."""
        parts = [p for p in self.paths if p and self._parent(p) == path]
        reached = ""
        for part in parts:
            if self.differs(part):
                return self._descend(part)
            if self.own_gap(part) is not None and self.gap(part) > self.bound:
                reached = part  # all before it agree, so what differs lies between them
                break
        sound = tuple(p for p in parts if self.own_gap(p) is not None and not self.differs(p))
        if path in self.paths and self.differs(path):
            return path, sound, reached
        return (path if "" in self.paths else None), sound, reached

    def _parent(self, path: str) -> str:
        """The nearest module around `path` that was called on both sides."""
        while path:
            path = path.rpartition(".")[0]
            if path in self.torch.events and path in self.jax.events:
                return path
        return ""

    def _call_again(self, path: str) -> float | None:
        ours, theirs = self.jax.events[path], self.torch.events[path]
        try:
            output = self._run(ours, *_arguments(ours, theirs))
        except Exception:  # the module takes other arguments than its twin, or needs its parent
            return self.gap(path) if self._same_inputs(ours, theirs) else None
        if output is None:
            return None
        theirs_out = theirs.output
        return gap_of(_like(_output(output, ours), theirs_out), theirs_out)

    def _same_inputs(self, ours: Event, theirs: Event) -> bool:
        """Whether every array that one side got is one that the other got, within the bound."""
        a, b = ([_input(v, event) for v in _arrays(event)] for event in (ours, theirs))
        return bool(a and b) and all(
            any(gap_of(_like(y, x), x) <= self.bound for y in others)
            for each, others in ((a, b), (b, a))
            for x in each
        )

    def _run(self, event: Event, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = event.module
        if isinstance(module, linen.Module):
            variables = self.variables
            for part in event.call.path.split("."):
                variables = {kind: tree.get(part, {}) for kind, tree in variables.items()}
            output = module.clone(parent=None, name=None).apply(variables, *args, **kwargs)
        else:
            output = module(*args, **kwargs)
        return next((v for _, v in named(output, "")), None)


def _arguments(ours: Event, theirs: Event) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """JAX's arguments with PyTorch's arrays in their places, in the order of both calls."""
    given, wanted = _arrays(theirs), _arrays(ours)
    if len(given) != len(wanted) or not wanted:
        raise ValueError("the two modules take different arguments")
    arrays = iter(given)

    def filled(value: Any) -> Any:
        if not _is_array(value):
            return value
        array = numpy(next(arrays))
        array = array if ours.layout is None else ours.layout.input_to_jax(array)
        return _fitting(array, value, ours.kind)

    args = tuple(filled(value) for value in ours.call.args)
    return args, {name: filled(value) for name, value in ours.call.kwargs.items()}


def _arrays(event: Event) -> list[Any]:
    """Floating-point arrays that a module was called with, in order."""
    return [v for v in (*event.call.args, *event.call.kwargs.values()) if _is_array(v)]


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and is_float(value)


def _fitting(array: np.ndarray, like: Any, kind: str) -> Any:
    """An array in the layout of `like`: channels last where images differ so."""
    if array.ndim == 4:
        moved = np.moveaxis(array, 1, -1)
        images = kind.startswith(IMAGE_MODULES) or array.shape != like.shape
        if images and moved.shape == like.shape:
            array = moved
    if array.shape != like.shape:
        raise ValueError(f"shapes {array.shape} and {like.shape} do not fit")
    return jnp.asarray(array, like.dtype)


def _input(value: Any, event: Event) -> Tensor:
    array = numpy(value)
    return _standard(array if event.layout is None else event.layout.input_to_torch(array), event)


def _output(value: Any, event: Event) -> Tensor:
    array = numpy(value)
    return _standard(array if event.layout is None else event.layout.output(array), event)


def _standard(array: np.ndarray, event: Event) -> Tensor:
    if array.ndim == 4 and event.kind.startswith(IMAGE_MODULES):
        array = array if isinstance(event.module, nn.Module) else np.moveaxis(array, -1, 1)
    return tensor(array)


def _like(ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
    """JAX's array in PyTorch's layout, if the shapes say that it is channels-last."""
    if ours is None or theirs is None or ours.shape == theirs.shape or ours.ndim != 4:
        return ours
    moved = ours.permute(0, 3, 1, 2)
    return moved if moved.shape == theirs.shape else ours
