"""Dropout and stochastic-depth masks. Twin: `vit_torch/masks.py`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vit_spec import ViTConfig, mask_sites


def sample_masks(
    config: ViTConfig,
    batch_size: int,
    *,
    key: Array,
    grid: tuple[int, int] | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Multipliers by site (0 or 1 / keep) for one training step; call it in the jitted step."""
    sites = mask_sites(config, batch_size, grid=grid)

    def draw(index: int, shape: tuple[int, ...], keep: float) -> Array:
        return (
            jax.random.bernoulli(jax.random.fold_in(key, index), keep, shape).astype(dtype) / keep
        )

    return {name: draw(i, shape, keep) for i, (name, (shape, keep)) in enumerate(sites.items())}


def of_block(masks: Mapping[str, Array] | None, index: int) -> dict[str, Array] | None:
    """The masks of one block, under the names that it knows."""
    if not masks:
        return None
    prefix = f"blocks.{index}."
    return {
        name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)
    }
