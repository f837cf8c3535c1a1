"""Loss, optimizer and one training step. Twin: `vit_torch/training.py`.

Shapes: b images, k classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vit_jax.functional import Params, merge
from vit_spec import OptimConfig, is_decayed

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """All that a training run carries from step to step."""

    step: Array  # updates done so far, int32
    params: Params
    opt_state: optax.OptState
    ema: Params | None  # moving average of `params`


def make_schedule(config: OptimConfig) -> optax.Schedule:
    """Linear warmup from 0, then cosine: the learning rate of each update, counted from 0."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.lr,
        warmup_steps=config.warmup_steps,
        decay_steps=config.total_steps,
        end_value=config.end_lr,
    )
    # Optax counts in int32, and int32 / int is float32 even in x64 mode: seven digits of the rate.
    return lambda step: schedule(jnp.asarray(step, int))


def make_optimizer(
    config: OptimConfig, *, is_decayed: Callable[[str, int], bool] = is_decayed
) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW that decays kernels only, for flat dicts of parameters.

    `is_decayed(name, rank)` says whether weight decay acts on a parameter.
    """

    def decayed(params: Params) -> dict[str, bool]:
        return {name: is_decayed(name, p.ndim) for name, p in params.items()}

    adamw = optax.adamw(
        make_schedule(config),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def init_state(params: Params, config: OptimConfig) -> TrainState:
    """The state before the first step."""
    ema = None if config.ema_decay is None else jax.tree.map(jnp.array, params)
    opt_state = make_optimizer(config).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema)


def loss_fn(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Mean cross-entropy of logits (b, k) with labels (b,) or probabilities (b, k).

    Integer `labels` name a class each; floating ones, as Mixup and CutMix make them, are the
    targets themselves. `label_smoothing` acts on both. All in at least float32.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if labels.ndim == logits.ndim:
        targets = labels.astype(logits.dtype)
    else:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def hits(logits: Array, labels: Array) -> Array:
    """Whether the largest logit (b, k) is that of the label (b,), or of the likeliest (b, k)."""
    classes = labels.argmax(-1) if labels.ndim == logits.ndim else labels
    return logits.argmax(-1) == classes


def make_train_step(
    structure: Any, config: OptimConfig
) -> Callable[[TrainState, Array, Array, Mapping[str, Array] | None], tuple[TrainState, Metrics]]:
    """One update as a pure function `(state, images, labels, masks) -> (state, metrics)`.

    Metrics are of the batch before the update: `loss`, `accuracy`, the gradients' norm before
    clipping `grad_norm`, and the learning rate `lr`. Jit it with `donate_argnums=0`.
    """
    optimizer, schedule = make_optimizer(config), make_schedule(config)

    def train_step(
        state: TrainState, images: Array, labels: Array, masks: Mapping[str, Array] | None = None
    ) -> tuple[TrainState, Metrics]:
        def objective(params: Params) -> tuple[Array, Array]:
            logits = merge(structure, params)(images, masks)
            return loss_fn(logits, labels, label_smoothing=config.label_smoothing), logits

        (loss, logits), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(hits(logits, labels), dtype=jnp.float32),
            "grad_norm": optax.tree.norm(grads),
            "lr": jnp.asarray(schedule(state.step)),
        }
        return TrainState(
            state.step + 1, params, opt_state, averaged(state.ema, params, config)
        ), metrics

    return train_step


def averaged(ema: Params | None, params: Params, config: OptimConfig) -> Any:
    """decay * ema + (1 - decay) * params."""
    if ema is None or config.ema_decay is None:
        return None
    return optax.incremental_update(params, ema, 1 - config.ema_decay)


def moments(state: TrainState) -> tuple[Any, Any]:
    """Adam's first and second moments by parameter name."""
    adam = next(
        part
        for part in jax.tree.leaves(
            state.opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        )
        if isinstance(part, optax.ScaleByAdamState)
    )
    return adam.mu, adam.nu
