"""Evaluation preprocessing against values worked out by hand."""

import numpy as np
import pytest

from vit_data import load_image
from vit_data.preprocess import CHUNK, fit, normalise, resized_shape
from vit_spec.preprocessing import Preprocessing


def test_values_are_normalised_by_channel():
    facts = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), crop_fraction=1.0)
    image = np.array([[[255, 0, 51]]], np.uint8)
    result = load_image(image, size=(1, 1), channels=3, preprocessing=facts)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0], [1.0, -1.0, 0.2], rtol=1e-7)


def test_an_image_of_several_parts_is_normalised_as_a_whole():
    image = np.random.default_rng(0).integers(0, 256, (150, 101, 3), "uint8")
    facts = (np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.5, 0.6]))
    expected = (np.divide(image, np.float32(255), dtype=np.float32) - facts[0]) / facts[1]
    assert image.size > CHUNK
    np.testing.assert_array_equal(normalise(image, *facts), expected)


def test_the_default_is_minus_one_to_one():
    facts = Preprocessing(crop_fraction=1.0)
    image = np.array([[0, 255]], np.uint8)
    result = load_image(image, size=(1, 2), channels=1, preprocessing=facts)
    assert result.ravel().tolist() == [-1.0, 1.0]


def test_halving_with_bilinear_averages_with_a_triangle():
    # Antialiased: each output pixel weighs its four nearest inputs 1:3:3:1, fewer at the edges.
    image = np.array([[0, 0, 0, 0, 80, 80, 80, 80]], np.uint8).repeat(2, axis=0)
    facts = Preprocessing(interpolation="bilinear", crop_fraction=1.0, squash=True)
    result = fit(image[..., None], (1, 4), facts)[0, :, 0]
    assert result.tolist() == [0, 10, 70, 80]


def test_nearest_takes_the_pixel_under_the_centre():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    facts = Preprocessing(interpolation="nearest", crop_fraction=1.0)
    assert fit(image, (2, 2), facts)[..., 0].tolist() == [[5, 7], [13, 15]]


def test_the_crop_is_taken_from_the_centre():
    image = np.arange(6, dtype=np.uint8)[None, :, None].repeat(2, axis=0)
    result = fit(image, (2, 2), Preprocessing(crop_fraction=1.0))
    assert result[0, :, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("shape", "size", "facts", "expected"),
    [
        ((480, 640), (224, 224), Preprocessing(), (256, 341)),
        ((640, 480), (224, 224), Preprocessing(), (341, 256)),
        ((500, 500), (224, 224), Preprocessing(crop_fraction=0.9), (248, 248)),
        ((480, 640), (224, 224), Preprocessing(squash=True, crop_fraction=1.0), (224, 224)),
        ((480, 640), (128, 256), Preprocessing(crop_fraction=1.0), (192, 256)),
    ],
    ids=["wide", "tall", "floored", "squash", "wide target"],
)
def test_the_resized_shape_is_that_of_timm(shape, size, facts, expected):
    assert resized_shape(shape, size, facts) == expected


def test_facts_of_another_channel_count_are_refused():
    facts = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="has 3 channels and the model 1"):
        load_image(np.zeros((4, 4), np.uint8), size=4, channels=1, preprocessing=facts)


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        load_image(
            np.zeros((4, 4), np.uint8), size=(0, 4), channels=3, preprocessing=Preprocessing()
        )
