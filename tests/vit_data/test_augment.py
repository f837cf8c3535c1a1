"""Each random change, by itself."""

import numpy as np
import pytest
from PIL import Image

from vit_data import Augmentation
from vit_data.augment import (
    augment,
    crop_box,
    inception_crop,
    random_flip,
    random_rotation,
    random_shift,
)
from vit_spec.preprocessing import Preprocessing

IMAGE = np.arange(1, 25, dtype=np.uint8).reshape(4, 6, 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_none_changes_nothing_and_draws_nothing():
    generator = rng()
    np.testing.assert_array_equal(augment(IMAGE, generator, Augmentation.none()), IMAGE)
    assert generator.random() == rng().random()


def test_a_flip_of_probability_one_mirrors_left_to_right():
    image = np.concatenate([IMAGE, IMAGE + 50, IMAGE + 100], axis=2)
    np.testing.assert_array_equal(random_flip(image, rng(), 1.0), image[:, ::-1])


def test_a_vertical_flip_turns_upside_down():
    choice = Augmentation(vertical_flip=1.0)
    np.testing.assert_array_equal(augment(IMAGE, rng(), choice), IMAGE[::-1])


def test_a_flip_happens_as_often_as_its_probability():
    generator = rng()
    flips = sum(random_flip(IMAGE, generator, 0.3)[0, 0, 0] != 1 for _ in range(2000))
    assert 540 < flips < 660


@pytest.mark.parametrize("padding", ["zero", "edge", "reflect"])
def test_a_shift_moves_by_every_offset_and_fills_as_padding_says(padding):
    mode = {"zero": "constant", "edge": "edge", "reflect": "reflect"}[padding]
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)), mode=mode)
    expected = {padded[y : y + 4, x : x + 6].tobytes() for y in range(3) for x in range(3)}
    generator = rng()
    seen = {random_shift(IMAGE, generator, 1, padding).tobytes() for _ in range(200)}
    assert seen == expected


def test_a_rotation_stays_within_its_degrees():
    bar = np.zeros((33, 33, 1), np.uint8)
    bar[16] = 255
    generator = rng()
    for _ in range(50):
        turned = random_rotation(bar, generator, 10.0)[..., 0].astype(float)
        right = turned[:, 31] @ np.arange(33) / turned[:, 31].sum()
        angle = np.degrees(np.arctan2(16 - right, 15))
        assert abs(angle) < 10.8


def test_a_crop_keeps_its_scale_and_ratio():
    choice = Augmentation(crop_scale=(0.2, 0.5), crop_ratio=(0.5, 2.0))
    generator = rng()
    for _ in range(300):
        top, left, h, w = crop_box((100, 120), generator, choice)
        assert 0 <= top <= 100 - h and 0 <= left <= 120 - w
        assert 0.19 < h * w / 12000 < 0.51
        assert 0.48 < w / h < 2.1


def test_a_crop_that_cannot_fit_is_the_largest_centred_one():
    choice = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    assert crop_box((10, 40), rng(), choice) == (0, 15, 10, 10)


def test_a_crop_has_the_size_asked_for():
    choice = Augmentation(crop_scale=(0.1, 1.0))
    picture = Image.new("RGB", (7, 9))
    assert inception_crop(picture, rng(), (4, 5), choice, Preprocessing()).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", 1.5),
        ("rotation", -1),
        ("shift", -1),
        ("padding", "wrap"),
        ("crop_scale", (0.5, 0.1)),
        ("crop_ratio", (0, 1)),
        ("vertical_flip", -0.1),
        ("erasing", 2),
        ("erasing_mode", "black"),
        ("mixup", -1),
        ("cutmix", -1),
        ("mix_probability", 1.1),
        ("mix_switch", -0.1),
        ("color_jitter", (0, 0, 0, 0.6)),
        ("repeats", 0),
        ("policy", "autoaugment"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})
