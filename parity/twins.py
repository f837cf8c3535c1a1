"""Live model to live model, bit for bit."""

from typing import Any

import vit_jax
import vit_torch
from vit_jax.api import get_state as jax_state
from vit_spec.layout import State, to_torch_layout
from vit_torch.api import get_state as torch_state


def to_torch(model: vit_jax.ViT, *, device: Any = "cpu") -> vit_torch.ViT:
    """The PyTorch twin of a JAX model: same config, same dtype, same bits."""
    return vit_torch.api.from_state(model.config, to_torch_layout(jax_state(model)), device=device)


def to_jax(model: vit_torch.ViT, **options: Any) -> vit_jax.ViT:
    """The JAX twin of a PyTorch model: same config, same dtype, same bits.

    `options` are those of `vit_jax.Options`; a float64 model needs JAX's x64 mode.
    """
    return vit_jax.api.from_state(model.config, torch_state(model), **options)


def weights(model: vit_jax.ViT | vit_torch.ViT) -> State:
    """The parameters of either twin in PyTorch's names and layout."""
    if isinstance(model, vit_torch.ViT):
        return torch_state(model)
    return to_torch_layout(jax_state(model))
