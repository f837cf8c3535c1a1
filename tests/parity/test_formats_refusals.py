"""What a target cannot hold is refused with the reason; what it takes, it computes the same."""

import pytest
import torch

import parity
import vit_torch
from parity.formats import FOREIGN
from parity.inputs import random_state
from tests.parity.format_oracles import images
from tests.twin_models import BOUND, TINY, relative_gap

HEADLESS = {"num_classes": 0}
GATED = {"mlp": "swiglu_packed", "activation": "silu"}
CLIP = {"patch_bias": False, "pre_norm": True, "head_bias": False, "norm_eps": 1e-5}
DINOV2 = {"layer_scale": 0.1, **HEADLESS}
SIGLIP = {"class_token": False, "pool": "map", **HEADLESS}
PLAIN = TINY.replace(width=128, mlp_width=256)
NATIVE = {  # format: a model that it holds, as changes of `PLAIN`
    "timm": {},
    "hf_vit": {},
    "hf_deit": {"distillation_token": True},
    "hf_dinov2": DINOV2,
    "hf_dinov2_with_registers": {"num_registers": 2, **DINOV2},
    "hf_clip": CLIP,
    "hf_siglip": SIGLIP,
    "hf_vitmae": HEADLESS,
    "augreg": {"activation": "gelu_tanh"},
    "big_vision": {"activation": "gelu_tanh"},
    "big_vision_scan": {"activation": "gelu_tanh"},
    "hf_flax_vit": {},
    "torchvision": {},
    "open_clip": CLIP,
    "deit": {},
    "deit3": {"layer_scale": 0.1, "class_token_position": False},
    "mae": {"fc_norm": True, "pool": "mean"},
    "dino": HEADLESS,
    "dinov2": {**DINOV2, "layer_scale": 1e-5},
}  # fmt: skip
TENSORS_ALONE = ("torchvision", "deit", "deit3", "mae", "dino", "dinov2")
FEATURES = {  # a feature: changes, and the only formats that hold it beside their native model
    "layer_scale": ({"layer_scale": 0.1}, "timm hf_dinov2* deit3 dinov2 open_clip"),
    "one_register": ({"num_registers": 1}, "timm hf_deit hf_dinov2_with_registers dinov2"),
    "registers": ({"num_registers": 2}, "timm hf_dinov2_with_registers dinov2"),
    "distillation": ({"distillation_token": True}, "timm hf_deit deit"),
    "swiglu_packed": (GATED, "timm hf_dinov2* dinov2"),
    "swiglu": ({"mlp": "swiglu", "activation": "silu"}, ""),
    "pre_norm": ({"pre_norm": True, "patch_bias": False}, "timm hf_clip open_clip"),
    "no_patch_bias": ({"patch_bias": False}, "hf_clip open_clip"),
    "no_qkv_bias": (
        {"qkv_bias": False}, "timm hf_vit hf_deit hf_dinov2* hf_vitmae hf_flax_vit deit* mae dino*"
    ),
    "qk_norm": ({"qk_norm": True}, "timm"),
    "no_head_bias": ({"head_bias": False, "num_classes": 7}, "hf_clip open_clip"),
    "quick_gelu": (
        {"activation": "quick_gelu"},
        "timm hf_vit hf_deit hf_dinov2* hf_clip hf_siglip hf_vitmae hf_flax_vit open_clip"
    ),
    "fc_norm": ({"fc_norm": True, "pool": "mean"}, "timm mae"),
    "mean": ({"pool": "mean"}, "timm mae"),
    "map": ({"pool": "map", "class_token": False}, "timm big_vision* hf_siglip"),
    "pre_logits": ({"representation_size": 24}, "augreg big_vision* torchvision"),
    "pooler": (
        {"representation_size": 24, **HEADLESS}, "augreg big_vision* hf_vit hf_flax_vit"
    ),
    "no_class_token": ({"class_token": False, "pool": "mean"}, "timm augreg big_vision*"),
    "own_position": (
        {"class_token_position": False},
        "timm hf* augreg big_vision* torchvision open_clip deit* mae dino*",
    ),
    "sincos2d": ({"pos_embed": "sincos2d"}, "big_vision*"),
    "epsilon": (
        {"norm_eps": 1e-3},
        "hf_vit hf_deit hf_dinov2* hf_clip hf_siglip hf_vitmae hf_flax_vit open_clip"
    ),
}  # fmt: skip
REASONS = {name: next(iter(changes)) for name, (changes, _) in FEATURES.items()}
REASONS |= {
    "no_class_token": "class_token|pool",
    "own_position": "class_token_position",
    "map": "pool|class_token",
    "pooler": "representation_size|num_classes",
}


def holds(names, format):
    return any(
        format == name or (name.endswith("*") and format.startswith(name[:-1]))
        for name in names.split()
    )


def model(format, changes):
    """The native model of a format, changed; None where the changes do not go with it."""
    try:
        return PLAIN.replace(**NATIVE[format] | changes)
    except ValueError:
        return None


@pytest.mark.parametrize("format", NATIVE)
def test_every_format_holds_its_native_model(format, tmp_path):
    config = model(format, {})
    assert config is not None
    assert converted(config, format, tmp_path) < BOUND


def test_every_format_is_here():
    assert NATIVE.keys() == FOREIGN.keys()


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("format", NATIVE)
def test_a_feature_is_held_or_refused_with_its_reason(format, feature, tmp_path):
    changes, names = FEATURES[feature]
    config = model(format, changes)
    if config is None or config == model(format, {}) or silent(config, changes):
        return
    if holds(names, format):
        assert converted(config, format, tmp_path) < BOUND
        return
    with pytest.raises(
        ValueError, match=rf"{format} cannot hold this model: .*({REASONS[feature]})"
    ):
        converted(config, format, tmp_path)
    assert not (tmp_path / "x").exists()


def silent(config, changes):
    """A field that says nothing where there is no class token."""
    return not config.class_token and "class_token_position" in changes


def converted(config, format, folder):
    """The largest gap of a model that went through a format to the model before."""
    before = vit_torch.api.from_state(config, random_state(config, 0))
    vit_torch.save(before, folder / "ours")
    target = parity.convert(folder / "ours", folder / "x", target=format)
    silent = format in TENSORS_ALONE or config.pos_embed != "learned"
    said = FOREIGN[format].held(config) if silent else None
    parity.convert(target, folder / "back", source=format, model=said)
    x = images()
    with torch.no_grad():
        return relative_gap(vit_torch.load(folder / "back")(x), before(x))
