"""Scaled dot-product attention. PyTorch's counterpart is `F.scaled_dot_product_attention`.

Shapes: b images, t queries, s keys, h heads of k channels.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from vit_jax.options import AttentionKernel
from vit_jax.sharding import compute_capability, platform
from vit_spec import ViTConfig

LEAST_CAPABILITY = (8, 0)
"""Compute capability from which cuDNN has flash attention."""


def attend(q: Array, k: Array, v: Array, *, kernel: AttentionKernel) -> Array:
    """softmax(q k' / sqrt(channels)) v for q (b, h, t, k) and k, v (b, h, s, k), as (b, h, t, k).

    The softmax is computed in at least float32. `jax.nn.dot_product_attention` would compute it in
    float32 always, which leaves a float64 model with seven digits.

    Raises `ValueError` for the kernel `cudnn` where it cannot run.
    """
    if kernel != "xla" and _is_cudnn(kernel, q.shape[-1], q.dtype):
        return by_tokens(q, k, v, implementation="cudnn")
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    share = own_array(1 / weights.sum(-1, keepdims=True))  # multiplied at the end: k numbers, not s
    x = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v, preferred_element_type=wide)
    return (own_array(x) * share).astype(v.dtype)


def by_tokens(q: Array, k: Array, v: Array, *, implementation: Any) -> Array:
    """`jax.nn.dot_product_attention` without a mask, in the shapes of `attend`.

    For the backward pass JAX gives cuDNN even numbers of tokens only, so one that is masked out is
    added to odd ones.
    """
    b, t, s = q.shape[0], q.shape[2], k.shape[2]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # b, t, h, k
    queries = keys = None
    if t % 2 or s % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        queries, keys = (jnp.full(b, n, jnp.int32) for n in (t, s))
    x = jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=queries,
        key_value_seq_lengths=keys,
        implementation=implementation,
    )
    return jnp.swapaxes(x[:, :t], 1, 2)


def check_kernel(kernel: AttentionKernel, config: ViTConfig, *, dtype: Any, mesh: Mesh) -> None:
    """Raises `ValueError` if a model in `dtype` cannot have `kernel` on the devices of a mesh."""
    if kernel == "cudnn":
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            _is_cudnn(kernel, config.width // config.num_heads, dtype)


def _is_cudnn(kernel: AttentionKernel, channels: int, dtype: Any) -> bool:
    """Whether cuDNN computes heads of some channels; an error where `kernel` insists on it."""
    problems = _cudnn_problems(channels, jnp.dtype(dtype))
    if problems and kernel == "cudnn":
        raise ValueError(
            f"attention 'cudnn' cannot run here: {'; '.join(problems)}. Use attention 'auto' or "
            f"'xla'"
        )
    return not problems


def _cudnn_problems(channels: int, dtype: Any) -> list[str]:
    """Why cuDNN cannot compute heads of some channels on the devices in use; empty if it can."""
    found, problems = compute_capability(), []
    if found is None or found < LEAST_CAPABILITY:
        this = f"a {platform()}" if found is None else f"one of {found[0]}.{found[1]}"
        needed = f"compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or more"
        problems.append(f"it needs an NVIDIA GPU of {needed}, and this is {this}")
    if dtype not in (jnp.float16, jnp.bfloat16):
        problems.append(f"it takes dtype 'float16' or 'bfloat16', not {dtype.name!r}")
    if problems:
        return problems
    x = jax.ShapeDtypeStruct((1, 1, 2, channels), dtype)
    try:
        jax.eval_shape(partial(by_tokens, implementation="cudnn"), x, x, x)
    except (RuntimeError, NotImplementedError) as error:  # no cuDNN, or heads that it cannot take
        return [str(error).rstrip(".")]
    return []


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
