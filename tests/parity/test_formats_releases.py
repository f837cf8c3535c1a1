"""State dicts of original releases, against timm's models, which timm's own filter loads."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import parity
from tests.parity.format_oracles import BOUND, assert_same_bits, gap_of_ours, images, randomised
from tests.twin_models import TINY, relative_gap

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
SCALED = {"layer_scale": 1e-5}
MODELS = {  # what their tensors do not say is given: the fields beside those of `TINY`
    "deit": {},
    "deit_distilled": {"distillation_token": True},
    "deit3": {"class_token_position": False, **SCALED},
    "deit3_no_bias": {"class_token_position": False, "qkv_bias": False, **SCALED},
    "mae": {"pool": "mean", "fc_norm": True},
    "mae_encoder": {"num_classes": 0},
    "dino": {"num_classes": 0},
    "dino_no_bias": {"num_classes": 0, "qkv_bias": False},
    "dinov2": {"num_classes": 0, **SCALED},
    "dinov2_gated_registers": {
        "num_classes": 0, "mlp_width": 96, "mlp": "swiglu_packed", "activation": "silu",
        "num_registers": 4, **SCALED,
    },
}  # fmt: skip
WIDE = TINY.replace(width=128, mlp_width=192)


@pytest.mark.parametrize("case", RELEASES)
def test_a_release(case, tmp_path, matrix):
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
    config = WIDE.replace(**MODELS[case])
    ours = parity.convert(tmp_path / "theirs.pth", tmp_path / "ours", source=told, model=config)
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back.pth", target=format)
    state = torch.load(back, weights_only=True)
    loaded = timm.create_model(name, **arguments).double().eval()
    state = checkpoint_filter_fn(state, loaded, adapt_layer_scale=True)
    loaded.load_state_dict(state, strict=True)
    with torch.no_grad():
        outward = relative_gap(loaded(x), expected)
    matrix(format, name, "timm's filter, strict", inward=inward, outward=outward)
    torch.save(published, tmp_path / "plain.pth")
    assert_same_bits(tmp_path / "plain.pth", back)


@pytest.mark.parametrize("teacher", ["backbone.", "module.backbone."])
def test_the_backbone_of_a_training_checkpoint_of_dino(teacher, tmp_path):
    import timm

    oracle = timm.create_model(
        "vit_base_patch16_224", img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2,
        mlp_ratio=1.5, num_classes=0,
    )  # fmt: skip
    state, x = randomised(oracle).state_dict(), images()
    own = {teacher.replace("backbone.", "head.last_layer.weight_g"): torch.ones(2, 1)}
    own |= {teacher.replace("backbone.", "head.mlp.0.weight"): torch.ones(2, 2)}
    nested = {
        "student": {f"module.backbone.{n}": torch.zeros_like(t) for n, t in state.items()},
        "teacher": {f"{teacher}{n}": t for n, t in state.items()} | own,
        "epoch": 3,
    }
    torch.save(nested, tmp_path / "theirs.pth")
    config = WIDE.replace(num_classes=0)
    ours = parity.convert(tmp_path / "theirs.pth", tmp_path / "ours", source="dino", model=config)
    with torch.no_grad():
        assert gap_of_ours(ours, x, oracle(x)) < BOUND
    notes = " ".join(json.loads((ours / "parity.json").read_text())["remarks"])
    assert f"{teacher}head".replace("backbone.", "") in notes and "left out" in notes


def test_tensors_of_two_formats_name_both(tmp_path):
    import timm

    oracle = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    torch.save(oracle.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"is any of mae, dino .*say which, such as source="):
        parity.convert(tmp_path / "x.pth", tmp_path / "ours")


OPEN_CLIP = {
    "gelu": ("vit_base_patch16_clip_224", {}),
    "quick_gelu": ("vit_base_patch16_clip_quickgelu_224", {"mlp_ratio": 2}),
}


@pytest.mark.parametrize(("name", "changes"), OPEN_CLIP.values(), ids=OPEN_CLIP)
def test_open_clip(name, changes, tmp_path, matrix):
    """OpenAI's names, of which timm makes its own; `tests/oracles` has open_clip itself."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    arguments = {
        "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1,
        "mlp_ratio": 1.5, "num_classes": 24,
    } | changes  # fmt: skip
    oracle, x = randomised(timm.create_model(name, **arguments)), images()
    with torch.no_grad():
        oracle.head.bias.zero_()
        expected = oracle(x)
    published = {openai_name(n): a for n, a in oracle.state_dict().items() if n != "head.bias"}
    published["visual.proj"] = published["visual.proj"].T.contiguous()
    for key in ("visual.class_embedding", "visual.positional_embedding"):
        published[key] = published[key].reshape(-1, 64).squeeze(0)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    save_file(published, theirs / "open_clip_model.safetensors")
    model = {"quick_gelu": "quickgelu" in name, "vision_cfg": {"width": 64}}
    (theirs / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))

    ours = parity.convert(theirs, tmp_path / "ours")
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back", target="open_clip")
    loaded = timm.create_model(name, **arguments).double().eval()
    state = checkpoint_filter_fn(load_file(back / "open_clip_model.safetensors"), loaded)
    loaded.load_state_dict(state, strict=True)
    with torch.no_grad():
        outward = relative_gap(loaded(x), expected)
    matrix("open_clip", name, "timm's filter, strict", inward=inward, outward=outward)
    assert_same_bits(theirs, back)


def openai_name(name):
    """The name in OpenAI's release of a tensor of timm's."""
    for pattern, replacement in {
        r"cls_token": "class_embedding", r"pos_embed": "positional_embedding",
        r"patch_embed\.proj": "conv1", r"head\.weight": "proj", r"norm_pre": "ln_pre",
        r"^norm\.": "ln_post.", r"\.norm(\d)": r".ln_\1", r"^blocks": "transformer.resblocks",
        r"attn\.proj": "attn.out_proj", r"qkv\.": "in_proj_", r"fc1": "c_fc", r"fc2": "c_proj",
    }.items():  # fmt: skip
        name = re.sub(pattern, replacement, name)
    return f"visual.{name}"
