"""LayerNorm. PyTorch's counterpart is `torch.nn.LayerNorm`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.sharding import platform


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm` over the last axis, with a form for CPUs: all rows as one matrix, and the
    scale after the division.

    XLA there computes each sum of the gradient apart from what it sums, and Flax's form makes it
    write scale and 1 / deviation as whole arrays first: up to a fifth of a training step.
    """

    def __call__(self, x: Array, **how: Any) -> Array:
        plain = not how and not self.use_fast_variance
        if platform() != "cpu" or not plain or self.scale is None or self.bias is None:
            return super().__call__(x, **how)
        scale, bias = self.scale[...], self.bias[...]
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
        rows = rows - rows.mean(-1, keepdims=True)
        rows = rows * jax.lax.rsqrt(jnp.square(rows).mean(-1, keepdims=True) + self.epsilon)
        dtype = self.dtype or jnp.result_type(x, scale, bias)
        return (rows * scale + bias).reshape(x.shape).astype(dtype)
