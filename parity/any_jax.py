"""Any JAX model as a side of a check: a Flax NNX module, or a function with its parameters.

Twin: `parity/any_torch.py`. Names and layout of what is measured are PyTorch's.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.core import meta

import vit_jax.training as training
from parity.capture import IMAGE_MODULES, Call, linen_calls, nnx_calls
from parity.feeds import AnyBatch
from parity.partners import Partners, flat, jax_tensors
from parity.points import Points
from parity.sides import Measurements
from parity.structures import Image, arguments, is_float, named, numpy, refused, replaced
from parity.wide_sums import with_wide_sums
from vit_jax.functional import Params, cast, undotted
from vit_jax.losses import loss_fn
from vit_spec import OptimConfig, is_decayed
from vit_spec.layout import State

Form = tuple[Any, tuple[tuple[int, Any], ...]]
"""Structure of a call's arguments, and those that are no arrays, such as `train=False`."""


class AnyJax:
    """A model as `apply(params, *args)`, in one dtype.

    `model` is an NNX module, a function `(params, *inputs)` with its parameters as a pair, or a
    function of the inputs alone. `pick` chooses from what it returns, `kwargs` go to it alone.
    """

    name = "jax"

    def __init__(
        self,
        model: Any,
        dtype: str,
        partners: Partners,
        *,
        image_outputs: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        pick: Callable[[Any], Any] | None = None,
    ):
        self.dtype, self.partners, self.image_outputs = jnp.dtype(dtype), partners, image_outputs
        self.kwargs = replaced(kwargs or {}, self._leaf)
        self.pick = pick or (lambda output: output)
        self.points = Points(partners)
        self.unplaced: tuple[str, ...] = ()  # modules of the last pass without a partner
        self.module: Any = None
        self.variables: Any = None  # Linen's, to call its modules again
        if isinstance(model, nnx.Module):
            self.module = model = cast(model, self.dtype)
            self.module.eval()
            structure, params, rest = nnx.split(self.module, nnx.Param, ...)
            order = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(params)]

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                leaves = [(undotted(name), nnx.Param(params[name])) for name in order]
                return nnx.merge(structure, nnx.from_flat_state(leaves), rest)(*args, **kwargs)

        elif isinstance(model, tuple):
            function, tree = model
            flat(tree)  # raises unless all leaves are arrays
            tree = jax.tree.map(self._leaf, meta.unbox(tree))
            model = (function, tree)
            linen = isinstance(tree, Mapping) and "params" in tree
            params = tree["params"] if linen else tree
            rest = {kind: part for kind, part in tree.items() if kind != "params"} if linen else {}
            self.variables = {**rest, "params": params}
            structure, order = jax.tree.structure(params), list(flat(params))

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                filled = jax.tree.unflatten(structure, [params[name] for name in order])
                return function({**rest, "params": filled} if linen else filled, *args, **kwargs)

        else:

            def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
                return model(*args, **kwargs)

        params, *buffers = jax_tensors(model)
        self.apply = apply
        self.params: Params = {n: p for n, p in params.items() if n not in partners.only_jax}
        self.fixed: Params = {n: p for n, p in params.items() if n in partners.only_jax}
        self.buffers = {n: b for part in buffers for n, b in part.items() if n in partners.ranks}
        self._forward = jax.jit(self._run, static_argnums=0)

    def state(self) -> State:
        """Parameters and batch statistics in PyTorch's names and layout."""
        return self._in_torch_layout({**self.params, **self.buffers})

    def outputs(self, given: Any) -> Measurements:
        """Every output by its place in the structure."""
        form, arrays = self._split(given)
        try:
            outputs = self._forward(form, self.params, arrays)
        except (RuntimeError, TypeError, ValueError) as error:
            raise refused("JAX", given, error) from error
        for name, value in outputs.items():
            yield name, numpy(value)

    def layers(self, given: Any) -> Measurements:
        """The output of every module that was called, under PyTorch's path, as they finished."""
        calls = self.calls(given)
        self.unplaced = tuple(c.path for c in calls if self.points.place(c.path) is None)
        for point in self.points.placed(calls):
            for name, value in named(point.call.output, point.path or "output"):
                array = point.output(value)
                images = array.ndim == 4 and point.call.kind.startswith(IMAGE_MODULES)
                yield name, np.moveaxis(array, -1, 1) if images else array

    def gradients(self, given: Any, cotangent: Mapping[str, np.ndarray]) -> Measurements:
        """Gradients of sum(outputs * cotangent) for floating-point inputs and every parameter."""
        form, arrays = self._split(given)
        floats = {i: array for i, array in enumerate(arrays) if is_float(array)}

        @jax.jit
        @with_wide_sums
        def backward(params: Params, floats: dict[int, Any], pull: Any) -> Any:
            def run(params: Params, floats: dict[int, Any]) -> Any:
                filled = [floats.get(i, array) for i, array in enumerate(arrays)]
                outputs = self._run(form, params, filled)
                return {  # what only PyTorch returns, or in another shape, failed as an output
                    name: outputs[name]
                    for name, pull in cotangent.items()
                    if name in outputs and jnp.shape(outputs[name]) == pull.shape
                }

            outputs, back = jax.vjp(run, params, floats)
            return back({name: pull[name].astype(o.dtype) for name, o in outputs.items()})

        pull = {name: jnp.asarray(value, self.dtype) for name, value in cotangent.items()}
        of_params, of_inputs = backward(self.params, floats, pull)
        for name, value in of_inputs.items():
            yield f"input {name}", numpy(value)
        yield from self._in_torch_layout(of_params).items()

    def train(self, config: OptimConfig, batches: Iterable[AnyBatch]) -> Iterator[Measurements]:
        """One stream a step: loss, gradient norm, rate, parameters, moments and average."""
        theirs = self.partners.names.torch_names(self.partners.ranks)
        ranks = {name: p.ndim for name, p in self._in_torch_layout(self.params).items()}
        optimizer = training.make_optimizer(
            config,  # PyTorch's rank: Linen's biases of attention are matrices (heads, channels)
            is_decayed=lambda name, rank: is_decayed(theirs[name][0], ranks[theirs[name][0]]),
        )
        schedule = training.make_schedule(config)

        @functools.partial(jax.jit, static_argnums=0)
        def update(form: Form, state: training.TrainState, arrays: Any, targets: Any) -> Any:
            def objective(params: Params) -> Any:
                return loss(self._run(form, params, arrays), targets, config)

            value, grads = jax.value_and_grad(objective)(state.params)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            metrics = {
                "loss": value,
                "grad_norm": optax.tree.norm(grads),
                "lr": jnp.asarray(schedule(state.step)),
            }
            ema = training.averaged(state.ema, params, config, state.step)
            return training.TrainState(state.step + 1, params, opt_state, ema), metrics

        params = jax.tree.map(jnp.array, self.params)
        state = training.TrainState(
            jnp.zeros((), jnp.int32), params, optimizer.init(params), dict(params)
        )
        for batch in batches:
            form, arrays = self._split(batch.inputs)
            targets = {
                name: jnp.asarray(t, self.dtype if t.dtype.kind == "f" else None)
                for name, t in batch.targets.items()
            }
            state, metrics = update(form, state, arrays, targets)
            yield self._step_measurements(state, metrics)

    def calls(self, given: Any) -> list[Call]:
        """Every module call of one forward pass, in JAX's paths."""
        args, kwargs = self._arguments(given)
        kwargs |= self.kwargs
        if self.module is not None:
            with nnx_calls(self.module) as calls:
                self.module(*args, **kwargs)
            return calls
        with linen_calls() as calls:
            output = self.apply({**self.fixed, **self.params}, *args, **kwargs)
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
        return self.partners.names.to_torch({n: np.asarray(value) for n, value in tree.items()})

    def _run(self, form: Form, params: Params, arrays: Any) -> dict[str, Any]:
        """Outputs by name, in PyTorch's layout."""
        structure, constants = form
        leaves = list(arrays)
        for place, constant in constants:
            leaves.insert(place, constant)
        args, kwargs = jax.tree.unflatten(structure, leaves)
        output = self.apply({**self.fixed, **params}, *args, **{**kwargs, **self.kwargs})
        outputs = dict(named(self.pick(output), "output"))
        return {
            name: jnp.moveaxis(value, -1, 1) if self.image_outputs and value.ndim == 4 else value
            for name, value in outputs.items()
        }

    def _arguments(self, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments(replaced(given, self._leaf))

    def _split(self, given: Any) -> tuple[Form, list[Any]]:
        """Inputs as what a compiled function is made for, and the arrays that it is fed."""
        leaves, structure = jax.tree.flatten(self._arguments(given))
        constants = tuple((i, v) for i, v in enumerate(leaves) if not isinstance(v, jax.Array))
        return (structure, constants), [v for v in leaves if isinstance(v, jax.Array)]

    def _leaf(self, value: Any) -> Any:
        array = value.array if isinstance(value, Image) else value
        return jnp.asarray(array, self.dtype if is_float(array) else None)


def loss(outputs: Mapping[str, Any], targets: Mapping[str, Any], config: OptimConfig) -> Any:
    """Cross-entropy where targets are classes, otherwise half the mean square difference."""
    total = jnp.zeros(())
    for name, target in targets.items():
        if jnp.issubdtype(target.dtype, jnp.integer):
            total += loss_fn(outputs[name], target, label_smoothing=config.label_smoothing)
        else:
            total += 0.5 * jnp.mean(jnp.square(outputs[name] - target))
    return total
