"""Position embeddings in float64 NumPy: fixed tables, and matrices that resample learned ones.

Both twins multiply with these same numbers, because the frameworks' own resizing differs
(bicubic without antialias: kernel a = -0.75 and clamped edges in PyTorch, a = -0.5 and
renormalised edges in JAX).
"""

from functools import lru_cache

import numpy as np

from vit_spec.config import ViTConfig


def sincos2d(
    grid: tuple[int, int], width: int, *, mae: bool = False, temperature: float = 1e4
) -> np.ndarray:
    """Fixed 2-D sine-cosine table (rows * columns, width): [sin x, cos x, sin y, cos y].

    Frequencies are temperature^-(k / (width/4 - 1)) as in big_vision's `posemb_sincos_2d`, or with
    `mae` temperature^-(k / (width/4)) as in MAE's `get_2d_sincos_pos_embed`.
    """
    quarter = width // 4
    omega = temperature ** -(
        np.arange(quarter, dtype=np.float64) / (quarter if mae else quarter - 1)
    )
    y, x = (axis.reshape(-1, 1) * omega for axis in np.indices(grid).astype(np.float64))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


@lru_cache(maxsize=64)
def resample_matrix(
    source: int,
    target: int,
    kernel: str = "bicubic",
    antialias: bool = True,
    offset: float = 0.0,
) -> np.ndarray:
    """The matrix (target, source) that resamples one axis, half-pixel centres, rows summing to 1.

    Equals `torch.nn.functional.interpolate(..., align_corners=False, antialias=antialias)`, with an
    offset that of `scale_factor=(target + offset) / source`.
    """
    scale = source / (target + offset)
    centres = (np.arange(target, dtype=np.float64) + 0.5) * scale - 0.5
    if antialias:
        stretch = max(scale, 1.0)
        distance = (np.arange(source, dtype=np.float64)[None, :] - centres[:, None]) / stretch
        weights = cubic(distance, -0.5) if kernel == "bicubic" else _linear(distance)
        return weights / weights.sum(axis=1, keepdims=True)
    reach = 2 if kernel == "bicubic" else 1
    taps = np.floor(centres)[:, None] + np.arange(1 - reach, 1 + reach)  # (target, 2 * reach)
    distance = taps - centres[:, None]
    weights = cubic(distance, -0.75) if kernel == "bicubic" else _linear(distance)
    matrix = np.zeros((target, source))
    rows = np.broadcast_to(np.arange(target)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, source - 1).astype(int)), weights)
    return matrix


def resample_matrices(config: ViTConfig, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrices for the rows and the columns that take the config's native grid to `grid`."""
    kernel, antialias = config.pos_embed_interpolation, config.pos_embed_antialias
    rows, columns = (
        resample_matrix(old, new, kernel, antialias, config.pos_embed_offset)
        for old, new in zip(config.grid, grid, strict=True)
    )
    return rows, columns


def _linear(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (https://doi.org/10.1109/TASSP.1981.1163711)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
