"""Dropout and stochastic-depth masks. Twin: `vit_torch/masks.py`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.sharding import constrain
from vit_spec import ViTConfig, mask_sites
from vit_spec.masks import check_masks

Rngs = nnx.Rngs | nnx.RngStream | Array
"""Where masks come from, as in `nnx.Dropout`: the stream `dropout`, a stream, or a key."""


def sample_masks(
    config: ViTConfig,
    batch_size: int,
    *,
    key: Array,
    grid: tuple[int, int] | None = None,
    dtype: Any = jnp.float32,
    together: bool = False,
) -> dict[str, Array]:
    """Multipliers by site (0 or 1 / keep) for one training step; call it in the jitted step.

    `together` draws the same numbers (with JAX's default generator) in one operation for all sites
    of a shape, which compiles faster: for models with `scan`, which need all masks at once anyway.
    """
    sites = mask_sites(config, batch_size, grid=grid)

    def draw(index: Any, keep: Any, shape: tuple[int, ...]) -> Array:
        kept = jax.random.bernoulli(jax.random.fold_in(key, index), keep, shape)
        return kept.astype(dtype) / jnp.asarray(keep, dtype)

    if not together:
        return {name: draw(i, keep, shape) for i, (name, (shape, keep)) in enumerate(sites.items())}
    masks: dict[str, Array] = {}
    for shape in dict.fromkeys(shape for shape, _ in sites.values()):
        chosen = [i for i, (other, _) in enumerate(sites.values()) if other == shape]
        keeps = [keep for other, keep in sites.values() if other == shape]
        drawn = jax.vmap(partial(draw, shape=shape))(jnp.array(chosen), jnp.array(keeps, float))
        # Left to itself, XLA (jax 0.10.2) draws other numbers on a mesh with `tensor`.
        drawn = constrain(drawn, None, "batch")
        masks |= zip((list(sites)[i] for i in chosen), drawn, strict=True)
    return masks


def masks_of_call(
    config: ViTConfig,
    masks: Mapping[str, Array] | None,
    rngs: Rngs | None,
    *,
    training: bool,
    images: Array,
    **how: Any,
) -> Mapping[str, Array] | None:
    """The masks that a model applies in one call: those given, else in training new ones by `rngs`.

    `how` is as in `sample_masks`. Raises `ValueError` for masks of unknown sites, and in training
    if there is something to drop and neither masks nor `rngs`.
    """
    if masks is not None:
        check_masks(masks, config)
        return masks
    if not training or not (config.dropout or config.drop_path):
        return None
    if rngs is None:
        raise ValueError(
            f"the model is in training mode with dropout {config.dropout} and drop_path "
            f"{config.drop_path}, and has no random numbers for them: give rngs=nnx.Rngs(0) to the "
            "call, set model.rngs = nnx.Rngs(0) once, give masks=vit_jax.sample_masks(...), or "
            "turn both off by model.eval()"
        )
    if isinstance(rngs, nnx.Rngs):
        key = rngs.dropout()
    else:
        key = rngs() if isinstance(rngs, nnx.RngStream) else rngs
    grid = config.grid_of(*images.shape[1:3])
    return sample_masks(config, images.shape[0], key=key, grid=grid, **how)


def of_block(masks: Mapping[str, Array] | None, index: int) -> dict[str, Array] | None:
    """The masks of one block, under the names that it knows."""
    if not masks:
        return None
    prefix = f"blocks.{index}."
    return {
        name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)
    }
