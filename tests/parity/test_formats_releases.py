"""State dicts of original releases, against timm's models, which timm's own filter loads."""

import re

import pytest
import torch

import parity
from tests.parity.format_oracles import BOUND, assert_same_bits, gap_of_ours, images, randomised
from tests.twin_models import relative_gap

DINOV2 = {"mask_token": lambda width: torch.zeros(1, width, dtype=torch.float64)}
RELEASES = {  # format, architecture, arguments, timm's names -> the release's, its own tensors
    "deit": ("deit", "deit_base_patch16_224", {}, {}, {}),
    "deit_distilled": ("deit", "deit_base_distilled_patch16_224", {}, {}, {}),
    "deit3": ("deit3", "deit3_base_patch16_224", {}, {r"ls(\d)\.gamma": r"gamma_\1"}, {}),
    "deit3_no_bias": (
        "deit3", "deit3_base_patch16_224", {"qkv_bias": False}, {r"ls(\d)\.gamma": r"gamma_\1"}, {},
    ),
    "mae": ("mae", "vit_base_patch16_224", {"global_pool": "avg"}, {}, {}),
    "mae_encoder": ("mae", "vit_base_patch16_224", {"num_classes": 0}, {}, {}),
    "dino": ("dino", "vit_base_patch16_224", {"num_classes": 0}, {}, {}),
    "dino_no_bias": ("dino", "vit_base_patch16_224", {"num_classes": 0, "qkv_bias": False}, {}, {}),
    "dinov2": ("dinov2", "vit_base_patch14_dinov2", {"num_classes": 0}, {}, DINOV2),
    "dinov2_gated_registers": (
        "dinov2", "vit_giant_patch14_reg4_dinov2", {"num_classes": 0},
        {"reg_token": "register_tokens", r"mlp\.fc1": "mlp.w12", r"mlp\.fc2": "mlp.w3"}, DINOV2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RELEASES)
def test_a_release(case, tmp_path):
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    format, name, changes, renames, own = RELEASES[case]
    arguments = {
        "img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2,
        "mlp_ratio": 1.5, "num_classes": 7,
    } | changes  # fmt: skip
    oracle, x = randomised(timm.create_model(name, **arguments)), images()
    with torch.no_grad():
        expected = oracle(x)
    published = {make: fill(128) for make, fill in own.items()}
    for key, value in oracle.state_dict().items():
        for pattern, replacement in renames.items():
            key = re.sub(pattern, replacement, key)
        published[key] = value
    if "register_tokens" in published:  # timm adds the class token's position to the token
        position = 0.1 * torch.ones(1, 1, 128, dtype=torch.float64)
        published["cls_token"] = published["cls_token"] - position
        published["pos_embed"] = torch.cat([position, published["pos_embed"]], dim=1)
    torch.save({"model": published}, tmp_path / "theirs.pth")

    told = None if format not in ("mae", "dino") or "fc_norm.weight" in published else format
    ours = parity.convert(tmp_path / "theirs.pth", tmp_path / "ours", source=told)
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back.pth", target=format)
    state = torch.load(back, weights_only=True)
    loaded = timm.create_model(name, **arguments).double().eval()
    state = checkpoint_filter_fn(state, loaded, adapt_layer_scale=True)
    loaded.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert relative_gap(loaded(x), expected) < BOUND
    assert_same_bits(tmp_path / "theirs.pth", back)


def test_tensors_of_two_formats_name_both(tmp_path):
    import timm

    oracle = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    torch.save(oracle.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"is any of mae, dino .*say which with source="):
        parity.convert(tmp_path / "x.pth", tmp_path / "ours")
