"""Any JAX model as a side of a check: a Flax NNX module, or a function with its parameters.

Twin: `parity/any_torch.py`. Names and layout of what is measured are PyTorch's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vit_jax.training as training
from parity.capture import IMAGE_MODULES, Call, linen_calls, nnx_calls
from parity.feeds import AnyBatch
from parity.rules import Names
from parity.sides import Measurements
from parity.structures import Image, arguments, is_float, named, numpy, replaced
from vit_jax.functional import Params, cast, undotted
from vit_spec import OptimConfig, is_decayed
from vit_spec.layout import State


def flat(tree: Any) -> dict[str, Any]:
    """A tree of parameters by dotted name; Linen's outer `params` is not part of the names."""
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"parameters must be a nested dict of arrays, as Flax and Haiku keep them, not "
            f"{type(tree).__name__}"
        )
    leaves = flax.traverse_util.flatten_dict(dict(tree), sep=".")
    if leaves and all(name.startswith(("params.", "batch_stats.")) for name in leaves):
        leaves = {name.partition(".")[2]: leaf for name, leaf in leaves.items()}
    return leaves


class AnyJax:
    """A model as `apply(params, *args)`, in one dtype.

    `model` is an NNX module, a function `(params, *inputs)` with its parameters as a pair, or a
    function of the inputs alone.
    """

    name = "jax"

    def __init__(self, model: Any, dtype: str, names: Names, *, image_outputs: bool = False):
        self.dtype, self.names, self.image_outputs = jnp.dtype(dtype), names, image_outputs
        self.buffers: dict[str, Any] = {}
        self.module: Any = None
        self.variables: Any = None  # Linen's, to call its modules again
        if isinstance(model, nnx.Module):
            self.module = cast(model, self.dtype)
            self.module.eval()
            structure, params, rest = nnx.split(self.module, nnx.Param, ...)
            self.params: Params = {
                ".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(params)
            }
            self.buffers = {
                ".".join(map(str, path)): v[...]
                for path, v in nnx.to_flat_state(rest)
                if isinstance(v, nnx.BatchStat)
            }

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                leaves = [(undotted(name), nnx.Param(value)) for name, value in params.items()]
                return nnx.merge(structure, nnx.from_flat_state(leaves), rest)(*args, **kwargs)

        elif isinstance(model, tuple):
            function, tree = model
            self.variables = _variables(jax.tree.map(self._leaf, dict(tree)))
            self.params = {name: self._leaf(leaf) for name, leaf in flat(tree).items()}
            names_of_tree = list(flax.traverse_util.flatten_dict(dict(tree)))

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                nested = zip(names_of_tree, params.values(), strict=True)
                return function(flax.traverse_util.unflatten_dict(dict(nested)), *args, **kwargs)

        else:
            self.params = {}

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                return model(*args, **kwargs)

        self.apply = apply
        self.order = list(self.params)
        self._forward = jax.jit(self._outputs)

    def state(self) -> State:
        """Parameters and batch statistics in PyTorch's names and layout."""
        return self.names.to_torch(
            {name: np.asarray(value) for name, value in {**self.params, **self.buffers}.items()}
        )

    def outputs(self, given: Any) -> Measurements:
        """Every output by its place in the structure."""
        args, kwargs = self._arguments(given)
        for name, value in self._forward(self.params, args, kwargs).items():
            yield name, numpy(value)

    def layers(self, given: Any) -> Measurements:
        """The output of every module that was called, under PyTorch's path, as they finished."""
        for call in self.calls(given):
            for name, value in named(call.output, self.names.point(call.path) or "output"):
                array = numpy(value)
                images = array.ndim == 4 and call.kind.startswith(IMAGE_MODULES)
                yield name, np.moveaxis(array, -1, 1) if images else array

    def gradients(self, given: Any, cotangent: Mapping[str, np.ndarray]) -> Measurements:
        """Gradients of sum(outputs * cotangent) for floating-point inputs and every parameter."""
        leaves: list[Any] = []
        replaced(given, lambda value: leaves.append(self._leaf(value)))
        floats = {str(i): leaf for i, leaf in enumerate(leaves) if is_float(leaf)}

        def run(params: Params, floats: dict[str, Any]) -> Any:
            filled = iter([floats.get(str(i), leaf) for i, leaf in enumerate(leaves)])
            args, kwargs = arguments(replaced(given, lambda value: next(filled)))
            outputs = self._outputs(params, args, kwargs)
            return {name: outputs[name] for name in cotangent}

        @jax.jit
        def backward(params: Params, floats: dict[str, Any], pull: Any) -> Any:
            return jax.vjp(run, params, floats)[1](pull)

        pull = {name: jnp.asarray(value, self.dtype) for name, value in cotangent.items()}
        of_params, of_inputs = backward(self.params, floats, pull)
        for name, value in of_inputs.items():
            yield f"input {name}", numpy(value)
        yield from self._in_torch_layout(of_params).items()

    def train(self, config: OptimConfig, batches: Iterable[AnyBatch]) -> Iterator[Measurements]:
        """One stream a step: loss, gradient norm, rate, parameters, moments and average."""
        theirs = self.names.torch_names({n: p.ndim for n, p in self.params.items()})
        optimizer = training.make_optimizer(
            config, is_decayed=lambda name, rank: is_decayed(theirs[name][0], rank)
        )
        schedule = training.make_schedule(config)

        @jax.jit
        def update(state: training.TrainState, args: Any, kwargs: Any, targets: Any) -> Any:
            def objective(params: Params) -> Any:
                return loss(self._outputs(params, args, kwargs), targets, config)

            value, grads = jax.value_and_grad(objective)(state.params)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            metrics = {
                "loss": value,
                "grad_norm": optax.tree.norm(grads),
                "lr": jnp.asarray(schedule(state.step)),
            }
            ema = training.averaged(state.ema, params, config)
            return training.TrainState(state.step + 1, params, opt_state, ema), metrics

        params = jax.tree.map(jnp.array, self.params)
        state = training.TrainState(
            jnp.zeros((), jnp.int32), params, optimizer.init(params), dict(params)
        )
        for batch in batches:
            args, kwargs = self._arguments(batch.inputs)
            targets = {
                name: jnp.asarray(t, self.dtype if t.dtype.kind == "f" else None)
                for name, t in batch.targets.items()
            }
            state, metrics = update(state, args, kwargs, targets)
            yield self._step_measurements(state, metrics)

    def calls(self, given: Any) -> list[Call]:
        """Every module call of one forward pass, in JAX's paths."""
        args, kwargs = self._arguments(given)
        if self.module is not None:
            with nnx_calls(self.module) as calls:
                self.module(*args, **kwargs)
            return calls
        with linen_calls() as calls:
            output = self.apply(self.params, *args, **kwargs)
        if not any(call.path == "" for call in calls):
            calls.append(Call("", None, args, kwargs, output))
        return calls

    def _step_measurements(self, state: training.TrainState, metrics: Any) -> Measurements:
        for name, value in metrics.items():
            yield name, numpy(value)
        first, second = training.moments(state)
        trees = {"param": state.params, "m": first, "v": second, "ema": state.ema or {}}
        for kind, tree in trees.items():
            for name, value in self._in_torch_layout(tree).items():
                yield f"{kind} {name}", value

    def _in_torch_layout(self, tree: Mapping[str, Any]) -> State:
        return self.names.to_torch({name: np.asarray(tree[name]) for name in self.order})

    def _outputs(self, params: Params, args: Any, kwargs: Any) -> dict[str, Any]:
        """Floating-point outputs by name, in PyTorch's layout."""
        ordered = {name: params[name] for name in self.order}
        outputs = dict(named(self.apply(ordered, *args, **kwargs), "output"))
        return {
            name: jnp.moveaxis(value, -1, 1) if self.image_outputs and value.ndim == 4 else value
            for name, value in outputs.items()
        }

    def _arguments(self, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments(replaced(given, self._leaf))

    def _leaf(self, value: Any) -> Any:
        array = value.array if isinstance(value, Image) else value
        return jnp.asarray(array, self.dtype if is_float(array) else None)


def _variables(tree: Any) -> Any:
    return tree if "params" in tree else {"params": tree}


def loss(outputs: Mapping[str, Any], targets: Mapping[str, Any], config: OptimConfig) -> Any:
    """Cross-entropy where targets are classes, otherwise half the mean square difference."""
    total = jnp.zeros(())
    for name, target in targets.items():
        if jnp.issubdtype(target.dtype, jnp.integer):
            total += training.loss_fn(outputs[name], target, label_smoothing=config.label_smoothing)
        else:
            total += 0.5 * jnp.mean(jnp.square(outputs[name] - target))
    return total
