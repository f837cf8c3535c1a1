"""Position embeddings at a grid that is not known yet, for programs that take images of any size.

The numbers of `vit_spec.positions`, computed by PyTorch in float64. Only PyTorch needs this: JAX
compiles a program for each size.
"""

from typing import Any

import torch
from torch import Tensor

from vit_spec import ViTConfig

Side = Any  # int, torch.SymInt, or a tensor while a program is traced
Grid = tuple[Side, Side]


def sincos2d(grid: Grid, width: int, *, mae: bool, device: torch.device) -> Tensor:
    """The fixed table (rows * columns, width) of `vit_spec.positions.sincos2d`."""
    quarter, (rows, columns) = width // 4, grid
    steps = torch.arange(quarter, dtype=torch.float64, device=device)
    omega = 1e4 ** -(steps / (quarter if mae else quarter - 1))
    y, x = (_numbers(side, device)[:, None] * omega for side in grid)  # (rows or columns, quarter)
    parts = [x.sin(), x.cos(), y.sin(), y.cos()]
    along = [part[None].expand(rows, -1, -1) for part in parts[:2]]
    down = [part[:, None].expand(-1, columns, -1) for part in parts[2:]]
    return torch.cat([*along, *down], dim=-1).reshape(-1, width)


def resample_matrices(config: ViTConfig, grid: Grid) -> tuple[Tensor, Tensor]:
    """The matrices of `vit_spec.positions.resample_matrices`; at the native grid they change
    nothing, as there nothing is resampled."""
    sides = [torch.full((), side, dtype=torch.float64) for side in grid]
    other = (sides[0] != config.grid[0]) | (sides[1] != config.grid[1])
    offset = other.to(torch.float64) * config.pos_embed_offset
    rows, columns = (
        _matrix(config, old, _numbers(side, None), old / (size + offset))
        for old, side, size in zip(config.grid, grid, sides, strict=True)
    )
    return rows, columns


def _matrix(config: ViTConfig, source: int, targets: Tensor, scale: Tensor) -> Tensor:
    """`vit_spec.positions.resample_matrix` (target, source) for targets 0, 1, ... and old / new."""
    kernel = _cubic if config.pos_embed_interpolation == "bicubic" else _linear
    centres, places = (targets + 0.5) * scale - 0.5, torch.arange(source, dtype=torch.float64)
    if config.pos_embed_antialias:
        weights = kernel((places[None] - centres[:, None]) / scale.clamp(min=1.0), -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    reach = 2 if kernel is _cubic else 1
    taps = centres.floor()[:, None] + torch.arange(1 - reach, 1 + reach)  # (target, 2 * reach)
    weights = kernel(taps - centres[:, None], -0.75)
    at = taps.clamp(0, source - 1)[..., None] == places  # (target, 2 * reach, source)
    return (weights[..., None] * at).sum(dim=1)


def _numbers(side: Side, device: torch.device | None) -> Tensor:
    return torch.arange(side, dtype=torch.float64, device=device)


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _linear(x: Tensor, _: float) -> Tensor:
    return (1 - x.abs()).clamp(min=0)
