"""One model of a pair, measured: the same quantities, in the same order, from either framework.

Every method yields `(name, array)` in the order of computation, as NumPy in PyTorch's names and
layout (images and their gradients stay channels-last). Nothing is kept that was handed out.

Shapes: b images of H x W pixels and c channels, k outputs.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

import vit_jax.training as jax_training
import vit_torch.training as torch_training
from parity.capture import Call, nnx_calls, torch_calls
from parity.inputs import Batch
from parity.row_sums import ExactRowSums
from parity.wide_sums import with_wide_sums
from vit_jax.functional import cast, merge, split
from vit_spec import OptimConfig, count_parameters
from vit_spec.layout import State, to_torch_layout
from vit_torch.api import to_numpy, to_tensor

Measurements = Iterator[tuple[str, np.ndarray]]
REMAT_FROM = 100_000_000
"""Parameters from which the JAX side's gradients are computed with remat, as memory asks for."""
Prepare = Callable[[np.ndarray], np.ndarray]
"""A side's own preprocessing: images (b, H, W, c) to what its model takes, channels-last."""


class Side(Protocol):
    """What the levels need of a model."""

    name: str

    def outputs(self, images: np.ndarray) -> Measurements: ...
    def layers(self, images: np.ndarray) -> Measurements: ...
    def gradients(self, images: np.ndarray, cotangent: np.ndarray) -> Measurements: ...
    def train(self, config: OptimConfig, batches: Iterable[Batch]) -> Iterator[Measurements]: ...


class JaxSide:
    """A Flax NNX model in one dtype."""

    name = "jax"

    def __init__(
        self, model: Any, dtype: str, prepare: Prepare | None = None, training: Any = jax_training
    ):
        self.dtype = jnp.dtype(dtype)
        self.model = cast(model, self.dtype)
        self.model.eval()
        self.prepare, self.training = prepare, training

    def outputs(self, images: np.ndarray) -> Measurements:
        """Features and logits."""
        features, logits = _forward(*split(self.model), self._images(images))
        yield "features", np.asarray(features)
        yield "logits", np.asarray(logits)

    def layers(self, images: np.ndarray) -> Measurements:
        """Every measuring point."""
        for name, value in self.model.points(self._images(images)):
            yield name, np.asarray(value)

    def gradients(self, images: np.ndarray, cotangent: np.ndarray) -> Measurements:
        """Gradients of sum(outputs * cotangent) for the images and every parameter."""
        with self._options(remat="full") if self._is_large() else contextlib.nullcontext():
            structure, params = split(self.model)
        given, pull = self._images(images), self._array(cotangent)
        for names in _parts(params) if self._is_large() else [list(params)]:
            part = {name: params[name] for name in names}
            rest = {name: value for name, value in params.items() if name not in part}
            of_part, of_images = _backward(structure, part, rest, given, pull)
            if names[0] == next(iter(params)):
                yield "images", np.asarray(of_images)
            for name in names:  # handed out one by one
                yield from _law({name: of_part.pop(name)}).items()

    def train(self, config: OptimConfig, batches: Iterable[Batch]) -> Iterator[Measurements]:
        """One stream a step: loss, gradient norm, parameters, moments and moving average."""
        structure, params = split(self.model)
        state = self.training.init_state(jax.tree.map(jnp.array, params), config)
        for batch in batches:
            masks = {site: self._array(mask) for site, mask in batch.masks.items()}
            images, labels = self._images(batch.images), jnp.asarray(batch.labels)
            more = {n: self._array(t) for n, t in _taught(config, batch).items()}
            state, metrics = _train_step(
                structure, config, self.training, state, images, labels, masks, more
            )
            yield train_measurements(metrics, _jax_trees(state, self.training))

    def calls(self, images: np.ndarray) -> list[Call]:
        """Every module call of one forward pass, block by block."""
        with self._options(scan=False, remat="none"), nnx_calls(self.model) as calls:
            self.model(self._images(images))
        return calls

    def _is_large(self) -> bool:
        """Too large to keep all activations for the backward pass, if its options do."""
        options = self.model.options
        keeps = options.remat == "none" and not options.scan
        return keeps and count_parameters(self.model.config) > REMAT_FROM

    @contextlib.contextmanager
    def _options(self, **changes: Any) -> Iterator[None]:
        """Other options of speed and memory for a while."""
        options = self.model.options
        self.model.options = dataclasses.replace(options, **changes)
        try:
            yield
        finally:
            self.model.options = options

    def state(self) -> State:
        """The parameters in PyTorch's names and layout."""
        return _law(split(self.model)[1])

    def _images(self, images: np.ndarray) -> Any:
        return self._array(images if self.prepare is None else self.prepare(images))

    def _array(self, array: np.ndarray) -> Any:
        return jnp.asarray(array, self.dtype)


# Compiled once for each structure and shape, and shared by all checks of a process.


@partial(jax.jit, static_argnums=0)
def _forward(structure: Any, params: dict[str, Any], images: Any) -> tuple[Any, Any]:
    model = merge(structure, params)
    return model.features(images), model(images)


@partial(jax.jit, static_argnums=0)
def _backward(
    structure: Any, params: dict[str, Any], rest: dict[str, Any], images: Any, cotangent: Any
) -> tuple[Any, Any]:
    """Gradients of `params` and of the images; `rest` are the other parameters."""

    def gradients(params: Any, rest: Any, images: Any, cotangent: Any) -> tuple[Any, Any]:
        _, backward = jax.vjp(lambda p, x: merge(structure, {**rest, **p})(x), params, images)
        return backward(cotangent)

    return with_wide_sums(gradients)(params, rest, images, cotangent)


def _parts(params: dict[str, Any]) -> list[list[str]]:
    """Names in two halves, the later blocks last, so that only half the gradients exist at once.

    Without blocks, or with one that has all parameters, there is one part.
    """
    numbers = {name: int(name.split(".")[1]) for name in params if name.startswith("blocks.")}
    middle = (max(numbers.values(), default=0) + 1) // 2
    late = [name for name, number in numbers.items() if number >= middle]
    return [part for part in ([name for name in params if name not in late], late) if part]


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _train_step(
    structure: Any,
    config: OptimConfig,
    training: Any,
    state: Any,
    images: Any,
    labels: Any,
    masks: Any,
    more: dict[str, Any],
) -> Any:
    return training.make_train_step(structure, config)(state, images, labels, masks, **more)


class TorchSide:
    """A `torch.nn.Module` in one dtype, on the CPU or wherever it was."""

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        dtype: str,
        prepare: Prepare | None = None,
        training: Any = torch_training,
    ):
        self.dtype = getattr(torch, dtype)
        self.model: Any = in_dtype(model, self.dtype)
        self.device = next(self.model.parameters()).device
        self.prepare, self.training = prepare, training
        self.sums = ExactRowSums()

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> Measurements:
        """Features and logits."""
        channels_first = self._images(images)
        yield "features", to_numpy(self.model.features(channels_first))
        yield "logits", to_numpy(self.model(channels_first))

    @torch.no_grad()
    def layers(self, images: np.ndarray) -> Measurements:
        """Every measuring point."""
        for name, value in self.model.points(self._images(images)):
            yield name, to_numpy(value)

    def gradients(self, images: np.ndarray, cotangent: np.ndarray) -> Measurements:
        """Gradients of sum(outputs * cotangent) for the images and every parameter."""
        self.model.zero_grad(set_to_none=True)
        channels_first: Any = self._images(images).requires_grad_()
        outputs = self.model(channels_first, {})
        with self.sums:
            outputs.backward(self._tensor(cotangent))
        yield "images", to_numpy(channels_first.grad.permute(0, 2, 3, 1))
        for name, parameter in self.model.named_parameters():  # none: nothing depends on it
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = None  # handed out one by one
            yield name, to_numpy(grad)

    def train(self, config: OptimConfig, batches: Iterable[Batch]) -> Iterator[Measurements]:
        """One stream a step: loss, gradient norm, parameters, moments and moving average."""
        model = copy.deepcopy(self.model)
        optimizer = self.training.make_optimizer(model, config)
        ema = self.training.init_ema(model, config)
        for step, batch in enumerate(batches):
            masks = {site: self._tensor(mask) for site, mask in batch.masks.items()}
            labels = torch.from_numpy(batch.labels).to(self.device)
            with self.sums:
                metrics = self.training.train_step(
                    model,
                    optimizer,
                    self._images(batch.images),
                    labels,
                    masks,
                    config=config,
                    step=step,
                    ema=ema,
                    **{n: self._tensor(t) for n, t in _taught(config, batch).items()},
                )
            first, second = self.training.moments(model, optimizer)
            trees = {
                "param": dict(model.named_parameters()),
                "m": first,
                "v": second,
                "ema": ema or {},
            }
            yield train_measurements(metrics, trees)

    @torch.no_grad()
    def calls(self, images: np.ndarray) -> list[Call]:
        """Every module call of one forward pass."""
        with torch_calls(self.model) as calls:
            self.model(self._images(images))
        return calls

    def state(self) -> State:
        """The parameters by name."""
        return {name: to_numpy(p) for name, p in self.model.named_parameters()}

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_tensor(array).to(self.device, self.dtype)

    def _images(self, images: np.ndarray) -> Tensor:
        prepared = images if self.prepare is None else self.prepare(images)
        return self._tensor(prepared).permute(0, 3, 1, 2).contiguous()


def _taught(config: OptimConfig, batch: Batch) -> dict[str, np.ndarray]:
    """The teacher's logits, if `config` learns from one."""
    wanted = config.distill != "none" and batch.teacher is not None
    return {"teacher": batch.teacher} if wanted else {}  # type: ignore


def in_dtype(model: nn.Module, dtype: torch.dtype) -> Any:
    """A copy of a model in evaluation mode that shares the parameters it already has in `dtype`."""
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(dtype), p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, shared).to(dtype).eval()


def _law(params: dict[str, Any]) -> dict[str, np.ndarray]:
    return to_torch_layout({name: np.asarray(value) for name, value in params.items()})


def _jax_trees(state: Any, training: Any) -> dict[str, dict[str, Any]]:
    first, second = training.moments(state)
    trees = {"param": state.params, "m": first, "v": second, "ema": state.ema or {}}
    return {kind: dict(_law(tree)) for kind, tree in trees.items()}


def train_measurements(metrics: dict[str, Any], trees: dict[str, dict[str, Any]]) -> Measurements:
    """One training step: metrics, then `param`, `m`, `v` and `ema` with their names."""
    for name in ("loss", "grad_norm", "lr"):
        yield name, _numpy(metrics[name])
    for kind, tree in trees.items():
        for name, value in tree.items():
            yield f"{kind} {name}", _numpy(value)


def _numpy(value: Any) -> np.ndarray:
    return to_numpy(value) if isinstance(value, Tensor) else np.asarray(value)
