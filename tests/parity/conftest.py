"""Small twins: width 32, because LayerNorm over few numbers amplifies noise."""

import pytest

import parity
import vit_torch
from parity.inputs import random_state
from vit_spec import ViTConfig

TINY = ViTConfig(
    image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64, num_classes=7
)


@pytest.fixture
def tiny() -> ViTConfig:
    return TINY


@pytest.fixture
def pair(tiny):
    """The same random float32 weights in both frameworks."""
    state = {name: array.astype("float32") for name, array in random_state(tiny, 0).items()}
    torch_model = vit_torch.api.from_state(tiny, state)
    return parity.to_jax(torch_model), torch_model
