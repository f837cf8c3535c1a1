"""How a new model starts. Twin: `vit_torch/initializers.py`.

Both draw from the same distributions.

Linear kernels and tokens: truncated normal, standard deviation 0.02. Patch kernel: truncated
normal, 1 / sqrt(fan in). The query of attention pooling: truncated normal, 1 / sqrt(width). Norm
scales: 1. LayerScale: its config's value. Heads and all biases: 0. The truncation is at two
standard deviations of the parent normal, widened so that the stated deviation is the true one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

TRUE_STD = (
    0.87962566103423978  # of a unit normal truncated at +-2 (scipy.stats.truncnorm(-2, 2).std())
)
TOKEN_STD = KERNEL_STD = 0.02


def linear_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Kernel of a linear layer."""
    return _truncated_normal(key, shape, dtype, KERNEL_STD)


def patch_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Kernel (h, w, in, out) of the patch embedding."""
    return _truncated_normal(key, shape, dtype, math.prod(shape[:-1]) ** -0.5)


def token_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Class token, distillation token, registers and position embedding."""
    return _truncated_normal(key, shape, dtype, TOKEN_STD)


def latent_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Query of attention pooling (1, 1, width)."""
    return _truncated_normal(key, shape, dtype, shape[-1] ** -0.5)


def _truncated_normal(key: Array, shape: tuple[int, ...], dtype: Any, std: float) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * jnp.asarray(
        std / TRUE_STD, dtype
    )
