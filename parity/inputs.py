"""What the checks feed to both sides: random images, labels, cotangents, weights and masks.

All float64 NumPy from a seed, so that every side, dtype and machine sees the same numbers.

Shapes: b images of H x W pixels and c channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vit_spec import ViTConfig, parameters, sample_masks
from vit_spec.layout import State


@dataclass(frozen=True)
class Batch:
    """One training batch."""

    images: np.ndarray  # (b, H, W, c)
    labels: np.ndarray  # (b,), int64
    masks: dict[str, np.ndarray]  # by site
    teacher: np.ndarray | None = None  # (b, k), logits


def image_sets(config: ViTConfig, batch_size: int, seed: int) -> dict[str, np.ndarray]:
    """Images by label: the native size, and another one that is never square nor native.

    The second exercises the position embedding's resampling, rows shrinking where they can and
    columns growing.
    """
    rng = np.random.default_rng(seed)
    (rows, columns), (p, q) = config.grid, config.patch_shape
    other_rows = rows - 1 if rows > 1 else rows + 1
    other_columns = columns + 2 if columns + 2 != other_rows else columns + 3
    sizes = [config.image_shape, (other_rows * p, other_columns * q)]
    return {f"{h}x{w}": rng.normal(size=(batch_size, h, w, config.in_channels)) for h, w in sizes}


def cotangent(config: ViTConfig, batch_size: int, seed: int) -> np.ndarray:
    """A random gradient of the outputs (b, k), which reaches every parameter."""
    width = config.num_classes or config.feature_width
    return np.random.default_rng((seed, 1)).normal(size=(batch_size, width))


def batches(config: ViTConfig, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
    """Random training batches with the masks of every step."""
    for step in range(steps):
        rng = np.random.default_rng((seed, 2, step))
        images = rng.normal(size=(batch_size, *config.image_shape, config.in_channels))
        labels = rng.integers(0, config.num_classes or config.feature_width, batch_size)
        masks = sample_masks(config, batch_size, seed=seed * 100_003 + step)
        teacher = rng.normal(size=(batch_size, config.num_classes or config.feature_width))
        yield Batch(images, labels, masks, teacher)


def random_state(config: ViTConfig, seed: int) -> State:
    """Weights in PyTorch's layout, float64, none of them zero: every part of the model is seen.

    Kernels have variance 1 / fan in, scales lie around 1, everything else is of order 0.1 to 1. A
    new model would not do: its head is zero, and so are all its logits.
    """
    rng = np.random.default_rng((seed, 3))
    return {name: _random(rng, name, shape) for name, shape in parameters(config).items()}


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.normal(size=shape)
    if name.endswith("weight") and len(shape) > 1:
        return values * math.prod(shape[1:]) ** -0.5
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
        return 1 + 0.2 * values
    return values * (0.1 if name.endswith("bias") else 0.5)
