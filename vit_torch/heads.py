"""What follows the last block. Twin: `vit_jax/heads.py`.

Shapes: b images, n patches, d width, h heads of k channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_spec import ViTConfig
from vit_torch.layers import layer_norm
from vit_torch.mlp import Mlp


def make_head(config: ViTConfig) -> nn.Module:
    """The linear layer to the logits; nothing if there are no classes."""
    if not config.num_classes:
        return nn.Identity()
    return nn.Linear(config.feature_width, config.num_classes, bias=config.head_bias)


class AttentionPool(nn.Module):
    """MAP head: a learned query attends to all tokens, then a residual MLP
    (https://arxiv.org/abs/2106.04560, appendix)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = layer_norm(config, config.width)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:  # (b, n, d) -> (b, d)
        b, n, d = x.shape
        heads, k = self.num_heads, d // self.num_heads
        q = self.q(self.latent).reshape(1, 1, heads, k).expand(b, -1, -1, -1).transpose(1, 2)
        key, value = (
            self.kv(x).reshape(b, n, 2, heads, k).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (b, h, n, k)
        x = F.scaled_dot_product_attention(q, key, value)
        x = self.proj(x.transpose(1, 2).reshape(b, d))
        return x + self.mlp(self.norm(x))


class PreLogits(nn.Module):
    """The tanh layer before the head of the original ViT."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.fc = nn.Linear(config.width, config.feature_width)

    def forward(self, x: Tensor) -> Tensor:  # (b, d) -> (b, representation_size)
        return torch.tanh(self.fc(x))
