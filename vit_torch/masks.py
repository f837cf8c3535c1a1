"""Dropout and stochastic-depth masks. Twin: `vit_jax/masks.py`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vit_spec import ViTConfig, mask_sites


def sample_masks(
    config: ViTConfig,
    batch_size: int,
    *,
    grid: tuple[int, int] | None = None,
    like: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Multipliers by site (0 or 1 / keep); `like` gives dtype and device."""
    dtype, device = (torch.float32, None) if like is None else (like.dtype, like.device)
    how: Any = {} if generator is None else {"generator": generator}  # exported, it may not be None

    def draw(shape: tuple[int, ...], keep: float) -> Tensor:
        return (torch.rand(shape, device=device, **how) < keep).to(dtype) / keep

    sites = mask_sites(config, batch_size, grid=grid)
    return {name: draw(shape, keep) for name, (shape, keep) in sites.items()}


def of_block(masks: Mapping[str, Tensor] | None, index: int) -> dict[str, Tensor] | None:
    """The masks of one block, under the names that it knows."""
    if not masks:
        return None
    prefix = f"blocks.{index}."
    return {
        name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)
    }
