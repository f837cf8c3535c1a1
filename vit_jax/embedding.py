"""Position embeddings at any grid. Twin: `vit_torch/embedding.py`.

Shapes: n = rows * columns patches, p tokens before them that have a position, d width.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from vit_spec import ViTConfig
from vit_spec.positions import resample_matrices, sincos2d


def positions(
    pos_embed: Array | None, config: ViTConfig, grid: tuple[int, int], *, dtype: Any
) -> tuple[Array | None, Array]:
    """Positions of the first p tokens (1, p, d) or None, and of the patches (1, n, d) at `grid`.

    A learned table is resampled in its own dtype when `grid` is not the native one; a fixed one is
    computed anew. Both come back as `dtype`.
    """
    if pos_embed is None:
        table = sincos2d(grid, config.width, mae=config.pos_embed == "sincos2d_mae")
        return None, jnp.asarray(table[None], dtype)
    p = config.num_prefix_positions
    prefix, patches = pos_embed[:, :p].astype(dtype) if p else None, pos_embed[:, p:]
    if grid == config.grid:
        return prefix, patches.astype(dtype)
    rows, columns = (jnp.asarray(m, patches.dtype) for m in resample_matrices(config, grid))
    table = patches.reshape(*config.grid, config.width)
    table = jnp.einsum("rh,hwd->rwd", rows, table, precision="highest")
    table = jnp.einsum("cw,rwd->rcd", columns, table, precision="highest")
    return prefix, table.reshape(1, -1, config.width).astype(dtype)
