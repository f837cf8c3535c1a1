"""How images are prepared crosses with the weights: sizes, processors of transformers, timm."""

import json

import numpy as np
import pytest

import parity
from tests.oracles import timm_models  # noqa: F401  (torchvision becomes importable)
from tests.twin_models import TINY
from vit_data import load_image
from vit_spec import Header, Preprocessing, checkpoint, get, parameters

DINOV2 = get("vit_small_patch14_dinov2", image_size=56, depth=1).replace(
    width=32, num_heads=2, mlp_width=128
)
CLIP = TINY.replace(pre_norm=True, patch_bias=False, num_classes=0)
SIGLIP = TINY.replace(class_token=False, pool="map", num_classes=0)
SMALLER = {"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 24}}
PROCESSORS = {  # class of transformers: its settings, the format and a model of it
    "BitImageProcessor": (SMALLER, "hf_dinov2", DINOV2),
    "CLIPImageProcessor": (SMALLER | {"resample": 2}, "hf_clip", CLIP),
    "SiglipImageProcessor": ({"size": {"height": 24, "width": 40}}, "hf_siglip", SIGLIP),
    "ViTImageProcessor": ({"size": {"height": 40, "width": 40}}, "hf_vit", TINY),
    "DeiTImageProcessor": (
        {"size": {"height": 34, "width": 34}, "crop_size": {"height": 24, "width": 24}},
        "hf_deit", TINY.replace(distillation_token=True),
    ),
}  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), "uint8")


def saved(config, folder, preprocessing):
    """A directory of ours."""
    config = config.replace(pos_embed_antialias=False)
    state = {n: np.ones(s, "float32") for n, s in parameters(config).items()}
    checkpoint.write(folder, Header(config=config, preprocessing=preprocessing), state)
    return folder


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_of_another_size_crosses_and_comes_back_as_it_was(name, tmp_path):
    import transformers

    settings, format, config = PROCESSORS[name]
    theirs = parity.convert(
        saved(config, tmp_path / "made", Preprocessing()), tmp_path / "theirs", target=format
    )
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(theirs)
    file = theirs / "preprocessor_config.json"
    before = json.loads(file.read_text())
    ours = parity.convert(theirs, tmp_path / "ours")
    header = checkpoint.read_header(ours)
    expected = processor(PICTURE, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert header.image_shape == expected.shape[:2] != header.config.image_shape
    mine = load_image(
        PICTURE, size=header.image_shape, channels=3, preprocessing=header.preprocessing
    )
    step = 1 / 255 / min(header.preprocessing.std)  # both round to 8 bits when they resize
    assert np.abs(expected - mine).max() < 1.5 * step
    back = parity.convert(ours, tmp_path / "back", target=format)
    after = json.loads((back / file.name).read_text())
    assert after["image_processor_type"] == name
    said = {n: value for n, value in before.items() if value is not None}
    said |= {"do_center_crop": bool(before.get("do_center_crop"))}
    assert {n: after[n] for n in said if n in after} == {n: said[n] for n in said if n in after}
    assert {"size", "crop_size", "resample", "image_mean"} & said.keys() <= after.keys()


@pytest.mark.parametrize("format", ["timm", "open_clip", "vitwin", "safetensors", "orbax"])
def test_a_size_of_its_own_comes_back_in_every_format_that_has_room(format, tmp_path):
    said = Preprocessing(size=(16, 24), crop_fraction=1.0)
    config = CLIP.replace(head_bias=False, num_classes=7) if format == "open_clip" else TINY
    ours = saved(config, tmp_path / "ours", said)
    name = "x.safetensors" if format == "safetensors" else "x"
    there = parity.convert(ours, tmp_path / name, target=format)
    header = parity.read(there)[0]
    assert header.preprocessing == said and header.image_shape == (16, 24)


def test_a_size_that_is_the_models_says_nothing():
    header = Header(config=TINY, preprocessing=Preprocessing(size=(32, 32)))
    assert header.preprocessing.size is None and header.image_shape == (32, 32)
    assert "size" not in header.to_json().partition("preprocessing")[2]
    with pytest.raises(ValueError, match="size 32 must be a pair of positive whole numbers"):
        Preprocessing(size=32)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("kind", "squash"), [("CLIP", False), ("DeiT", True)])
def test_one_number_is_the_shorter_side_or_both_as_the_old_processor_has_it(kind, squash, tmp_path):
    theirs = parity.convert(saved(TINY, tmp_path / "o", Preprocessing()), tmp_path / "x",
                            target="hf_vit")  # fmt: skip
    said = {"feature_extractor_type": f"{kind}FeatureExtractor", "size": 40, "crop_size": 32,
            "do_center_crop": True, "do_normalize": False, "do_rescale": False}  # fmt: skip
    (theirs / "preprocessor_config.json").write_text(json.dumps(said))
    found = parity.read(theirs)[0].preprocessing
    assert (found.squash, found.crop_fraction, found.size) == (squash, 0.8, None)
    assert (found.mean, found.std) == ((0.0,) * 3, (1 / 255,) * 3)  # raw numbers from 0 to 255
