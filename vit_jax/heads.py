"""What follows the last block. Twin: `vit_torch/heads.py`.

Shapes: b images, n patches, d width, h heads of k channels.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.attention import attend
from vit_jax.initializers import latent_init
from vit_jax.layers import Identity, layer_norm, linear, to_parts
from vit_jax.mlp import Mlp
from vit_jax.options import Options
from vit_spec import ViTConfig


def make_head(config: ViTConfig, options: Options, *, rngs: nnx.Rngs) -> nnx.Module:
    """The linear layer to the logits, zero at first; nothing if there are no classes."""
    if not config.num_classes:
        return Identity()
    sizes = config.feature_width, config.num_classes
    head = linear(options, *sizes, bias=config.head_bias, rngs=rngs)
    head.kernel[...] = jnp.zeros_like(head.kernel[...])
    return head


class AttentionPool(nnx.Module):
    """MAP head: a learned query attends to all tokens, then a residual MLP
    (https://arxiv.org/abs/2106.04560, appendix)."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.latent = nnx.Param(
            latent_init(rngs.params(), (1, 1, config.width), options.param_dtype)
        )
        self.q = linear(options, config.width, config.width, rngs=rngs)
        self.kv = linear(options, config.width, 2 * config.width, rngs=rngs)
        self.proj = linear(options, config.width, config.width, rngs=rngs)
        self.norm = layer_norm(config, options, config.width, rngs=rngs)
        self.mlp = Mlp(config, options, rngs=rngs)

    def __call__(self, x: Array) -> Array:  # (b, n, d) -> (b, d)
        b, n, d = x.shape
        heads, k = self.num_heads, d // self.num_heads
        q = self.q(self.latent[...].astype(x.dtype)).reshape(1, heads, 1, k)
        q = jnp.broadcast_to(q, (b, heads, 1, k))
        kv = to_parts(self.kv, x, 2, "heads").reshape(b, n, 2, heads, k)
        key, value = jnp.transpose(kv, (2, 0, 3, 1, 4))  # (b, h, n, k)
        x = attend(q, key, value, kernel="xla")
        x = self.proj(x.reshape(b, d))
        return x + self.mlp(self.norm(x))


class PreLogits(nnx.Module):
    """The tanh layer before the head of the original ViT."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.fc = linear(options, config.width, config.feature_width, rngs=rngs)

    def __call__(self, x: Array) -> Array:  # (b, d) -> (b, representation_size)
        return jnp.tanh(self.fc(x))
