"""Small twins: width 32, because LayerNorm over few numbers amplifies noise."""

import pytest

import parity
import vit_torch
from parity.inputs import random_state
from tests.twin_models import BOUND
from vit_spec import ViTConfig

TINY = ViTConfig(
    image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64, num_classes=7
)


@pytest.fixture
def tiny() -> ViTConfig:
    return TINY


@pytest.fixture
def matrix(record_property, request):
    """Checks both gaps of a format to an oracle, and records them for docs/formats.md."""
    variant = request.node.callspec.id if hasattr(request.node, "callspec") else "plain"

    def record(format, model, loader, *, inward, outward, folds=False):
        assert inward < BOUND and outward < BOUND, (inward, outward)
        row = {
            "format": format, "model": model, "variant": variant, "inward": inward,
            "outward": outward, "loader": loader, "folds": folds,
        }  # fmt: skip
        record_property("row", row)

    return record


@pytest.fixture
def pair(tiny):
    """The same random float32 weights in both frameworks."""
    state = {name: array.astype("float32") for name, array in random_state(tiny, 0).items()}
    torch_model = vit_torch.api.from_state(tiny, state)
    return parity.to_jax(torch_model), torch_model
