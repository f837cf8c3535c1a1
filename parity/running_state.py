"""State that a model updates as it trains, beside its parameters: running statistics of BatchNorm,
and whatever else a module keeps. Each module that keeps some is called once in training mode, with
what it is given in the forward pass; dropout stays off.

Flax and PyTorch name BatchNorm's momentum the other way round (0.9 is PyTorch's 0.1), and add the
variance of the batch over n or over n - 1 values to the running one.

Shapes: c channels.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flax import linen, nnx
from torch import nn

from parity.capture import Call
from parity.structures import numpy
from vit_spec.layout import State
from vit_spec.words import some

Streams = list[dict[str, np.ndarray]]


@dataclass
class Stepped:
    """One side's state by name."""

    old: State
    new: State  # after one step
    batch: State = field(default_factory=dict)  # of BatchNorm: mean, and variance over n values
    counts: dict[str, int] = field(default_factory=dict)  # of variances: n
    kept: set[str] = field(default_factory=set)  # what modules do not update by themselves

    def take(self, names: Mapping[str, str], after: State, library: bool) -> None:
        """What a module keeps after its call. A BatchNorm of the `library` updates it for sure."""
        for leaf, name in names.items():
            self.new[name] = after[leaf]
            if not library and np.array_equal(after[leaf], self.old[name]):
                self.kept.add(name)

    def observe(self, names: Mapping[str, str], x: np.ndarray, mean: str, variance: str) -> None:
        """Statistics of what a BatchNorm was given, channels last (..., c)."""
        axes = tuple(range(x.ndim - 1))
        self.batch[names[mean]], self.batch[names[variance]] = x.mean(axes), x.var(axes)
        self.counts[names[variance]] = x.size // x.shape[-1]

    def over_n(self, name: str) -> np.ndarray:
        """A running variance as if the batch's had been taken over n values, not n - 1."""
        old, new, n = self.old[name], self.new[name], self.counts[name]
        share = momentum(old, new, self.batch[name] * n / (n - 1))
        return new - share * self.batch[name] / (n - 1)


def momentum(old: np.ndarray, new: np.ndarray, batch: np.ndarray) -> float:
    """The share of the batch in a running statistic (c,), by least squares: PyTorch's momentum."""
    moved, way = new.astype(np.float64) - old, batch.astype(np.float64) - old
    return float((moved * way).sum() / max(float((way * way).sum()), 1e-300))


def compared(sides: list[Any], given: Any) -> tuple[Streams, tuple[str, ...]]:
    """The state of every side after one step, by name, and what was compared in a special way."""
    ours, *theirs = (stepped(side, given) for side in sides)
    kept = sorted((ours.kept | theirs[0].kept) & ours.old.keys() & theirs[0].old.keys())
    names = [n for n in theirs[0].new if n in ours.new and n not in kept]
    streams: Streams = [{f"state {n}": side.new[n] for n in names} for side in (ours, *theirs)]
    other = {n: theirs[0].counts[n] for n in names if _is_over_n(ours, theirs[0], n)}
    for stream, side in zip(streams[1:], theirs, strict=True):
        stream |= {f"state {name}": side.over_n(name) for name in other}
    return streams, (*_variance_note(other), *_kept_note(tuple(kept)))


def stepped(side: Any, given: Any) -> Stepped:
    """The state of one side before and after each module that keeps some was called."""
    return _of_jax(side, given) if side.name == "jax" else _of_torch(side, given)


def _is_over_n(ours: Stepped, theirs: Stepped, name: str) -> bool:
    """Whether JAX's running variance is what PyTorch's would be over n values."""
    jax, torch_value = ours.new[name], theirs.new[name]
    if name not in theirs.counts or jax.shape != torch_value.shape:
        return False
    return np.abs(jax - theirs.over_n(name)).max() < np.abs(jax - torch_value).max()


def _variance_note(counts: Mapping[str, int]) -> tuple[str, ...]:
    if not counts:
        return ()
    n = next(iter(counts.values()))
    return (
        f"{some(tuple(counts), 4)}: PyTorch adds the variance of a batch over n - 1 values to the "
        f"running one, JAX over n, so what a training step adds is n / (n - 1) times as much in "
        f"PyTorch ({n / (n - 1):.6g} here, n = {n:,}). That stays between models that train on; "
        f"they are compared without this factor",
    )


def _kept_note(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (
        f"{some(names, 4)}: a module of one side does not update this by itself, so its updates in "
        f"training are not compared",
    )


def _of_torch(side: Any, given: Any) -> Stepped:
    state = side.state()
    found = Stepped({n: v for n, v in state.items() if n not in side.parameters()}, {})
    for call in side.calls(given) if found.old else ():
        names = {leaf: f"{call.path}.{leaf}".lstrip(".") for leaf in _buffers(call.module)}
        names = {leaf: n for leaf, n in names.items() if n in found.old and n not in found.new}
        if not names:
            continue
        module = copy.deepcopy(call.module)
        for part in module.modules():
            part.training = bool(_buffers(part))
        try:
            with torch.no_grad():
                module(*call.args, **call.kwargs)
        except (ValueError, RuntimeError):  # such as one value a channel
            continue
        library = isinstance(call.module, nn.modules.batchnorm._BatchNorm)
        found.take(names, {leaf: numpy(_buffers(module)[leaf]) for leaf in names}, library)
        if library:
            found.observe(names, np.moveaxis(_input(call), 1, -1), "running_mean", "running_var")
    return found


def _input(call: Call) -> np.ndarray:
    """What a BatchNorm was given, by place or by its keyword: `x` in Flax, `input` in PyTorch."""
    named = call.kwargs.get("x", call.kwargs.get("input"))
    return numpy(call.args[0] if call.args else named).astype(np.float64)


def _buffers(module: Any) -> dict[str, Any]:
    """What a module itself keeps."""
    return {} if module is None else {n: b for n, b in module._buffers.items() if b is not None}


def _of_jax(side: Any, given: Any) -> Stepped:
    found = Stepped({name: numpy(value) for name, value in side.buffers.items()}, {})
    for call in side.calls(given) if found.old else ():
        start = f"{call.path}." if call.path else ""
        names = {name.removeprefix(start): name for name in found.old if name.startswith(start)}
        names = {leaf: n for leaf, n in names.items() if "." not in leaf and n not in found.new}
        if not names:
            continue
        library = isinstance(call.module, linen.BatchNorm | nnx.BatchNorm)
        after = _after(call, side.variables)
        found.take(
            names, {leaf: after.get(leaf, found.old[n]) for leaf, n in names.items()}, library
        )
        if library:
            axis = call.module.axis if isinstance(call.module.axis, int) else -1
            found.observe(names, np.moveaxis(_input(call), axis, -1), "mean", "var")

    def in_torch_layout(state: State) -> State:
        held = copy.copy(side)
        held.params, held.buffers = {}, state
        return held.state()

    kept = set(in_torch_layout({name: found.old[name] for name in found.kept}))
    old, new, batch = map(in_torch_layout, (found.old, found.new, found.batch))
    return Stepped(old, new, batch, kept=kept)


def _after(call: Call, variables: Any) -> dict[str, np.ndarray]:
    """What a JAX module keeps after a call in training mode."""
    module, args, kwargs = call.module, list(call.args), dict(call.kwargs)
    if hasattr(module, "use_running_average"):  # else what a flag means is not known
        args = [value for value in args if not isinstance(value, bool)]
        kwargs.pop("use_running_average", None)
    if isinstance(module, nnx.Module):
        module = nnx.clone(module)
        if hasattr(module, "use_running_average"):
            module.use_running_average = False
        module(*args, **kwargs)
        return {str(name): numpy(value[...]) for (name, *rest), value in
                nnx.to_flat_state(nnx.state(module)) if not rest}  # fmt: skip
    for part in call.path.split(".") if call.path else ():
        variables = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    training = {"use_running_average": False} if hasattr(module, "use_running_average") else {}
    module = module.clone(parent=None, name=None, **training)
    kinds = [kind for kind in variables if kind != "params"]
    _, updated = module.apply(variables, *args, mutable=kinds, **kwargs)
    return {name: numpy(value) for kind in updated.values() for name, value in kind.items()
            if hasattr(value, "dtype")}  # fmt: skip
