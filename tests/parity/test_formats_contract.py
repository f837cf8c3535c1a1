"""What all formats promise: nothing lost in silence, certificates, memory, no framework."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import parity
import vit_torch
from parity.cli import main
from parity.formats import FOREIGN
from parity.formats.kept import lost
from parity.formats.timm_names import facts
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY
from vit_spec import Preprocessing, checkpoint, get, parameters
from vit_spec.checkpoint import Header

MEAN = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
WIDE = TINY.replace(width=128)


@pytest.fixture
def ours(tmp_path):
    """A directory of ours that transformers' ViT and timm can hold."""
    labels = tuple("abcdefg")
    facts = Preprocessing(**MEAN, interpolation="bilinear", crop_fraction=0.5)
    model = vit_torch.create(TINY.replace(pos_embed_antialias=False))
    vit_torch.save(model, tmp_path / "ours", preprocessing=facts, labels=labels)
    return tmp_path / "ours"


def test_formats_lists_every_format(capsys):
    assert main(["formats"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and form.about in out for name, form in FOREIGN.items())
    assert "vitwin" in out


@pytest.mark.parametrize("format", ["timm", "hf_vit", "hf_flax_vit"])
@pytest.mark.parametrize("squash", [True, False], ids=["squash", "crop"])
def test_preprocessing_and_labels_cross(format, squash, tmp_path):
    said = Preprocessing(**MEAN, interpolation="lanczos", crop_fraction=0.5, squash=squash)
    header = Header(config=TINY, preprocessing=said, labels=tuple("abcdefg"))
    checkpoint.write(tmp_path / "ours", header, state(TINY))
    there = parity.convert(tmp_path / "ours", tmp_path / "x", target=format)
    back = parity.convert(there, tmp_path / "y")
    again = checkpoint.read_header(back)
    assert (again.preprocessing, again.labels) == (said, header.labels)


def state(config):
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype("float32") for n, s in parameters(config).items()}


def test_transformers_reads_the_same_preprocessing(ours, tmp_path):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    from vit_data import load_image

    parity.convert(ours, tmp_path / "hf", target="hf_vit")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), "uint8"))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", use_fast=False)
    theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    header = checkpoint.read_header(ours)
    mine = load_image(np.asarray(picture), size=32, channels=3, preprocessing=header.preprocessing)
    assert np.abs(theirs - mine).max() < 1.5 / 255 / 0.4  # both round to 8 bits when they resize


def test_missing_and_extra_tensors_are_reported_together(ours, tmp_path):
    file = parity.convert(ours, tmp_path / "hf", target="hf_vit") / "model.safetensors"
    tensors = checkpoint.read_tensors(file)
    tensors["vit.odd"] = tensors.pop("vit.layernorm.bias")
    checkpoint.write_tensors(file, tensors, metadata={"format": "pt"})
    message = r"(?s)1 missing, 1 extra.*missing  vit.layernorm.bias.*extra    vit.odd"
    with pytest.raises(ValueError, match=message):
        parity.convert(tmp_path / "hf", tmp_path / "again")


def test_an_attribute_that_no_rule_reads_is_an_error(ours, tmp_path):
    config = parity.convert(ours, tmp_path / "hf", target="hf_vit") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_rope": True}))
    with pytest.raises(ValueError, match="no rule reads: use_rope True; if they do not, delete"):
        parity.convert(tmp_path / "hf", tmp_path / "again")


def test_what_a_target_does_not_keep_is_said_and_recorded(tmp_path, capsys):
    config = TINY.replace(dropout=0.1, activation="gelu_tanh")
    said = Preprocessing(**MEAN)
    model = vit_torch.create(config)
    vit_torch.save(model, tmp_path / "ours", labels=tuple("abcdefg"), preprocessing=said)
    command = ["convert", str(tmp_path / "ours"), str(tmp_path / "x.npz"), "--to", "augreg"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "note: dropout 0.1 reads back as 0.0 (in training)" in out
    assert "note: preprocessing: mean [0.1, 0.2, 0.3] reads back as [0.5, 0.5" in out
    assert "note: the names of the 7 classes are not kept" in out


def test_what_would_be_read_back_as_another_model_is_refused():
    header = Header(config=get("deit_tiny_patch16_224", num_heads=2))
    with pytest.raises(ValueError, match=r"num_heads 2 .*deit_tiny_patch16_224, which has 3"):
        lost(header, FOREIGN["deit"])


@pytest.mark.parametrize("format", ["timm", "hf_vit"])
def test_a_certificate_of_a_foreign_format_is_verified(format, ours, tmp_path):
    target = parity.convert(ours, tmp_path / "x", target=format)
    assert parity.verify(target).passed
    file = target / "model.safetensors"
    tensors = checkpoint.read_tensors(file)
    name = next(n for n in tensors if n.endswith("cls_token"))
    tensors[name] = tensors[name] + 1
    checkpoint.write_tensors(file, tensors, metadata={"format": "pt"})
    verification = parity.verify(target)
    assert not verification.passed
    assert f"{name} has other values" in str(verification.changes)


def test_foreign_to_foreign_and_back_keeps_every_bit(ours, tmp_path):
    timm = parity.convert(ours, tmp_path / "timm", target="timm")
    hf = parity.convert(timm, tmp_path / "hf", target="hf_vit")
    flax = parity.convert(hf, tmp_path / "flax", target="hf_flax_vit")
    back = parity.convert(flax, tmp_path / "back")
    assert_same_bits(ours, back)


def test_a_model_given_by_hand_reads_a_file_that_says_none(ours, tmp_path):
    parity.convert(ours, tmp_path / "hf", target="hf_vit")
    (tmp_path / "hf" / "config.json").unlink()
    back = parity.convert(tmp_path / "hf", tmp_path / "back", source="hf_vit", model=ours)
    assert_same_bits(ours, back)


def test_dinov3_which_has_no_table_of_positions_is_refused(ours, tmp_path):
    file = parity.convert(ours, tmp_path / "timm", target="timm") / "model.safetensors"
    tensors = checkpoint.read_tensors(file)
    del tensors["pos_embed"]
    checkpoint.write_tensors(file, tensors, metadata={"format": "pt"})
    config = tmp_path / "timm" / "config.json"
    content = json.loads(config.read_text()) | {"architecture": "vit_small_patch16_dinov3"}
    config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(?s)1 missing.*missing  pos_embed"):
        parity.convert(tmp_path / "timm", tmp_path / "again")


def test_tensors_of_no_format_list_all_formats(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"no known format .*a, \.\.\..*: timm, hf_vit"):
        parity.convert(tmp_path / "x.npz", tmp_path / "ours")


@pytest.mark.parametrize("target", ["hf_vit", "safetensors", "vitwin", "deit"])
def test_converting_holds_a_few_tensors_in_memory(target, tmp_path):
    config = TINY.replace(width=256, mlp_width=1024, depth=12, num_heads=4)
    checkpoint.write(tmp_path / "ours", Header(config=config), state(config))
    path = tmp_path / ("x.safetensors" if target == "safetensors" else "x")
    tracemalloc.start()
    certificate = target != "deit"  # which PyTorch would read
    parity.convert(tmp_path / "ours", path, target=target, certificate=certificate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "ours" / "model.safetensors").stat().st_size
    assert peak < size / 4, (peak, size)


@pytest.mark.parametrize("target", ["hf_vit", "hf_flax_vit", "deit", "safetensors"])
def test_converting_imports_no_framework(target, tmp_path):
    checkpoint.write(tmp_path / "ours", Header(config=WIDE), state(WIDE))
    path = tmp_path / ("x.safetensors" if target == "safetensors" else "x")
    script = (
        "import sys, parity\n"
        f"parity.convert({str(tmp_path / 'ours')!r}, {str(path)!r}, target={target!r}, "
        f"certificate={target != 'deit'})\n"
        "loaded = {'jax', 'torch', 'flax', 'timm', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    silent = tmp_path / "ours" if target == "deit" else None
    back = parity.convert(path, tmp_path / "back", source=target, model=silent)
    assert_same_bits(tmp_path / "ours", back)


def test_facts_of_timms_names_are_those_of_its_entry_points(monkeypatch):
    from timm.models import list_models, model_entrypoint, vision_transformer

    said = {}
    monkeypatch.setattr(
        vision_transformer,
        "_create_vision_transformer",
        lambda name, pretrained=False, **arguments: said.update({name: arguments}),
    )
    for name in list_models(module="vision_transformer"):
        model_entrypoint(name)()
    checked = 0
    for name, arguments in said.items():
        try:
            found = facts(name, arguments.get("embed_dim", 768))
        except ValueError:
            continue
        norm = getattr(arguments.get("norm_layer"), "keywords", {"eps": 1e-6})
        activation = arguments.get("act_layer", "gelu")
        expected = {
            "num_heads": arguments.get("num_heads", 12),
            "norm_eps": norm["eps"],
            "activation": activation if isinstance(activation, str) else "gelu",
        }
        assert found == expected, name
        checked += 1
    assert checked > 100
