"""The picture of a batch."""

import numpy as np
import pytest
from PIL import Image

from vit_data.show import CELL, GAP, as_pixels, caption, write_batch
from vit_spec.preprocessing import Preprocessing

FACTS = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NAMES = ("cat", "dog", "a house of cards")


def normalised(pixels):
    return ((pixels / 255 - FACTS.mean) / FACTS.std).astype(np.float32)


def test_the_normalisation_is_undone_to_the_pixel_and_noise_cut_off():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3)).astype(np.uint8)
    images = normalised(pixels)
    np.testing.assert_array_equal(as_pixels(images, FACTS), pixels)
    images[0, 0, 0] = (9, -9, 0)
    assert as_pixels(images, FACTS)[0, 0, 0].tolist() == [255, 0, round(0.406 * 255)]


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        (np.int32(1), ["dog"]),
        (np.float32([0, 1, 0]), ["dog"]),
        (np.float32([0.3, 0, 0.7]), ["70% a house of cards", "30% cat"]),
        (np.float32([0.996, 0, 0.004]), ["cat"]),
    ],
)
def test_a_caption_names_classes_and_the_shares_of_a_mixture(label, lines):
    assert caption(label, NAMES) == lines


@pytest.mark.parametrize("mixed", [False, True])
def test_the_picture_shows_every_image_magnified(mixed, tmp_path):
    pixels = np.zeros((5, 8, 8, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None]
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    labels = np.eye(3, dtype=np.float32)[labels] * 0.6 + 0.4 / 3 if mixed else labels
    path = tmp_path / "batch.png"
    assert write_batch(path, normalised(pixels), labels, preprocessing=FACTS, names=NAMES) == 5
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 3 * (CELL + GAP) + GAP
    assert (picture[GAP : GAP + CELL, GAP : GAP + CELL] == 0).all()
    assert (picture[GAP : GAP + CELL, 2 * GAP + CELL : 2 * (GAP + CELL)] == 1).all()
    below = picture[GAP + CELL : GAP + CELL + 12, GAP : GAP + CELL]
    assert below.min() < 100  # there is text
