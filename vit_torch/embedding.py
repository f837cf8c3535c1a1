"""Position embeddings at any grid. Twin: `vit_jax/embedding.py`.

Shapes: n = rows * columns patches, p tokens before them that have a position, d width.
"""

from functools import lru_cache

import torch
from torch import Tensor

from vit_spec import ViTConfig
from vit_spec.positions import resample_matrices, sincos2d


def positions(
    pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], *, like: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Positions of the first p tokens (1, p, d) or None, and of the patches (1, n, d) at `grid`.

    A learned table is resampled when `grid` is not the native one; a fixed one is computed anew.
    `like` gives dtype and device.
    """
    if pos_embed is None:
        return None, _sincos(
            grid, config.width, config.pos_embed == "sincos2d_mae", like.dtype, like.device
        )
    p = config.num_prefix_positions
    prefix, patches = pos_embed[:, :p] if p else None, pos_embed[:, p:]
    if grid == config.grid:
        return prefix, patches
    rows, columns = (torch.as_tensor(m, dtype=patches.dtype, device=patches.device)
                     for m in resample_matrices(config, grid))  # fmt: skip
    table = patches.reshape(*config.grid, config.width)
    table = torch.einsum("rh,hwd->rwd", rows, table)
    table = torch.einsum("cw,rwd->rcd", columns, table)
    return prefix, table.reshape(1, -1, config.width)


@lru_cache(maxsize=16)
def _sincos(
    grid: tuple[int, int], width: int, mae: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.as_tensor(sincos2d(grid, width, mae=mae)[None], dtype=dtype, device=device)
