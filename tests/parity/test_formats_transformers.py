"""Formats of transformers, against its own models: in, compared, out, loaded strictly, compared."""

import json
from pathlib import Path

import pytest
import torch

import parity
import vit_torch
from parity.cli import main
from parity.containers import Info, write
from tests.parity.format_oracles import (
    BOUND,
    assert_same_bits,
    gap_of_ours,
    images,
    randomised,
    tensors,
)
from tests.twin_models import TINY, relative_gap

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HF_VIT = {
    "head": ("ViTForImageClassification", {"hidden_act": "gelu"}),
    "pooler": ("ViTModel", {"hidden_act": "quick_gelu", "qkv_bias": False}),
}


@pytest.mark.parametrize(("name", "changes"), HF_VIT.values(), ids=HF_VIT)
def test_hf_vit(name, changes, tmp_path, capsys, matrix):
    oracle, x, expected = transformers_model(name, "ViTConfig", changes)
    check_transformers(oracle, x, expected, "hf_vit", tmp_path, capsys, matrix)


def transformers_model(name, config, changes):
    """A tiny random model of transformers, images, and what it returns for them."""
    fields = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "num_labels": 5, "intermediate_size": 48,
    } | changes  # fmt: skip
    settings = getattr(transformers, config)(**fields, attn_implementation="sdpa")
    oracle = randomised(getattr(transformers, name)(settings))
    x = images(channels=settings.num_channels)
    return oracle, x, outputs(oracle, x)


def outputs(model, x):
    """Logits, or what is pooled, or the class token of all patches in their order."""
    order = {}
    if model.config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
        order = {"noise": torch.arange(16.0).expand(len(x), -1)}
    with torch.no_grad():
        found = model(x, **order)
    for name in ("logits", "image_embeds", "pooler_output"):
        if getattr(found, name, None) is not None:
            return getattr(found, name)
    return found.last_hidden_state[:, 0]


def check_transformers(oracle, x, expected, format, tmp_path, capsys, matrix, folds=False):
    """In, compared, out, loaded strictly and without warnings, compared, and the same bits."""
    oracle.save_pretrained(tmp_path / "theirs")
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert parity.inspect(tmp_path / "theirs").format == format
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back", target=format)
    capsys.readouterr()
    loaded, info = type(oracle).from_pretrained(
        back, dtype=torch.float64, output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(info.values()), info
    assert "UNEXPECTED" not in capsys.readouterr().err
    outward = relative_gap(outputs(loaded.eval(), x), expected)
    name = type(oracle).__name__
    matrix(format, name, "from_pretrained", inward=inward, outward=outward, folds=folds)
    if not folds:
        assert_same_bits(tmp_path / "theirs", back)
    again = parity.convert(back, tmp_path / "again")
    assert_same_bits(ours, again)


DEIT = {"gelu": {}, "tanh_no_bias": {"hidden_act": "gelu_new", "qkv_bias": False}}


@pytest.mark.parametrize("changes", DEIT.values(), ids=DEIT)
def test_hf_deit(changes, tmp_path, capsys, matrix):
    oracle, x, expected = transformers_model(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", changes
    )
    check_transformers(oracle, x, expected, "hf_deit", tmp_path, capsys, matrix)


def test_hf_deit_without_a_teacher(tmp_path, capsys, matrix):
    """Its second token is a register of ours, and takes its position along."""
    oracle, x, expected = transformers_model("DeiTForImageClassification", "DeiTConfig", {})
    check_transformers(oracle, x, expected, "hf_deit", tmp_path, capsys, matrix, folds=True)
    again = parity.convert(tmp_path / "again", tmp_path / "once_more", target="hf_deit")
    assert_same_bits(tmp_path / "back", again)  # folded once, it stays
    for path, same in (("ours", False), ("again", True), ("once_more", True)):
        assert json.loads((tmp_path / path / "parity.json").read_text())["same_bits"] is same


def test_a_classifier_of_class_token_and_mean_is_refused(tmp_path):
    oracle, _, _ = transformers_model("Dinov2ForImageClassification", "Dinov2Config", {})
    oracle.save_pretrained(tmp_path / "theirs")
    message = r"class token and mean of the patches.*leave_out='classifier\.\*'.*Dinov2Model"
    with pytest.raises(ValueError, match=message):
        parity.convert(tmp_path / "theirs", tmp_path / "ours")
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours", leave_out="classifier.*")
    assert vit_torch.load(ours).config.num_classes == 0


DINOV2 = {
    "plain": ("Dinov2", {}),
    "gated": ("Dinov2", {"use_swiglu_ffn": True, "layer_norm_eps": 1e-5}),
    "registers": ("Dinov2WithRegisters", {"num_register_tokens": 3}),
    "registers_gated": ("Dinov2WithRegisters", {"use_swiglu_ffn": True, "mlp_ratio": 2}),
}


@pytest.mark.parametrize(("name", "changes"), DINOV2.values(), ids=DINOV2)
def test_hf_dinov2(name, changes, tmp_path, capsys, matrix):
    oracle, x, expected = transformers_model(f"{name}Model", f"{name}Config", changes)
    with torch.no_grad():
        oracle.embeddings.mask_token.zero_()  # which no model of ours has: it comes back as zero
    format = "hf_dinov2_with_registers" if "Registers" in name else "hf_dinov2"
    check_transformers(oracle, x, expected, format, tmp_path, capsys, matrix)


def test_dinov2_without_a_token_for_masked_training(tmp_path):
    oracle, x, expected = transformers_model(
        "Dinov2Model", "Dinov2Config", {"use_mask_token": False}
    )
    oracle.save_pretrained(tmp_path / "theirs")
    assert not any("mask" in name for name in tensors(tmp_path / "theirs"))
    assert gap_of_ours(parity.convert(tmp_path / "theirs", tmp_path / "ours"), x, expected) < BOUND


CLIP = {
    "quick_gelu": ("CLIPVisionModel", {}),
    "projection": ("CLIPVisionModelWithProjection", {"hidden_act": "gelu", "projection_dim": 24}),
}


@pytest.mark.parametrize(("name", "changes"), CLIP.values(), ids=CLIP)
def test_hf_clip(name, changes, tmp_path, capsys, matrix):
    oracle, x, expected = transformers_model(name, "CLIPVisionConfig", changes)
    check_transformers(oracle, x, expected, "hf_clip", tmp_path, capsys, matrix)


SIGLIP = {"tanh": {}, "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-5}}


@pytest.mark.parametrize("changes", SIGLIP.values(), ids=SIGLIP)
def test_hf_siglip(changes, tmp_path, capsys, matrix):
    oracle, x, expected = transformers_model("SiglipVisionModel", "SiglipVisionConfig", changes)
    check_transformers(oracle, x, expected, "hf_siglip", tmp_path, capsys, matrix)


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_the_vision_tower_of_both_towers_is_read(family, tmp_path):
    tower = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "intermediate_size": 48,
    }  # fmt: skip
    text = tower | {"vocab_size": 50000} if family == "CLIP" else tower
    settings = getattr(transformers, f"{family}Config")(vision_config=tower, text_config=text)
    oracle = randomised(getattr(transformers, f"{family}Model")(settings))
    oracle.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = oracle.get_image_features(images()).pooler_output
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert gap_of_ours(ours, images(), expected) < BOUND


MAE = {"encoder": {}, "quick_gelu": {"hidden_act": "quick_gelu", "qkv_bias": False}}


@pytest.mark.parametrize("changes", MAE.values(), ids=MAE)
def test_hf_vitmae(changes, tmp_path, capsys, matrix):
    oracle, x, _ = transformers_model("ViTMAEModel", "ViTMAEConfig", changes | {"mask_ratio": 0.0})
    check_transformers(oracle, x, outputs(oracle, x), "hf_vitmae", tmp_path, capsys, matrix)


@pytest.mark.parametrize(("name", "changes"), HF_VIT.values(), ids=HF_VIT)
def test_hf_flax_vit(name, changes, tmp_path, matrix):
    """Transformers 5 has no Flax: the tree is made by hand from a PyTorch model's weights.

    Out, it is the same file bit for bit, so the gap is that of our twin reading it again.
    """
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
    inward = gap_of_ours(ours, x, expected)
    back = parity.convert(ours, tmp_path / "back", target="hf_flax_vit")
    assert_same_bits(theirs, back)
    outward = gap_of_ours(parity.convert(back, tmp_path / "again"), x, expected)
    model = f"Flax{type(oracle).__name__}"
    matrix("hf_flax_vit", model, "the published tree", inward=inward, outward=outward)


def test_the_commands_of_the_readme_go_to_big_vision_and_back_and_to_orbax(
    tmp_path, monkeypatch, capsys
):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].split() for line in readme.splitlines()]
    commands = [
        words[2:] for words in lines if words[:2] == ["$", "parity"] and "siglip" in str(words)
    ]
    assert len(commands) == 3  # to big_vision, back, and to Orbax
    monkeypatch.chdir(tmp_path)
    oracle, x, expected = transformers_model("SiglipVisionModel", "SiglipVisionConfig", {})
    oracle.save_pretrained("siglip")
    assert [main(command) for command in commands] == [0, 0, 0], capsys.readouterr().err
    assert_same_bits("siglip", "again")
    assert parity.verify("siglip_orbax").passed
    loaded = type(oracle).from_pretrained("again", dtype=torch.float64).eval()
    assert relative_gap(outputs(loaded, x), expected) < BOUND


def test_transformers_finds_the_class_of_our_directory_itself(tmp_path):
    ours = randomised(vit_torch.create(TINY.replace(pos_embed_antialias=False))).float()
    vit_torch.save(ours, tmp_path / "ours", labels=tuple("abcdefg"))
    target = parity.convert(tmp_path / "ours", tmp_path / "hf", target="hf_vit")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(target).double().eval()
    assert theirs.config.id2label == dict(enumerate("abcdefg"))
    assert relative_gap(outputs(theirs, images()), outputs_of(ours)) < BOUND


def outputs_of(model):
    """The logits of our twin in float64."""
    with torch.no_grad():
        return model.double().eval()(images())


def test_a_vit_goes_to_big_vision_and_back_to_a_vit(tmp_path):
    """Its class token takes the position along, and has a position of zeros from then on."""
    changes = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    oracle, x, expected = transformers_model("ViTForImageClassification", "ViTConfig", changes)
    oracle.save_pretrained(tmp_path / "theirs")
    there = parity.convert(tmp_path / "theirs", tmp_path / "x.npz", target="big_vision")
    back = parity.convert(there, tmp_path / "back", target="hf_vit")
    loaded, info = type(oracle).from_pretrained(
        back, dtype=torch.float64, output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(info.values()), info
    assert relative_gap(outputs(loaded.eval(), x), expected) < BOUND
