"""Image files of every kind to uint8 pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.vit_data.samples import png
from vit_data.decode import decode, pixels, to_picture

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)
NOISE = png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
COLOUR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def test_a_png_of_greys_decodes_to_its_own_pixels():
    np.testing.assert_array_equal(decode(png(GREY), channels=1)[..., 0], GREY)


def test_a_path_decodes_like_its_bytes(tmp_path):
    (tmp_path / "x.png").write_bytes(png(COLOUR))
    np.testing.assert_array_equal(decode(tmp_path / "x.png", channels=3), COLOUR)


@pytest.mark.parametrize("array", [GREY, GREY[..., None]], ids=["h w", "h w 1"])
def test_grey_becomes_rgb_by_repeating(array):
    result = decode(array, channels=3)
    np.testing.assert_array_equal(result, np.repeat(GREY[..., None], 3, axis=2))


def test_rgb_becomes_grey_by_the_luma_weights():
    expected = COLOUR.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(COLOUR, channels=1)[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_without_blending(channels):
    with_alpha = np.dstack([COLOUR, np.zeros((4, 6), np.uint8)])
    expected = decode(COLOUR, channels=channels)
    np.testing.assert_array_equal(decode(png(with_alpha), channels=channels), expected)
    np.testing.assert_array_equal(decode(with_alpha, channels=channels), expected)


def test_of_16_bit_greys_the_high_byte_is_kept():
    wide = GREY.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode(png(wide), channels=1)[..., 0], GREY)


def test_a_palette_with_transparency_gives_its_colours():
    picture = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    file = io.BytesIO()
    picture.save(file, format="PNG", transparency=b"\x00" * 16)
    np.testing.assert_array_equal(decode(file.getvalue(), channels=3), picture.convert("RGB"))


def test_a_picture_of_floats_is_refused_with_the_way_out():
    file = io.BytesIO()
    Image.fromarray(GREY.astype(np.float32)).save(file, format="TIFF")
    with pytest.raises(ValueError, match=r"mode F.*save it with 8 or 16 bits"):
        decode(file.getvalue(), channels=1)


@pytest.mark.parametrize(
    "array",
    [GREY.astype(np.float32), np.zeros((4, 6, 2), np.uint8), np.zeros((0, 6), np.uint8)],
    ids=["float", "two channels", "empty"],
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(ValueError, match="give uint8"):
        decode(array, channels=1)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", NOISE[:40], NOISE[: len(NOISE) // 2]],
    ids=["none", "text", "header", "half"],
)
def test_damaged_bytes_are_an_unreadable_image(data):
    with pytest.raises(ValueError, match="unreadable image"):
        decode(data, channels=3)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"bad\.png"):
        decode(tmp_path / "bad.png", channels=3)


@pytest.mark.parametrize("array", [GREY[..., None], COLOUR], ids=["grey", "rgb"])
def test_a_strided_array_survives_the_way_to_pillow_and_back(array):
    np.testing.assert_array_equal(pixels(to_picture(array[::-1, ::2])), array[::-1, ::2])
