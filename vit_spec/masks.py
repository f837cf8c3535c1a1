"""Where a model drops activations in training, so that masks can be drawn anywhere and handed in.

A mask is a multiplier: 0 where dropped, 1 / keep elsewhere. Models take a flat dict of them by
site name; a site that is absent keeps everything, and one that the model does not have is an error.

Shapes: b images, t tokens, d width, m MLP width.
"""

from collections.abc import Iterable

import numpy as np

from vit_spec.config import ViTConfig
from vit_spec.names import unknown_names

Sites = dict[str, tuple[tuple[int, ...], float]]


def mask_sites(config: ViTConfig, batch_size: int, *, grid: tuple[int, int] | None = None) -> Sites:
    """Name -> (shape, keep probability) of every site that can drop something.

    Dropout: after the position embedding, the attention projection and both MLP layers, element
    by element. Stochastic depth: both branches of a block, image by image; the rate rises
    linearly from 0 at the first block (https://arxiv.org/abs/1603.09382).
    """
    rows, columns = grid or config.grid
    b, t, d = batch_size, config.num_prefix_tokens + rows * columns, config.width
    keep = 1 - config.dropout
    sites: Sites = {}
    if config.dropout:
        sites["pos_drop"] = ((b, t, d), keep)
    for i in range(config.depth):
        if config.dropout:
            sites[f"blocks.{i}.proj_drop"] = ((b, t, d), keep)
            sites[f"blocks.{i}.mlp_drop1"] = ((b, t, config.mlp_width), keep)
            sites[f"blocks.{i}.mlp_drop2"] = ((b, t, d), keep)
        if config.drop_path:
            rate = config.drop_path * i / max(1, config.depth - 1)
            sites[f"blocks.{i}.drop_path1"] = ((b, 1, 1), 1 - rate)
            sites[f"blocks.{i}.drop_path2"] = ((b, 1, 1), 1 - rate)
    return sites


def check_masks(names: Iterable[str], config: ViTConfig) -> None:
    """Raises `ValueError` for names that are no site of a model, whatever its rates are."""
    known = dict.fromkeys(mask_sites(config.replace(dropout=0.5, drop_path=0.5), 1))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(unknown_names("mask", unknown, known))


def sample_masks(
    config: ViTConfig, batch_size: int, *, seed: int, grid: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Float64 masks drawn with NumPy: the same for both twins."""
    rng = np.random.default_rng(seed)
    sites = mask_sites(config, batch_size, grid=grid)
    return {name: (rng.random(shape) < keep) / keep for name, (shape, keep) in sites.items()}
