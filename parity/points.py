"""Which modules of two models are compared, and how what JAX's return gets PyTorch's layout.

A layer whose kernel a rule reshapes, splits or joins returns its channels in another order or other
axes than its partner. What the rule does to the kernel says where each channel goes.

Shapes: b leading axes, i inputs, o outputs of a Linear.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.capture import Call
from parity.operations import layers_of
from parity.partners import Partners
from parity.rules import Group
from parity.structures import numpy

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the arrays of one JAX layer become those of its partner in PyTorch."""

    inputs: Shape  # axes of JAX's input that PyTorch has as one
    features: Shape  # the same of the output
    take_input: np.ndarray  # (i,) PyTorch's channel at each place of JAX's
    take_output: np.ndarray  # (o,) JAX's channel at each place of PyTorch's

    def output(self, array: np.ndarray) -> np.ndarray:
        """JAX's output in PyTorch's layout; as it is if its shape is another one."""
        flat = _flat(array, self.features)
        return array if flat is None else flat[..., self.take_output]

    def input_to_torch(self, array: np.ndarray) -> np.ndarray:
        """JAX's input in PyTorch's layout; as it is if its shape is another one."""
        flat = _flat(array, self.inputs)
        return array if flat is None else flat[..., np.argsort(self.take_input)]

    def input_to_jax(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's input in JAX's layout; as it is if its shape is another one."""
        if array.shape[-1:] != self.take_input.shape:
            return array
        return array[..., self.take_input].reshape(*array.shape[:-1], *self.inputs)


@dataclass(frozen=True)
class Joint:
    """JAX layers that make a PyTorch layer together, or one that makes several."""

    jax: tuple[str, ...]  # paths
    torch: tuple[str, ...]
    features: tuple[Shape, ...]  # axes of the output of each of JAX's
    layouts: tuple[Layout, ...]  # for each of PyTorch's, from the outputs of JAX's side by side


@dataclass(frozen=True)
class Placed:
    """One call of JAX's at a place of PyTorch's."""

    path: str
    call: Call
    layout: Layout | None = None

    def output(self, array: Any) -> np.ndarray:
        """What the call returned, in PyTorch's layout."""
        return numpy(array) if self.layout is None else self.layout.output(numpy(array))


class Points:
    """The measuring points that two models share."""

    def __init__(self, partners: Partners):
        self.names = partners.names
        jax = {name: np.shape(a) for name, a in partners.jax.items()}
        torch = {name: tuple(a.shape) for name, a in partners.torch.items()}
        known = [g for g in partners.groups if torch.keys() >= {*g.torch}]
        self.jax_below = _below(known, lambda group: group.jax)
        self.torch_below = _below(known, lambda group: group.torch)
        self.stacked = {n for n, g in enumerate(known) if g.rule and layers_of(g.rule.op)}
        joints = [j for g in known if (j := _joint(g, jax, torch)) is not None]
        self.joints = {path: joint for joint in joints for path in joint.jax}

    def place(self, path: str) -> str | None:
        """The PyTorch module that a JAX module is compared with; None if nothing says which.

        Names and rules say it, and unless a rule names just these two modules, the same parameters
        have to lie below both: one that is kept a module higher shows two modules that are unlike.
        """
        if path == "":
            return ""
        below = self.jax_below.get(path, frozenset())
        for candidate, certain in self.names.points(path):
            if candidate and (certain or below == self.torch_below.get(candidate, frozenset())):
                return candidate
        return None

    def is_stacked(self, path: str) -> bool:
        """Whether a module of PyTorch is one of several layers that JAX scans or maps over."""
        below = self.torch_below.get(path, frozenset())
        return bool(below) and {number for number, _ in below} <= self.stacked

    def placed(self, calls: Iterable[Call]) -> Iterator[Placed]:
        """JAX's calls at PyTorch's places, in their order, without those that have none."""
        waiting: dict[int, dict[str, Call]] = {}
        for call in calls:
            joint = self.joints.get(call.path)
            if joint is not None:
                done = waiting.setdefault(id(joint), {})
                done[call.path] = call
                if len(done) == len(joint.jax):
                    yield from _joined(joint, waiting.pop(id(joint)))
            elif (path := self.place(call.path)) is not None:
                yield Placed(path, call)


def _joined(joint: Joint, calls: Mapping[str, Call]) -> Iterator[Placed]:
    *_, call = (calls[path] for path in joint.jax)
    if len(joint.jax) > 1:
        outputs = [
            _flat(numpy(calls[path].output), features)
            for path, features in zip(joint.jax, joint.features, strict=True)
        ]
        together = [array for array in outputs if array is not None]
        if len(together) < len(outputs):
            return
        call = Call("", None, call.args, call.kwargs, np.concatenate(together, axis=-1))
    for path, layout in zip(joint.torch, joint.layouts, strict=True):
        yield Placed(path, call, layout)


def _joint(group: Group, jax: Mapping[str, Shape], torch: Mapping[str, Shape]) -> Joint | None:
    """What the rule for kernels of Linears does to their channels; None if it does nothing to them
    or something else, and for other rules."""
    shapes = [torch[n] for n in group.torch]
    linears = all(n.endswith(".kernel") for n in group.jax) and all(
        n.endswith(".weight") for n in group.torch
    )
    if group.rule is None or group.rule.op is None or not linears:
        return None
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        return None
    width = shapes[0][1]
    ends = np.cumsum([shape[0] for shape in shapes])
    places = np.arange(ends[-1] * width).reshape(-1, width)  # of every weight, by row and column
    try:
        kernels = group.op.to_jax(tuple(np.split(places, ends[:-1])))
    except (ValueError, IndexError, TypeError):
        return None
    if [k.shape for k in kernels] != [jax[name] for name in group.jax]:
        return None
    channels = [_channels(kernel, width) for kernel in kernels]
    if any(found is None for found in channels):
        return None
    known = [found for found in channels if found is not None]
    inputs, _, take_input, _ = known[0]
    order = np.argsort(np.concatenate([rows for *_, rows in known]))
    features = tuple(found[1] for found in known)
    joined = features[0] if len(known) == 1 else (len(order),)
    layouts = tuple(Layout(inputs, joined, take_input, take) for take in np.split(order, ends[:-1]))
    ours = tuple(n.removesuffix(".kernel") for n in group.jax)
    theirs = tuple(n.removesuffix(".weight") for n in group.torch)
    return Joint(ours, theirs, features, layouts)


def _channels(kernel: np.ndarray, width: int) -> tuple[Shape, Shape, np.ndarray, np.ndarray] | None:
    """Axes of the inputs and of the outputs of a kernel whose entries are their places in PyTorch's
    weight (o, i = `width`), and the column of each input and the row of each output there."""
    for cut in range(1, kernel.ndim):
        if np.prod(kernel.shape[:cut]) != width:
            continue
        flat = kernel.reshape(width, -1)
        columns, rows = flat[:, 0] % width, flat[0] // width
        if (flat == rows * width + columns[:, None]).all():
            return kernel.shape[:cut], kernel.shape[cut:], columns, rows
    return None


def _flat(array: np.ndarray, axes: Shape) -> np.ndarray | None:
    """The last axes as one; None if the array does not have them."""
    before = array.ndim - len(axes)
    if before < 0 or array.shape[before:] != axes:
        return None
    return array.reshape(*array.shape[:before], -1)


def _below(groups: Iterable[Group], side: Callable[[Group], Iterable[str]]) -> dict[str, frozenset]:
    """For every module the groups of parameters below it, and whether all of a group is there."""
    found: dict[str, dict[int, int]] = {}
    total: dict[int, int] = {}
    for number, group in enumerate(groups):
        for name in side(group):
            total[number] = total.get(number, 0) + 1
            while name := name.rpartition(".")[0]:
                counts = found.setdefault(name, {})
                counts[number] = counts.get(number, 0) + 1
    return {
        path: frozenset((n, count == total[n]) for n, count in counts.items())
        for path, counts in found.items()
    }
