"""Scaled dot-product attention. PyTorch's counterpart is `F.scaled_dot_product_attention`.

Shapes: b images, t queries, s keys, h heads of k channels.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vit_jax.options import AttentionKernel


def attend(q: Array, k: Array, v: Array, *, kernel: AttentionKernel) -> Array:
    """softmax(q k' / sqrt(channels)) v for q (b, h, t, k) and k, v (b, h, s, k), as (b, h, t, k).

    The softmax is computed in at least float32. `jax.nn.dot_product_attention` would compute it in
    float32 always, which leaves a float64 model with seven digits.
    """
    if kernel == "cudnn":
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
        return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), 1, 2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)  # divided by at the end: k numbers a query, not s
    x = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v, preferred_element_type=wide)
    return (x / total).astype(v.dtype)
