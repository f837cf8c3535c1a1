"""What training scripts save beside the weights says which model it is, and of which images."""

from argparse import Namespace

import pytest
import torch

import parity
from parity import unread
from parity.certificate_file import read as read_certificate
from parity.cli import main
from parity.formats import FOREIGN, Given
from tests.parity.test_formats_said import IMAGENET, saved
from vit_spec import checkpoint, get, parameters

HALF = (0.5, 0.5, 0.5)
BARE = get("vit_tiny_patch16_224", image_size=32, num_classes=7)


def written(folder, content, config=BARE):
    """A file of training with the weights at `state_dict`."""
    state = checkpoint.read_tensors(saved(config, folder) / "model.safetensors")
    weights = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(content | {"state_dict": weights}, folder / "run.pth")
    return folder / "run.pth"


def timms(**args):
    return {
        "epoch": 3, "arch": "vit_tiny_patch16_224", "version": 2, "metric": 80.3,
        "args": Namespace(model="vit_tiny_patch16_224", mean=None, std=None, crop_pct=None, **args),
    }  # fmt: skip


def test_timms_training_says_which_model_it_is(tmp_path, capsys):
    file = written(tmp_path, timms(img_size=None, gp=None))
    assert main(["convert", str(file), str(tmp_path / "y"), "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "said beside the weights: arch vit_tiny_patch16_224; what they leave out" in out
    assert "the source does not say" not in out
    header = checkpoint.read_header(tmp_path / "y")
    assert header.config == BARE.replace(pos_embed_antialias=True)
    said = header.preprocessing
    assert (said.mean, said.std, said.crop_fraction) == (HALF, HALF, 0.9)  # timm's of that name
    assert read_certificate(tmp_path / "y")["source"]["format"] == "timm"
    assert parity.verify(tmp_path / "y").passed


SETTINGS = {
    "args": {"args": Namespace(model="vit_tiny_patch16_224", mean=(0.1, 0.2, 0.3),
                               std=[0.4], crop_pct=0.8, interpolation="bilinear"),
             "arch": "vit_tiny_patch16_224.augreg_in21k"},
    "hyper_parameters": {"hyper_parameters": {"model_name": "timm/vit_tiny_patch16_224",
                                              "mean": [0.1, 0.2, 0.3], "std": (0.4,) * 3,
                                              "crop_pct": 0.8, "interpolation": "bilinear"}},
    "pretrained_cfg": {"pretrained_cfg": {"mean": (0.1, 0.2, 0.3), "std": (0.4,) * 3,
                                          "crop_pct": 0.8, "interpolation": "bilinear"}},
}  # fmt: skip


@pytest.mark.parametrize("content", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_images_beside_the_weights_are_read(content, tmp_path):
    notes = []
    file = written(tmp_path, content)
    said = checkpoint.read_header(
        parity.convert(file, tmp_path / "y", note=notes.append)
    ).preprocessing
    assert (said.mean, said.std) == ((0.1, 0.2, 0.3), (0.4,) * 3)
    assert (said.crop_fraction, said.interpolation) == (0.8, "bilinear")
    assert any("mean [0.1, 0.2, 0.3]" in note for note in notes)
    assert not any(IMAGENET in note for note in notes)


def test_a_pooling_that_timms_training_was_asked_for_is_read(tmp_path):
    file = written(tmp_path, timms(gp="avg", model_kwargs={"fc_norm": False}))
    assert parity.read(file)[0].config.pool == "mean"


RELEASES = {
    "dino": {"args.arch": "vit_small", "args.patch_size": 16},
    "mae": {"args.model": "mae_vit_base_patch16", "args.mask_ratio": 0.75},
}


@pytest.mark.parametrize("format", RELEASES)
def test_settings_of_a_release_decide_between_releases(format):
    shapes = parameters(get("vit_small_patch16_224", num_classes=0))
    for said, found in (({}, {"mae", "dino"}), (RELEASES[format], {format})):
        given = Given(shapes=shapes, kind="torch", said=said)
        assert {name for name, form in FOREIGN.items() if form.matches(given)} == found


def test_values_that_say_nothing_are_passed_over(tmp_path):
    odd = {"arch": "resnet50", "args": Namespace(mean="half", std=[], model=7, crop_pct=3)}
    notes = []
    parity.convert(written(tmp_path, odd), tmp_path / "y", note=notes.append)
    assert any(
        "the source does not say, and assumed as in the published deit_tiny" in n for n in notes
    )


def test_releases_that_tensors_do_not_tell_apart_are_told_by_what_differs():
    given = Given(shapes=parameters(get("vit_base_patch16_224", num_classes=0)), kind="torch")
    assert unread.apart(["mae", "dino"], given) == (
        "; they differ: mae has pos_embed_antialias True, pos_embed_offset 0.0; "
        "dino has pos_embed_antialias False, pos_embed_offset 0.1"
    )
