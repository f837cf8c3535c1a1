"""Classes of transformers around a trunk that we have, and families that are not covered."""

import json

import pytest
import torch
from safetensors.torch import save_file

import parity
from tests.oracles import timm_models  # noqa: F401  (torchvision becomes importable)
from tests.parity.format_oracles import BOUND, assert_same_bits, gap_of_ours, images, randomised
from tests.parity.test_formats_transformers import outputs, transformers_model
from tests.twin_models import relative_gap
from vit_spec import checkpoint

transformers = pytest.importorskip("transformers")

TOWER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "intermediate_size": 48,
}  # fmt: skip


def of_two_towers(family, **labels):
    """An image classifier on the vision tower of CLIP or SigLIP."""
    text = TOWER | {"vocab_size": 50000} if family == "CLIP" else TOWER
    settings = getattr(transformers, f"{family}Config")(
        vision_config=TOWER, text_config=text, **labels
    )
    return randomised(getattr(transformers, f"{family}ForImageClassification")(settings))


def test_siglips_classifier_is_read_and_written(tmp_path):
    labels = {
        "id2label": dict(enumerate("abcde")),
        "label2id": {n: i for i, n in enumerate("abcde")},
    }
    oracle = of_two_towers("Siglip", **labels)
    expected = outputs(oracle, images())
    oracle.save_pretrained(tmp_path / "theirs")
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours", verify=True)
    assert gap_of_ours(ours, images(), expected) < BOUND
    header = checkpoint.read_header(ours)
    assert header.config.pool == "mean" and header.labels == tuple("abcde")
    assert any("head" in r for r in json.loads((ours / "parity.json").read_text())["remarks"])
    back = parity.convert(ours, tmp_path / "back", target="hf_siglip")
    loaded, info = type(oracle).from_pretrained(back, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert relative_gap(outputs(loaded.eval(), images()), expected) < BOUND
    assert_same_bits(ours, parity.convert(back, tmp_path / "again"))


def test_clips_classifier_skips_the_last_norm_and_is_refused(tmp_path):
    of_two_towers("CLIP").save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        ValueError, match="mean of tokens that the last norm has not seen, which no"
    ):
        parity.convert(tmp_path / "theirs", tmp_path / "ours")


def test_deit_without_a_head_is_read_and_written(tmp_path):
    oracle, x, expected = transformers_model("DeiTModel", "DeiTConfig", {})
    oracle.save_pretrained(tmp_path / "theirs")
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert gap_of_ours(ours, x, expected) < BOUND
    back = parity.convert(ours, tmp_path / "back", target="hf_deit")
    loaded = type(oracle).from_pretrained(back, dtype=torch.float64).eval()
    assert relative_gap(outputs(loaded, x), expected) < BOUND


UNCOVERED = {
    "Swin": ("SwinConfig", {"embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4}),
    "Beit": ("BeitConfig", TOWER),
    "DINOv3ViT": ("DINOv3ViTConfig", TOWER),
    "IJepa": ("IJepaConfig", TOWER),
    "ViTMSN": ("ViTMSNConfig", TOWER),
    "Siglip2Vision": (
        "Siglip2VisionConfig",
        {n: v for n, v in TOWER.items() if n != "image_size"} | {"num_patches": 16},
    ),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_a_family_that_is_not_covered_is_refused_by_its_name(name, tmp_path):
    config, fields = UNCOVERED[name]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, config)(**fields))
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="not covered") as caught:
        parity.convert(tmp_path / "theirs", tmp_path / "ours")
    message = str(caught.value)
    assert f"theirs is '{model.config.model_type}' of transformers" in message
    assert "of transformers are covered: model_type vit, deit, dinov2" in message
    assert "timm" not in message and "source=" not in message


def test_an_architecture_of_timm_that_is_no_vit_is_refused_by_its_name(tmp_path):
    (tmp_path / "x").mkdir()
    save_file({"conv1.weight": torch.zeros(2, 3, 7, 7)}, tmp_path / "x" / "model.safetensors")
    (tmp_path / "x" / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ValueError, match=r"is 'resnet18' of timm.*not covered \(it is a convol"):
        parity.convert(tmp_path / "x", tmp_path / "y")
