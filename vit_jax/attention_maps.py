"""What a model looks at, and what its patches are compared with, as arrays.

Shapes: b images, h heads, t tokens of which n are patches, d width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_jax.layers import Attention
from vit_jax.vit import ViT


def attention_weights(attention: Attention, x: Array) -> Array:
    """How much each token takes from each (b, h, t, t), rows summing to 1, for normed tokens."""
    b, t, d = x.shape
    qkv = attention.qkv(x).reshape(b, t, 3, attention.num_heads, -1)
    q, k, _ = jnp.transpose(qkv, (2, 0, 3, 1, 4))
    q, k = attention.q_norm(q), attention.k_norm(k)
    scale = (d // attention.num_heads) ** -0.5
    return jax.nn.softmax(jnp.einsum("bhtk,bhsk->bhts", q * scale, k), axis=-1)


def attention_maps(model: ViT, images: Array) -> list[Array]:
    """`attention_weights` of every block."""
    x, found = model.norm_pre(model.embed(images)), []
    for block in model.blocks:
        found.append(attention_weights(block.attn, block.norm1(x)))
        x = block(x)
    return found


def rollout(maps: list[Array]) -> Array:
    """How much each token of the last block has of each input token (b, t, t).

    The product over blocks of (mean over heads + identity) / 2: https://arxiv.org/abs/2005.00928.
    """
    total = jnp.eye(maps[0].shape[-1])
    for weights in maps:
        mixed = (weights.mean(1) + jnp.eye(weights.shape[-1])) / 2
        total = mixed @ total
    return total


def of_patches(weights: Array, model: ViT, grid: tuple[int, int]) -> np.ndarray:
    """Rows of weights (..., t, t) as pictures (..., rows, columns): what the output takes from the
    patches, by the class token if the model pools with it, else by the mean over patches."""
    prefix = weights.shape[-1] - grid[0] * grid[1]
    if model.config.pool == "token":
        row = weights[..., 0, prefix:]
    else:
        row = weights[..., prefix:, prefix:].mean(-2)
    return np.asarray(row).reshape(*row.shape[:-1], *grid)


def filters(model: ViT, count: int = 28) -> np.ndarray:
    """The first principal components (count, rows, columns, c) of the patch embedding's filters.

    As in figure 7 of https://arxiv.org/abs/2010.11929; fewer if a patch has fewer numbers.
    """
    kernel = np.asarray(model.patch_embed.proj.kernel[...], np.float64)
    table = kernel.reshape(-1, kernel.shape[-1])  # (rows * columns * c, d)
    components, _, _ = np.linalg.svd(table - table.mean(axis=1, keepdims=True))
    chosen = components[:, : min(count, *table.shape)].T
    return chosen.reshape(-1, *kernel.shape[:3])
