"""Formats of others, against the libraries that own them: in, compared, out, loaded, compared."""

import pytest
import torch

import parity
from parity.containers import Info, write
from tests.parity.format_oracles import (
    BOUND,
    assert_same_bits,
    gap_of_ours,
    images,
    randomised,
    tensors,
)
from tests.twin_models import relative_gap

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
}  # fmt: skip


@pytest.mark.parametrize("changes", TIMM.values(), ids=TIMM)
def test_timm(changes, tmp_path):
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
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back", target="timm")
    loaded = timm.create_model(f"local-dir:{back}", pretrained=True, dtype=torch.float64).eval()
    with torch.no_grad():
        assert relative_gap(loaded(x), expected) < BOUND
    assert_same_bits(tmp_path / "timm", back)


HF_VIT = {
    "head": ("ViTForImageClassification", {"hidden_act": "gelu"}),
    "pooler": ("ViTModel", {"hidden_act": "quick_gelu", "qkv_bias": False}),
}


@pytest.mark.parametrize(("name", "changes"), HF_VIT.values(), ids=HF_VIT)
def test_hf_vit(name, changes, tmp_path, capsys):
    oracle, x, expected = transformers_model(name, "ViTConfig", changes)
    check_transformers(oracle, x, expected, "hf_vit", tmp_path, capsys)


def transformers_model(name, config, changes):
    """A tiny random model of transformers, images, and what it returns for them."""
    import transformers

    fields = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "num_labels": 5, "intermediate_size": 48,
    } | changes  # fmt: skip
    settings = getattr(transformers, config)(**fields, attn_implementation="sdpa")
    oracle = randomised(getattr(transformers, name)(settings))
    x = images(channels=settings.num_channels)
    return oracle, x, outputs(oracle, x)


def outputs(model, x):
    """Logits, or what is pooled."""
    with torch.no_grad():
        found = model(x)
    logits = getattr(found, "logits", None)
    if logits is None:
        logits = found.pooler_output
    return found.last_hidden_state[:, 0] if logits is None else logits


def check_transformers(oracle, x, expected, format, tmp_path, capsys, same_bits=True):
    """In, compared, out, loaded strictly and without warnings, compared, and the same bits."""
    oracle.save_pretrained(tmp_path / "theirs")
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert parity.inspect(tmp_path / "theirs").format == format
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back", target=format)
    capsys.readouterr()
    loaded, info = type(oracle).from_pretrained(
        back, dtype=torch.float64, output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(info.values()), info
    assert "UNEXPECTED" not in capsys.readouterr().err
    assert relative_gap(outputs(loaded.eval(), x), expected) < BOUND
    if same_bits:
        assert_same_bits(tmp_path / "theirs", back)
    again = parity.convert(back, tmp_path / "again")
    assert_same_bits(ours, again)


@pytest.mark.parametrize(("name", "changes"), HF_VIT.values(), ids=HF_VIT)
def test_hf_flax_vit(name, changes, tmp_path):
    """Transformers 5 has no Flax: the tree is made by hand from a PyTorch model's weights."""
    oracle, x, expected = transformers_model(name, "ViTConfig", changes)
    oracle.save_pretrained(tmp_path / "torch")
    tree = {}
    for name, array in tensors(tmp_path / "torch").items():
        *path, leaf = name.split(".")
        if leaf == "weight" and array.ndim > 1:
            leaf, axes = "kernel", (1, 0) if array.ndim == 2 else (2, 3, 1, 0)
            array = array.transpose(axes)
        elif leaf == "weight":
            leaf = "scale"
        tree["/".join([*path, leaf])] = array
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    infos = {name: Info.of(str(array.dtype), array.shape) for name, array in tree.items()}
    write(theirs / "flax_model.msgpack", "msgpack", infos, tree.__getitem__)
    (theirs / "config.json").write_text((tmp_path / "torch" / "config.json").read_text())
    ours = parity.convert(theirs, tmp_path / "ours")
    assert parity.inspect(theirs).format == "hf_flax_vit"
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back", target="hf_flax_vit")
    assert_same_bits(theirs, back)


@pytest.mark.parametrize("changes", [{}, {"representation_size": 24}], ids=["plain", "pre_logits"])
def test_torchvision(changes, tmp_path):
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
    ours = parity.convert(tmp_path / "theirs.pth", tmp_path / "ours")
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back.pth", target="torchvision")
    loaded = oracle()
    loaded.load_state_dict(torch.load(back, weights_only=True), strict=True)
    with torch.no_grad():
        assert relative_gap(loaded(x), expected) < BOUND
    assert_same_bits(tmp_path / "theirs.pth", back)
