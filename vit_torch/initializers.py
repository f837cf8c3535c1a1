"""How a new model starts. Twin: `vit_jax/initializers.py`.

Both draw from the same distributions.

Linear kernels and tokens: truncated normal, standard deviation 0.02. Patch kernel: truncated
normal, 1 / sqrt(fan in). The query of attention pooling: truncated normal, 1 / sqrt(width). Norm
scales: 1. LayerScale: its config's value. Heads and all biases: 0. The truncation is at two
standard deviations of the parent normal, widened so that the stated deviation is the true one.
"""

import math

import torch
from torch import Tensor, nn

from vit_torch.layers import LayerScale
from vit_torch.vit import ViT

TRUE_STD = (
    0.87962566103423978  # of a unit normal truncated at +-2 (scipy.stats.truncnorm(-2, 2).std())
)
TOKEN_STD = KERNEL_STD = 0.02


@torch.no_grad()
def initialize(model: ViT, generator: torch.Generator) -> None:
    """Fills every parameter of `model` in place. Raises `ValueError` for those without a rule."""
    filled: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.initial)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = math.prod(module.weight.shape[1:])
            std = KERNEL_STD if isinstance(module, nn.Linear) else fan_in**-0.5
            _truncated_normal(module.weight, std, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            continue
        filled |= set(module.parameters(recurse=False))
    tokens = [model.cls_token, model.dist_token, model.reg_token, model.pos_embed]
    for token in (t for t in tokens if t is not None):
        _truncated_normal(token, TOKEN_STD, generator)
        filled.add(token)
    if model.attn_pool is not None:
        _truncated_normal(model.attn_pool.latent, model.config.width**-0.5, generator)
        filled.add(model.attn_pool.latent)
    for head in (model.head, model.head_dist):
        if isinstance(head, nn.Linear):
            nn.init.zeros_(head.weight)
    others = [name for name, p in model.named_parameters() if p not in filled]
    if others:
        raise ValueError(f"parameters that have no rule to start from: {', '.join(others)}")


def _truncated_normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    parent = std / TRUE_STD
    nn.init.trunc_normal_(tensor, 0.0, parent, -2 * parent, 2 * parent, generator=generator)
