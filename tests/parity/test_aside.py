"""What no model of ours has is kept beside it, and named where there is no room."""

import numpy as np
import pytest
import torch

import parity
import vit_torch
from parity.certificate_file import read as read_certificate
from parity.cli import main
from tests.parity.format_oracles import assert_same_bits, gap_of_ours, images, randomised, tensors
from tests.parity.test_formats_transformers import BOUND, transformers_model
from tests.twin_models import relative_gap

transformers = pytest.importorskip("transformers")
DROPPED = "mask_token of the source, of training alone and not zero, has no place in the target"


@pytest.fixture
def dinov2(tmp_path):
    """transformers' model with a token for masked training that was trained."""
    oracle, x, expected = transformers_model("Dinov2Model", "Dinov2Config", {})
    assert oracle.embeddings.mask_token.abs().min() > 0
    oracle.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_trained_mask_token_comes_back(dinov2, tmp_path):
    ours = parity.convert(dinov2, tmp_path / "ours", verify=True)
    record = read_certificate(ours)
    assert record["same_bits"] and record["target"]["sha256"]["aside"]
    assert not any("left out" in remark for remark in record["remarks"])
    assert vit_torch.load(ours).config.num_classes == 0  # which passes it over
    copy = parity.convert(ours, tmp_path / "copy")
    assert_same_bits(dinov2, parity.convert(copy, tmp_path / "back", target="hf_dinov2"))
    assert parity.verify(ours).passed and parity.verify(tmp_path / "back").passed
    parity.convert(dinov2, ours)  # replaces what a conversion wrote
    (ours / "aside.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    assert not parity.verify(ours).passed
    with pytest.raises(ValueError, match=r"aside.safetensors holds '.*', where only mask_token"):
        parity.convert(ours, tmp_path / "again", target="hf_dinov2")


def test_it_goes_from_one_format_of_others_to_another(dinov2, tmp_path):
    file = parity.convert(dinov2, tmp_path / "x.pth", target="dinov2")
    found = torch.load(file, weights_only=True)["mask_token"].numpy()
    np.testing.assert_array_equal(found, tensors(dinov2)["embeddings.mask_token"])


@pytest.mark.parametrize(("name", "format"), [("x", "timm"), ("x.safetensors", "safetensors")])
def test_a_format_without_room_says_so(name, format, dinov2, tmp_path, capsys):
    command = ["convert", str(dinov2), str(tmp_path / name), "--to", format, "--no-verify"]
    assert main(command) == 0
    assert f"note: {DROPPED}" in capsys.readouterr().out
    record = read_certificate(tmp_path / name)
    assert not record["same_bits"] and DROPPED in record["remarks"][-1]
    assert parity.verify(tmp_path / name).passed


def test_a_token_of_zeros_says_nothing(tmp_path):
    oracle, *_ = transformers_model("Dinov2Model", "Dinov2Config", {})
    with torch.no_grad():
        oracle.embeddings.mask_token.zero_()
    oracle.save_pretrained(tmp_path / "theirs")
    target = parity.convert(tmp_path / "theirs", tmp_path / "x", target="timm")
    assert read_certificate(target)["same_bits"]
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert not (ours / "aside.safetensors").exists()


def test_the_encoder_of_masked_image_modelling_is_read(tmp_path):
    settings = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "intermediate_size": 48, "encoder_stride": 8,
    }  # fmt: skip
    oracle = randomised(transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**settings)))
    oracle.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = oracle.vit(images()).last_hidden_state[:, 0]
    ours = parity.convert(tmp_path / "theirs", tmp_path / "ours")
    assert gap_of_ours(ours, images(), expected) < BOUND
    assert any("decoder" in remark for remark in read_certificate(ours)["remarks"])
    back = parity.convert(ours, tmp_path / "back", target="hf_vit")
    assert DROPPED in read_certificate(back)["remarks"][-1]
    loaded, info = transformers.ViTModel.from_pretrained(
        back, add_pooling_layer=False, dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        found = loaded.eval()(images()).last_hidden_state[:, 0]
    assert relative_gap(found, expected) < BOUND
