"""Every field that foreign checkpoints need passes the whole check, masks and training included."""

import pytest

import parity
import vit_jax
import vit_torch
from tests.twin_models import TINY

pytestmark = pytest.mark.usefixtures("quickly_compiled")

FIELDS = {  # several at once where they do not meet in a tensor: a check takes seconds
    "distillation_and_dinov2": {
        **{"distillation_token": True, "layer_scale": 0.1},
        **{"pos_embed_offset": 0.1, "pos_embed_antialias": False},
    },
    "distillation_no_head": {"distillation_token": True, "num_classes": 0},
    "clip_and_swiglu": {
        **{"pre_norm": True, "patch_bias": False, "head_bias": False},
        **{"mlp": "swiglu", "activation": "silu"},
    },
    "siglip": {"class_token": False, "pool": "map", "num_classes": 0, "activation": "gelu_tanh"},
    "deit3_registers_and_packed_swiglu": {
        **{"class_token_position": False, "num_registers": 4, "layer_scale": 0.1},
        **{"mlp": "swiglu_packed", "activation": "silu", "mlp_width": 48},
    },
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_config_passes_the_check_with_dropout_and_stochastic_depth(fields):
    config = TINY.replace(dropout=0.1, drop_path=0.2, **fields)
    report = parity.check(config, level="training", steps=2)
    assert report.passed, parity.render(report)
    assert report.largest_gap < 1e-12


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_checkpoint_keeps_the_field(tmp_path, fields):
    config = TINY.replace(**fields)
    vit_jax.save(vit_jax.create(config), tmp_path / "m")
    assert vit_torch.load(tmp_path / "m").config == config
