"""Formats of others, against the libraries that own them: in, compared, out, loaded, compared."""

import pytest
import torch

import parity
import vit_torch
from tests.parity.format_oracles import (
    assert_same_bits,
    gap_of_ours,
    images,
    randomised,
)
from tests.twin_models import BOUND, TINY, relative_gap

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TIMM = {
    "token": {},
    "clip_quickgelu_mean": {
        "architecture": "vit_base_patch16_clip_quickgelu_224", "global_pool": "avg",
        "pre_norm": False, "img_size": (16, 40), "patch_size": (8, 4), "in_chans": 1,
    },
    "map_registers_scale_qk_norm": {
        "global_pool": "map", "class_token": True, "no_embed_class": True, "reg_tokens": 2,
        "init_values": 0.1, "qk_norm": True, "qkv_bias": False, "act_layer": "gelu_tanh",
    },
    "no_head": {"num_classes": 0},
    "norm_pre": {"architecture": "vit_base_patch16_clip_quickgelu_224"},
    "gated": {"architecture": "vit_giant_patch14_reg4_dinov2", "reg_tokens": 4, "num_classes": 7},
    "distilled": {"architecture": "deit_base_distilled_patch16_224"},
    "deit3": {"architecture": "deit3_base_patch16_224"},
    "dinov2": {"architecture": "vit_base_patch14_dinov2", "num_classes": 0},
    "registers": {"architecture": "vit_base_patch14_reg4_dinov2", "num_classes": 0},
    "siglip": {"architecture": "vit_base_patch16_siglip_224", "num_classes": 0},
    "mae": {"architecture": "vit_base_patch16_224", "global_pool": "avg", "num_classes": 3},
}  # fmt: skip


@pytest.mark.parametrize("changes", TIMM.values(), ids=TIMM)
def test_timm(changes, tmp_path, matrix):
    import timm
    from timm.models._hub import save_for_hf

    arguments = {
        "architecture": "vit_base_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 64,
        "depth": 2, "num_heads": 2, "mlp_ratio": 1.5, "num_classes": 7,
    } | changes  # fmt: skip
    name = arguments.pop("architecture")
    oracle = randomised(timm.create_model(name, **arguments))
    save_for_hf(oracle, tmp_path / "timm", safe_serialization=True)
    size = arguments["img_size"]
    size = (size, size) if isinstance(size, int) else size
    x = images(*size, oracle.patch_embed.proj.in_channels)
    with torch.no_grad():
        expected = oracle(x)

    ours = parity.convert(tmp_path / "timm", tmp_path / "ours")
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back", target="timm")
    loaded = timm.create_model(f"local-dir:{back}", pretrained=True, dtype=torch.float64).eval()
    with torch.no_grad():
        outward = relative_gap(loaded(x), expected)
    matrix("timm", name, "timm.create_model", inward=inward, outward=outward)
    assert_same_bits(tmp_path / "timm", back)


@pytest.mark.parametrize("changes", [{}, {"representation_size": 24}], ids=["plain", "pre_logits"])
def test_torchvision(changes, tmp_path, matrix):
    from torchvision.models import VisionTransformer

    def oracle():
        return VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=128, mlp_dim=48,
            num_classes=5, **changes,
        ).double().eval()  # fmt: skip

    model, x = randomised(oracle()), images()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    with torch.no_grad():
        expected = model(x)
    config = TINY.replace(width=128, mlp_width=48, num_classes=5, **changes)
    ours = parity.convert(tmp_path / "theirs.pth", tmp_path / "ours", model=config)
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back.pth", target="torchvision")
    loaded = oracle()
    loaded.load_state_dict(torch.load(back, weights_only=True), strict=True)
    with torch.no_grad():
        outward = relative_gap(loaded(x), expected)
    loader = "torchvision's load_state_dict"
    matrix("torchvision", "VisionTransformer", loader, inward=inward, outward=outward)
    assert_same_bits(tmp_path / "theirs.pth", back)


def test_timm_takes_our_file_by_a_published_name(tmp_path):
    import timm

    ours = randomised(vit_torch.create("vit_tiny_patch16_224")).float()
    vit_torch.save(ours, tmp_path / "ours")
    target = parity.convert(tmp_path / "ours", tmp_path / "timm", target="timm")
    overlay = {"file": str(target / "model.safetensors")}
    theirs = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay
    )
    x = images(224, 224)
    with torch.no_grad():
        assert relative_gap(theirs.double().eval()(x), ours.double().eval()(x)) < BOUND
