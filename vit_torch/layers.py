"""Layers that the families share. Twin: `vit_jax/layers.py`.

Shapes: b images, n patches, t tokens, d width, h heads of k channels, m MLP width.
Where a layer takes `masks`, it is a dict of multipliers by site (see `vit_spec.masks`).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_spec import ViTConfig

Masks = Mapping[str, Tensor]


def activate(x: Tensor, form: str) -> Tensor:
    """The activation of `ViTConfig.activation`, element by element."""
    if form == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if form == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if form == "gelu_tanh" else "none")


def drop(x: Tensor, masks: Masks | None, site: str) -> Tensor:
    """`x` times the mask of a site; `x` itself where there is none."""
    return x if masks is None or site not in masks else x * masks[site]


def layer_norm(config: ViTConfig, width: int) -> nn.LayerNorm:
    """LayerNorm with the config's epsilon, two-pass variance."""
    return nn.LayerNorm(width, eps=config.norm_eps)


class PatchEmbed(nn.Module):
    """Images to one token a patch: a convolution whose stride is its kernel."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        patch = config.patch_shape
        self.proj = nn.Conv2d(
            config.in_channels, config.width, patch, patch, bias=config.patch_bias
        )

    def forward(self, images: Tensor) -> Tensor:  # (b, c, H, W) -> (b, n, d), row by row
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection, scaled by 1 / sqrt(k)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        k = config.width // config.num_heads
        self.q_norm = layer_norm(config, k) if config.qk_norm else nn.Identity()
        self.k_norm = layer_norm(config, k) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, h, t, k)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(x.transpose(1, 2).reshape(b, t, d))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.initial = float(config.layer_scale or 0)
        self.gamma = nn.Parameter(torch.empty(config.width))

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return x * self.gamma
