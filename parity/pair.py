"""Two models to compare: this project's twins, or any JAX model and any PyTorch model."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from flax import nnx
from torch import nn

import vit_jax
import vit_torch
from parity import running_state
from parity.any_jax import AnyJax
from parity.any_torch import AnyTorch
from parity.environment import is_used
from parity.feeds import AnyFeed, TwinFeed
from parity.null_gradients import beside_weights, explained, joined, null_biases, told
from parity.partners import Partners
from parity.points import Points
from parity.rules import Rule
from parity.sides import JaxSide, Measurements, Prepare, TorchSide
from parity.structures import is_float
from parity.subjects import difference, resolve_twins
from parity.twins import weights
from vit_spec import count_parameters
from vit_spec.layout import State, to_jax_layout, to_torch_layout, torch_name
from vit_spec.parameters import parameters
from vit_spec.words import some

Model = vit_jax.ViT | vit_torch.ViT
Prepares = tuple[Prepare | None, Prepare | None]
Pick = Callable[[Any], Any]
"""What a model returns to what is compared of it."""


class Pair(Protocol):
    """What the levels of a check need."""

    subject: str
    parameters: int
    depth: int  # of the tolerance
    feed: Any

    @property
    def notes(self) -> tuple[str, ...]:
        """What is compared in a special way, and why."""
        ...

    def states(self) -> tuple[State, State, State]:
        """JAX's weights, PyTorch's, and PyTorch's after a round trip through JAX's layout."""
        ...

    def sides(self, dtype: str) -> list[Any]:
        """JAX and PyTorch in `dtype`; below float64 also PyTorch in float64."""
        ...

    def layers(self, sides: list[Any], given: Any) -> list[Measurements]:
        """Every measuring point of each side."""
        ...

    def running(self, sides: list[Any], given: Any) -> list[Measurements]:
        """What each side updates in training beside its parameters, after one step."""
        ...

    def adjusted(self, stream: Measurements) -> Iterator[tuple[str, np.ndarray]]:
        """The stream as it is to be compared."""
        ...


class TwinPair:
    """This project's two ViTs of one config."""

    def __init__(
        self,
        jax_model: vit_jax.ViT,
        torch_model: vit_torch.ViT,
        subject: str = "the models given",
        *,
        batch_size: int = 3,
        seed: int = 0,
        preprocess: Prepares | None = None,
        training: tuple[Any, Any] | None = None,
    ):
        self.difference = difference(jax_model.config, torch_model.config)
        if parameters(jax_model.config) != parameters(torch_model.config):
            raise ValueError(f"the two configs differ: {self.difference}")
        self.jax_model, self.torch_model, self.subject = jax_model, torch_model, subject
        self.config = torch_model.config
        self.depth, self.parameters = self.config.depth, count_parameters(self.config)
        self.notes = explained(self.config)
        if self.difference:  # other behaviour of the same weights: a difference to be found
            self.notes += (f"the two configs differ: {self.difference}",)
        self.prepares: Prepares = preprocess or (None, None)
        self.training = training or (vit_jax.training, vit_torch.training)
        self.feed = TwinFeed(self.config, batch_size, seed, raw=preprocess is not None)

    def states(self) -> tuple[State, State, State]:
        state = weights(self.torch_model)
        names = [
            (name, rank)
            for name, rank in vit_jax.api.names(self.jax_model)
            if torch_name(name, rank)[0] in state
        ]
        return weights(self.jax_model), state, to_torch_layout(to_jax_layout(state, names))

    def sides(self, dtype: str) -> list[Any]:
        (ours, theirs), (jax_training, torch_training) = self.prepares, self.training
        torch = TorchSide(self.torch_model, dtype, theirs, torch_training)
        sides: list[Any] = [JaxSide(self.jax_model, dtype, ours, jax_training), torch]
        if dtype == "float64":
            return sides
        return [*sides, TorchSide(torch.model, "float64", theirs, torch_training)]

    def layers(self, sides: list[Any], given: Any) -> list[Measurements]:
        return [side.layers(given) for side in sides]

    def running(self, sides: list[Any], given: Any) -> list[Measurements]:
        return [iter(()) for _ in sides]  # parameters are all they have

    def adjusted(self, stream: Measurements) -> Iterator[tuple[str, np.ndarray]]:
        return joined(stream, self.config)


class AnyPair:
    """Any JAX model and any PyTorch model, with the user's inputs and rules."""

    def __init__(
        self,
        jax_model: Any,
        torch_model: Any,
        given: Any,
        *,
        rules: Iterable[Rule] = (),
        image_outputs: bool = False,
        seed: int = 0,
        depth: int | None = None,
        jax_kwargs: Mapping[str, Any] | None = None,
        torch_kwargs: Mapping[str, Any] | None = None,
        jax_output: Pick | None = None,
        torch_output: Pick | None = None,
    ):
        self.jax_model, self.torch_model = jax_model, torch_model
        self.jax_options = {"kwargs": jax_kwargs, "pick": jax_output}
        self.image_outputs = image_outputs
        self.torch_options = {"kwargs": torch_kwargs, "pick": torch_output}
        self.partners = Partners(rules, jax_model, torch_model)
        self.points = Points(self.partners)
        self.feed = AnyFeed(given, seed)
        self._seen: tuple[str, ...] = ()  # notes on the measuring points of the last pass
        self._running: tuple[str, ...] = ()  # notes on running statistics
        self.subject = f"{_called(jax_model)} and {_called(torch_model)}"
        own = self._torch("float64").parameters()
        self.parameters = sum(p.numel() for p in own.values())
        self.depth = depth or _depth(own)

    def states(self) -> tuple[State, State, State]:
        names, ranks = self.partners.names, self.partners.ranks
        ours = self._jax("float64")
        state, carried = self._torch("float64").state(), ours.state()
        state |= {n: state[first] for n, first in self.partners.twice.items() if first in state}
        try:
            through = names.to_jax(state, ranks)
        except KeyError:  # names that one side lacks are reported one by one
            return carried, state, state
        back = names.to_torch(through)
        shapes = {n: np.shape(v) for n, v in {**ours.params, **ours.buffers}.items()}
        for name, (first, *_) in names.torch_names(ranks).items():
            if carried[first].shape == state[first].shape and through[name].shape != shapes[name]:
                raise ValueError(
                    f"{name} has shape {shapes[name]}, and {through[name].shape} when it comes "
                    f"back from PyTorch: the operation of its rule does not fit, such as "
                    f"parity.heads of another number of heads"
                )
        return carried, state, {**state, **back}

    def sides(self, dtype: str) -> list[Any]:
        torch = self._torch(dtype)
        sides = [self._jax(dtype), torch]
        return sides if dtype == "float64" else [*sides, self._torch("float64", torch.model)]

    def layers(self, sides: list[Any], given: Any) -> list[Measurements]:
        """Points of both sides, JAX's images channels-first where PyTorch's shape says so, without
        those that are on one side only or have other shapes there, of which the notes tell."""
        ours, *theirs = (list(side.layers(given)) for side in sides)
        shapes = {name: value.shape for name, value in theirs[0]}
        whole = {name for name, _ in ours}

        def fitted(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
            names = (name, f"{name}.0", name.removesuffix(".0"))  # the first of several outputs
            name = next((n for n in names if n in shapes and (n == name or n not in whole)), name)
            moved = np.moveaxis(value, -1, 1) if value.ndim == 4 else value
            return name, moved if value.shape != shapes.get(name) == moved.shape else value

        ours = [fitted(name, value) for name, value in ours]
        unlike = {n: v.shape for n, v in ours if n in shapes and v.shape != shapes[n]}
        if "output" in unlike:  # that of the models is compared all the same
            unlike.pop("output")
        names = {name for name, _ in ours}
        shared = (names & shapes.keys()) - unlike.keys()
        alone = sorted((names | shapes.keys() | {*sides[0].unplaced}) - shared - unlike.keys())
        self._seen = ()
        hidden = [name for name in alone if self.points.is_stacked(name)]
        alone = [name for name in alone if name not in hidden]
        if alone and self.parameters:
            self._seen += (
                f"{len(shared)} measuring points are compared; {len(alone)} are on one side only, "
                f"such as {', '.join(alone[:3])}: a Rule between modules pairs them",
            )
        if hidden:
            self._seen += (
                f"JAX does not show what happens inside of stacked layers: {some(hidden)} are not "
                f"compared one by one",
            )
        if unlike:
            texts = [f"{n} (JAX {s}, PyTorch {shapes[n]})" for n, s in unlike.items()]
            self._seen += (f"measuring points left out, for their shapes differ: {some(texts)}",)
        streams = [ours, *theirs]
        return [iter([p for p in stream if p[0] in shared]) for stream in streams]

    def running(self, sides: list[Any], given: Any) -> list[Measurements]:
        streams, self._running = running_state.compared(sides, given)
        return [iter(stream.items()) for stream in streams]

    def adjusted(self, stream: Measurements) -> Iterator[tuple[str, np.ndarray]]:
        return beside_weights(stream, lambda: self._without_gradient)

    @property
    def notes(self) -> tuple[str, ...]:
        alone = self.partners.alone()
        return (
            *((alone,) if alone else ()),
            *self.partners.notes(),
            *told(self._without_gradient),
            *self._seen,
            *self._running,
        )

    @functools.cached_property
    def _without_gradient(self) -> frozenset[str]:
        """Modules whose bias has no gradient in exact arithmetic, seen on PyTorch's side."""
        torch = self._torch("float64")
        given = self.feed.sets("float64")[""]
        shapes = {name: a.shape for name, a in torch.outputs(given) if is_float(a)}
        return null_biases(torch.gradients(given, self.feed.cotangent(shapes, "float64")))

    def _jax(self, dtype: str) -> AnyJax:
        return AnyJax(
            self.jax_model,
            dtype,
            self.partners,
            image_outputs=self.image_outputs,
            **self.jax_options,
        )

    def _torch(self, dtype: str, model: Any = None) -> AnyTorch:
        model = self.torch_model if model is None else model
        left_out = self.partners.only_torch
        return AnyTorch(model, dtype, left_out=left_out, **self.torch_options)


def make_pair(
    model: Any,
    twin: Any = None,
    *,
    given: Any = None,
    rules: Iterable[Rule] = (),
    batch_size: int = 3,
    seed: int = 0,
    preprocess: Prepares | None = None,
    training: tuple[Any, Any] | None = None,
    **others: Any,
) -> Pair:
    """The pair that `check` was given; `others` as `AnyPair` takes them.

    Raises `ValueError` if it is none.
    """
    if _is_foreign(model) or _is_foreign(twin):
        if preprocess or training:
            raise ValueError(
                "preprocess= and training= are for this project's twins; put the preprocessing of "
                "other models into the functions that are compared"
            )
        if _is_torch(model):
            raise ValueError("give the JAX model first: check(jax_model, torch_model, inputs=...)")
        if twin is None or given is None:
            lacking = "a PyTorch model to compare with" if twin is None else "inputs="
            raise ValueError(f"{_called(model)} is not one of this project's twins: give {lacking}")
        if not _is_torch(twin):
            raise ValueError(f"the second model is a {_called(twin)}, not a torch.nn.Module")
        return AnyPair(model, twin, given, rules=rules, seed=seed, **others)
    others_too = {"inputs": given, "rules": tuple(rules), **others}
    used = [f"{name}=" for name, value in others_too.items() if is_used(value)]
    if used:
        raise ValueError(
            f"{', '.join(used)} is for models that are not this project's twins, whose inputs "
            f"follow from the config"
        )
    ours, theirs, subject = resolve_twins(model, twin, seed)
    return TwinPair(
        ours,
        theirs,
        subject,
        batch_size=batch_size,
        seed=seed,
        preprocess=preprocess,
        training=training,
    )


def _is_torch(model: Any) -> bool:
    return isinstance(model, nn.Module)


def _is_foreign(model: Any) -> bool:
    if isinstance(model, vit_jax.ViT | vit_torch.ViT):
        return False
    return isinstance(model, nnx.Module | nn.Module | tuple) or (
        callable(model) and not isinstance(model, type)
    )


def _called(model: Any) -> str:
    model = model[0] if isinstance(model, tuple) else model
    while isinstance(model, functools.partial):
        model = model.func
    model = getattr(model, "__self__", model) if isinstance(model, Callable) else model
    return getattr(model, "__name__", type(model).__name__)


def _depth(named: dict[str, Any]) -> int:
    """One more than the largest number in a path: the blocks of a stack, by the usual naming."""
    numbers = [int(part) for name in named for part in name.split(".") if part.isdigit()]
    return 1 + max(numbers, default=0)
