"""State and one training step. Twin: `vit_torch/training.py`.

Shapes: b images, k classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vit_jax.functional import Params, merge
from vit_jax.losses import distillation_losses, hits, losses
from vit_jax.optimizers import (
    by_layer,
    ema_schedule,
    make_optimizer,
    make_schedule,
    moments_of_state,
    trainable,
)
from vit_spec import OptimConfig

Metrics = dict[str, Array]
TrainStep = Callable[..., tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """All that a training run carries from step to step."""

    step: Array  # updates done so far, int32
    params: Params
    opt_state: optax.OptState  # without moments of frozen parameters
    ema: Params | None  # moving average of `params`


def init_state(params: Params, config: OptimConfig) -> TrainState:
    """The state before the first step. Raises `ValueError` for a `freeze` that fits nothing."""
    ema = None if config.ema_decay is None else jax.tree.map(jnp.array, params)
    opt_state = make_optimizer(config).init(trainable(params, config))
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema)


def make_train_step(structure: Any, config: OptimConfig) -> TrainStep:
    """One update as a pure function `(state, images, labels, masks) -> (state, metrics)`.

    Two more arguments may be given by name. `teacher` (b, k): the teacher's logits, which
    `config.distill` asks for. `weights` (b,): the share of each image in all means; 0 leaves one
    out, such as padding. Metrics are of the batch before the update: `loss`, `accuracy`, the
    gradients' norm before clipping `grad_norm`, and the learning rate `lr`. Jit it with
    `donate_argnums=0`.
    """
    optimizer, schedule = make_optimizer(config), make_schedule(config)

    def train_step(
        state: TrainState,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array] | None = None,
        *,
        teacher: Array | None = None,
        weights: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        trained = trainable(state.params, config)
        wide = jnp.promote_types(next(iter(trained.values())).dtype, jnp.float32)
        weights = jnp.ones(len(labels), wide) if weights is None else weights.astype(wide)

        def objective(params: Params, batch: Any) -> tuple[Array, Array]:
            images, labels, masks, teacher, shares = batch
            model = merge(structure, {**state.params, **params})
            logits, cost = costs(model, images, labels, masks, teacher, config)
            return (shares * cost).sum(), (shares * hits(logits, labels)).sum()

        backward = jax.value_and_grad(objective, has_aux=True)
        batch = (images, labels, masks, teacher, weights / weights.sum())
        (loss, accuracy), grads = summed(backward, trained, batch, config.accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        updates = by_layer(updates, state.params, config)
        params: Any = {**state.params, **optax.apply_updates(trained, updates)}  # type: ignore
        metrics = {
            "loss": loss,
            "accuracy": accuracy.astype(jnp.float32),
            "grad_norm": optax.tree.norm(grads),
            "lr": jnp.asarray(schedule(state.step)),
        }
        ema = averaged(state.ema, params, config, state.step)
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step


def costs(
    model: Any, images: Array, labels: Array, masks: Any, teacher: Any, config: OptimConfig
) -> tuple[Array, Array]:
    """Logits (b, k), and what each image (b,) costs with the teacher's share.

    With a distillation token the labels have the first head and the teacher the second one.
    """
    if (teacher is None) != (config.distill == "none"):
        raise ValueError(
            f"distill {config.distill!r} and {'no ' if teacher is None else ''}logits of a "
            f"teacher: give both or neither"
        )
    if teacher is None:
        logits = model(images, masks)
        return logits, losses(logits, labels, config)
    if model.config.distillation_token:
        ours, distilled = model.distilled(images, masks)
    else:
        ours = distilled = model(images, masks)
    share = config.distill_alpha
    cost = (1 - share) * losses(ours, labels, config)
    cost += share * distillation_losses(distilled, teacher, config)
    return (ours + distilled) / 2, cost


def summed(backward: Callable[..., Any], params: Params, batch: Any, parts: int) -> Any:
    """The sum of `backward(params, part)` over equal parts of a batch, one after the other.

    Part i has the images i, i + parts, ...: on many devices each keeps its own.
    """
    if parts == 1:
        return backward(params, batch)
    size = len(batch[0])
    if size % parts:
        raise ValueError(
            f"a batch of {size} has no {parts} equal parts: set accumulate to a divisor of {size}"
        )

    def split(x: Array) -> Array:
        return x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def body(total: Any, part: Any) -> tuple[Any, None]:
        # So that XLA gathers a layer where it runs, not all of them before the loop.
        total, held = jax.lax.optimization_barrier((total, params))
        return jax.tree.map(jnp.add, total, backward(held, part)), None

    batches = jax.tree.map(split, batch)
    shapes = jax.eval_shape(backward, params, jax.tree.map(lambda x: x[0], batches))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(body, zeros, batches)[0]


def averaged(ema: Params | None, params: Params, config: OptimConfig, step: Any) -> Any:
    """decay * ema + (1 - decay) * params after update `step`, counted from 0."""
    if ema is None or config.ema_decay is None:
        return None
    return optax.incremental_update(params, ema, 1 - ema_schedule(config, step))


def moments(state: TrainState) -> tuple[Any, Any]:
    """First and second moments by parameter name, as far as the optimizer keeps them."""
    found = moments_of_state(state.opt_state)
    return found["m"], found["v"]
