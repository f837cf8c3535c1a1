"""Optimizers and schedules through Optax. Twin: `vit_torch/optimizers.py`.

Parameters are flat dicts by name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array

from vit_jax.functional import Params
from vit_jax.stack import STACKED, depth_in, each_block, rank_of
from vit_spec import OptimConfig, is_decayed
from vit_spec.groups import (
    check_muon,
    check_names,
    frozen_names,
    is_orthogonalized,
    layer_share,
)
from vit_spec.layout import torch_name

MUON_RMS = 0.2
"""Size of Muon's steps, which is that of AdamW's: https://arxiv.org/abs/2502.16982, equation 4."""


def make_schedule(config: OptimConfig) -> optax.Schedule:
    """The learning rate of each update, counted from 0: see `vit_spec.schedule.learning_rate`."""
    c = config
    cosine = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=c.lr,
        warmup_steps=c.warmup_steps,
        decay_steps=c.total_steps,
        end_value=c.end_lr,
    )

    def rsqrt(step: Array) -> Array:
        rate = c.lr / jnp.sqrt(1 + jnp.maximum(step - c.warmup_steps, 0) / c.timescale)
        if c.cooldown_steps:
            left = jnp.clip((c.total_steps - step) / c.cooldown_steps, 0, 1)
            rate = c.end_lr + (rate - c.end_lr) * left
        return jnp.where(step < c.warmup_steps, c.lr * step / max(c.warmup_steps, 1), rate)

    schedule = cosine if c.schedule == "cosine" else rsqrt
    # Optax counts in int32, and int32 / int is float32 even in x64 mode: seven digits of the rate.
    return lambda step: schedule(jnp.asarray(step, int))


def ema_schedule(config: OptimConfig, step: Any) -> Any:
    """The decay of the moving average in update `step`: see `vit_spec.schedule.ema_decay`."""
    t, most = jnp.asarray(step, int), config.ema_decay or 0.0
    if config.ema_warmup == "timm":
        return jnp.minimum(most, 1 - (1 + t) ** (-2 / 3))
    if config.ema_warmup == "tensorflow":
        return jnp.minimum(most, (1 + t) / (10 + t))
    return most


def make_optimizer(
    config: OptimConfig, *, is_decayed: Callable[[str, int], bool] | None = None
) -> optax.GradientTransformation:
    """Global-norm clipping, then the optimizer of `config`, for flat dicts of parameters.

    `is_decayed(name, rank)` says whether weight decay acts on a parameter; None: as `config` does.
    """
    decay = _decay(config, is_decayed)
    rate = optax.scale_by_learning_rate(make_schedule(config))
    c = config
    parts = {
        "adamw": lambda: (optax.scale_by_adam(c.b1, c.b2, c.eps), decay, rate),
        "lion": lambda: (optax.scale_by_lion(c.b1, c.b2), decay, rate),
        "muon": lambda: (_muon(c), decay, rate),
        "sgd": lambda: (decay, optax.trace(c.momentum) if c.momentum else optax.identity(), rate),
    }[c.optimizer]()
    if config.clip_norm is None:
        return optax.chain(*parts)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), *parts)


def _decay(
    config: OptimConfig, decays: Callable[[str, int], bool] | None
) -> optax.GradientTransformation:
    def decayed(params: Any) -> dict[str, bool]:
        ranks = {name: rank_of(name, p) for name, p in params.items()}
        if decays is not None:
            return {name: decays(name, rank) for name, rank in ranks.items()}
        return {name: is_decayed(name, rank, config.decayed) for name, rank in ranks.items()}

    return optax.add_decayed_weights(config.weight_decay, mask=decayed)


def _muon(config: OptimConfig) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, Adam for the rest."""

    def labels(params: Any) -> dict[str, str]:
        ranks = {name: rank_of(name, p) for name, p in params.items()}
        check_muon(ranks)
        return {n: "muon" if is_orthogonalized(n, rank) else "adam" for n, rank in ranks.items()}

    def dimensions(updates: Any) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), updates)

    def resized(updates: Any, _: Any) -> Any:
        return jax.tree.map(lambda u: MUON_RMS * max(u.shape[-2:]) ** 0.5 * u, updates)

    muon = optax.contrib.scale_by_muon(
        beta=config.momentum, eps=config.eps, weight_dimension_numbers=dimensions
    )
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    parts: Any = {"muon": optax.chain(muon, optax.stateless(resized)), "adam": adam}
    return optax.partition(parts, labels)


def trainable(params: Params, config: OptimConfig) -> Params:
    """The parameters that are not frozen. Raises `ValueError` for a pattern that fits none."""
    if not config.freeze:
        return params
    depth = depth_in(params)
    names = {
        name: [torch_name(one, rank_of(name, p))[0] for one in each_block(name, depth)]
        for name, p in params.items()
    }
    frozen = frozen_names((n for each in names.values() for n in each), config.freeze)
    return {name: p for name, p in params.items() if frozen.isdisjoint(names[name])}


def by_layer(updates: Any, params: Any, config: OptimConfig) -> Any:
    """Updates times the share of their layer; `params` are those of the whole model."""
    if config.layer_decay == 1:
        return updates
    check_names(params, f"layer_decay {config.layer_decay}")
    depth = depth_in(params)

    def share(name: str, update: Array) -> Any:
        shares = [layer_share(n, depth, config.layer_decay) for n in each_block(name, depth)]
        if not name.startswith(STACKED):
            return shares[0]
        return jnp.array(shares, update.dtype).reshape(-1, *[1] * (update.ndim - 1))

    return {name: share(name, update) * update for name, update in updates.items()}


MOMENTS = {"mu": "m", "trace": "m", "nu": "v"}
"""What Optax calls the moments."""


def moments_of_state(opt_state: optax.OptState) -> dict[str, dict[str, Array]]:
    """First moments `m` and second ones `v` by parameter name, as far as there are any."""
    found: dict[str, dict[str, Array]] = {"m": {}, "v": {}}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        kind, name = moment_at(path)
        if kind:
            found[kind][name] = leaf
    return found


def moment_at(path: Any) -> tuple[str, str]:
    """Which moment of which parameter is at a path of an optimizer's state; none: empty."""
    fields = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    kind = next((MOMENTS[field] for field in fields if field in MOMENTS), "")
    return kind, path[-1].key if kind else ""
