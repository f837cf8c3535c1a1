"""PyTorch's resizing against torchvision and transformers, and its distance to Pillow's."""

import importlib.util
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import tests.oracles.timm_models  # noqa: F401  (makes torchvision importable)
from tests.vit_data.samples import png
from vit_data import Augmentation, eval_batches, load_image, open_source, train_batches
from vit_data import resize as resizing
from vit_data.augment import crop_box
from vit_data.decode import decode_picture
from vit_data.order import ExampleRng
from vit_data.resize import resize
from vit_spec import Preprocessing

SHAPES = [((375, 500), (224, 224)), ((60, 40), (97, 33)), ((31, 200), (64, 64)), ((2, 3), (1, 5))]
IMAGENET: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PIXELS = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, crop_fraction=1.0, squash=True)
FACTS: Any = {"batch_size": 8, "size": 32, "channels": 3, "preprocessing": PIXELS}
CROP = Augmentation(crop_scale=(0.2, 1.0))


def noise(h, w, channels=3):
    """A picture of full contrast: every value is 0 or 255."""
    values = np.random.default_rng(h * w).integers(0, 2, (h, w, channels), "uint8") * 255
    return Image.fromarray(values[..., 0] if channels == 1 else values)


def tensor(picture):
    values = np.array(picture)
    return torch.from_numpy(values.reshape(*values.shape[:2], -1)).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_pixels_are_those_of_torchvision(shape, size, channels, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    picture = noise(*shape, channels)
    mode = InterpolationMode(interpolation)
    theirs = functional.resize(tensor(picture), list(size), interpolation=mode, antialias=True)
    ours = resize(picture, size, interpolation, "torch")
    assert ours.dtype == np.uint8 and ours.shape == (*size, channels)
    np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0))


@pytest.mark.parametrize("squash", [True, False], ids=["squash", "crop"])
def test_an_image_is_that_of_the_fast_processor_of_transformers(squash):
    transformers = pytest.importorskip("transformers")
    facts = Preprocessing(**IMAGENET, squash=squash, crop_fraction=1.0 if squash else 224 / 256)
    names = {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"], "resample": 3}
    if squash:
        make = partial(transformers.ViTImageProcessor, size={"height": 224, "width": 224})
    else:
        crop = {"height": 224, "width": 224}
        make = partial(transformers.CLIPImageProcessor, size={"shortest_edge": 256}, crop_size=crop)
    picture = noise(300, 420)
    theirs = make(**names)(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    told = {"size": 224, "channels": 3, "preprocessing": facts}
    ours = load_image(np.array(picture), **told, resize_by="torch")
    level = np.float32(1 / 255 / 0.229)  # of which no pixel is off: only float32 rounds otherwise
    assert np.abs(ours - theirs).max() < 1e-4 * level


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_photographs_differ_from_pillow_by_a_level_in_few_values(interpolation):
    for photo in load_sample_images().images:
        picture = Image.fromarray(photo)
        pillow, pytorch = (
            resize(picture, (224, 224), interpolation, by).astype(int) for by in ("pillow", "torch")
        )
        gap = np.abs(pillow - pytorch)
        assert gap.max() == 1 and np.mean(gap > 0) < 0.01


@pytest.fixture
def source(tmp_path):
    """Eight pictures of noise in two classes."""
    for i in range(8):
        place = tmp_path / "train" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(np.array(noise(50 + i, 60))))
    (tmp_path / "val").mkdir()
    return open_source(tmp_path, split="train")


def whole(picture, index):
    return resize(picture, (32, 32), "bicubic", "torch")


def part(picture, index):
    shape = (picture.height, picture.width)
    top, left, h, w = crop_box(shape, ExampleRng(0).at(0, index), CROP)
    return whole(picture.crop((left, top, left + w, top + h)), index)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, whole),
        ({"augmentation": Augmentation()}, whole),
        ({"augmentation": Augmentation(), "sizes": [(9, 32)]}, whole),
        ({"augmentation": CROP}, part),
    ],
    ids=["evaluation", "training", "progressive", "crop"],
)
def test_batches_are_resized_by_pytorch_when_told(choice, expected, source):
    if choice is None:
        batch = next(eval_batches(source, **FACTS, resize_by="torch"))
    else:
        batch = next(train_batches(source, **FACTS, **choice, seed=0, resize_by="torch"))
    pictures = [decode_picture(source[i]["image"], channels=3) for i in range(8)]
    order = batch.get("index", range(8))
    images = [expected(pictures[i], int(i)) for i in order]
    np.testing.assert_array_equal(np.rint(batch["image"]), images)


def test_a_worker_has_one_thread_and_the_training_process_all(monkeypatch):
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    resizing._torch.__wrapped__()
    assert told == []
    monkeypatch.setattr(resizing.multiprocessing, "parent_process", lambda: "the training")
    resizing._torch.__wrapped__()
    assert told == [1]


def test_what_pytorch_cannot_do_is_refused_before_anything_is_read(source, monkeypatch):
    facts = FACTS | {"resize_by": "torch"}
    lanczos = facts | {"preprocessing": Preprocessing(interpolation="lanczos")}
    with pytest.raises(ValueError, match="no lanczos resizing: choose 'pillow', or one of bicubic"):
        train_batches(source, **lanczos, augmentation=CROP, seed=0)
    with pytest.raises(ValueError, match="resize_by 'opencv' is none of pillow, torch"):
        eval_batches(source, **FACTS, resize_by="opencv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'vitwin\[torch\]'"):
        eval_batches(source, **facts)
