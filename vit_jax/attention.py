"""Scaled dot-product attention. PyTorch's counterpart is `F.scaled_dot_product_attention`.

Shapes: b images, t queries, s keys, h heads of k channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vit_jax.options import AttentionKernel
from vit_jax.sharding import platform


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
    share = own_array(1 / weights.sum(-1, keepdims=True))  # multiplied at the end: k numbers, not s
    x = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v, preferred_element_type=wide)
    return (own_array(x) * share).astype(v.dtype)


def own_array(x: Array, *, gradient_only: bool = False) -> Array:
    """`x`; where it is differentiated on CPUs, it and its gradient are arrays of their own.

    XLA there computes what it fuses into a product anew for each number of it: in attention's
    gradient that was more than the products themselves.
    """
    return _own_array(gradient_only, x) if platform() == "cpu" else x


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _own_array(gradient_only: bool, x: Array) -> Array:
    return x


@_own_array.defjvp
def _(gradient_only: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    barrier = jax.lax.optimization_barrier
    return primals[0] if gradient_only else barrier(primals[0]), barrier(tangents[0])
