"""Position embeddings at any grid. Twin: `vit_jax/embedding.py`.

Shapes: n = rows * columns patches, p tokens before them that have a position, d width.
"""

from functools import lru_cache

import torch
from torch import Tensor

from vit_spec import ViTConfig
from vit_spec.positions import resample_matrices, sincos2d
from vit_torch import any_grid


def positions(
    pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], *, like: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Positions of the first p tokens (1, p, d) or None, and of the patches (1, n, d) at `grid`.

    A learned table is resampled when `grid` is not the native one; a fixed one is computed anew.
    `like` gives dtype and device. Programs that are traced, exported or compiled hold how their
    numbers are computed (`vit_torch.any_grid`), so they take other sizes.
    """
    known = all(isinstance(side, int) for side in grid)
    as_program = not known or torch.compiler.is_compiling()
    if pos_embed is None:
        mae = config.pos_embed == "sincos2d_mae"
        if as_program:
            table = any_grid.sincos2d(grid, config.width, mae=mae, device=like.device)
            return None, table[None].to(like.dtype)
        return None, _sincos(grid, config.width, mae, like.dtype, like.device)
    p = config.num_prefix_positions
    prefix, patches = pos_embed[:, :p] if p else None, pos_embed[:, p:]
    if known and grid == config.grid:
        return prefix, patches
    matrices = (any_grid.resample_matrices if as_program else resample_matrices)(config, grid)
    rows, columns = (
        torch.as_tensor(m, dtype=patches.dtype, device=patches.device) for m in matrices
    )
    table = patches.reshape(*config.grid, config.width)
    table = torch.einsum("rh,hwd->rwd", rows, table)
    table = torch.einsum("cw,rwd->rcd", columns, table)
    return prefix, table.reshape(1, -1, config.width)


@lru_cache(maxsize=16)
def _sincos(
    grid: tuple[int, int], width: int, mae: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.as_tensor(sincos2d(grid, width, mae=mae)[None], dtype=dtype, device=device)
