"""Pairs of tiny twins with equal random float64 weights.

Width 32: LayerNorm over fewer numbers amplifies noise.
"""

from typing import Any

import numpy as np

import vit_jax
import vit_torch
from parity.inputs import random_state
from vit_spec import ViTConfig
from vit_spec.layout import State

BOUND = 1e-12  # measured about 1e-15; far below any wrong formula
TINY = ViTConfig(
    image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64, num_classes=7
)


def twins(
    config: ViTConfig, state: State | None = None, **options: Any
) -> tuple[vit_jax.ViT, vit_torch.ViT]:
    """Both twins in float64, with random weights or those given; call it in x64 mode."""
    state = state or random_state(config, 0)
    return vit_jax.api.from_state(config, state, **options), vit_torch.api.from_state(config, state)


def images(config: ViTConfig, height: int = 0, width: int = 0, batch: int = 3) -> np.ndarray:
    """Random images (b, H, W, c), native size by default."""
    h, w = config.image_shape
    return np.random.default_rng(1).normal(
        size=(batch, height or h, width or w, config.in_channels)
    )


def relative_gap(ours: Any, reference: Any) -> float:
    """Largest difference relative to the largest value of the reference."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
