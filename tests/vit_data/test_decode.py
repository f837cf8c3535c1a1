"""Image files of every kind to uint8 pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.vit_data.samples import png
from vit_data.decode import decode, is_image_file, pixels, to_picture

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)
NOISE = png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
COLOUR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=format, **options)
    return file.getvalue()


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
def test_transparent_pixels_show_white(channels):
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    with_alpha = np.dstack([COLOUR, alpha])
    share = alpha[..., None] / 255
    blended = decode(
        np.rint(COLOUR * share + 255 * (1 - share)).astype(np.uint8), channels=channels
    )
    for data in (png(with_alpha), with_alpha):
        found = decode(data, channels=channels).astype(int)
        assert np.abs(found - blended).max() <= 1  # Pillow rounds by itself
        np.testing.assert_array_equal(found[0], 255)
        np.testing.assert_array_equal(found[2:], decode(COLOUR, channels=channels)[2:])


def test_transparent_greys_show_white():
    picture = Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA")
    np.testing.assert_array_equal(decode(encoded(picture, "PNG"), channels=1), 255)


def test_a_colour_that_a_png_names_transparent_shows_white():
    data = encoded(Image.fromarray(COLOUR), "PNG", transparency=tuple(COLOUR[0, 0].tolist()))
    found = decode(data, channels=3)
    np.testing.assert_array_equal(found[0, 0], 255)
    np.testing.assert_array_equal(found[1:], COLOUR[1:])


def test_of_16_bit_greys_the_high_byte_is_kept():
    wide = GREY.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode(png(wide), channels=1)[..., 0], GREY)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_palette_with_transparency_is_blended_too(alpha):
    picture = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    data = encoded(picture, "PNG", transparency=bytes([alpha]) * 16)
    expected = np.asarray(picture.convert("RGB")) if alpha else np.full_like(COLOUR, 255)
    np.testing.assert_array_equal(decode(data, channels=3), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_picture_is_turned_as_its_exif_data_says(orientation, mode):
    pixels = {"RGB": COLOUR, "L": GREY, "I;16": GREY.astype(np.uint16) * 256}[mode]
    turns = {  # EXIF 2.32, table of orientations: where row 0 and column 0 are seen
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: x[::-1].swapaxes(0, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: x[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    seen = turns[orientation](COLOUR if mode == "RGB" else GREY[..., None])
    np.testing.assert_array_equal(decode(data, channels=seen.shape[-1]), seen)


def test_damaged_exif_data_costs_no_picture():
    data = encoded(Image.fromarray(COLOUR), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, channels=3), COLOUR)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_gives_the_colours_that_were_meant(format):
    red = Image.new("RGB", (16, 16), (250, 20, 30)).convert("CMYK")
    found = decode(encoded(red, format), channels=3)
    assert np.abs(found.astype(int) - (250, 20, 30)).max() <= 4  # JPEG, and Pillow's way to CMYK


def test_of_16_bit_pgm_files_the_high_byte_is_kept():
    data = b"P5 6 4 65535\n" + np.dstack([GREY, np.full_like(GREY, 255)]).tobytes()
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], GREY)


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_is_white_where_its_lightness_is_full(channels):
    white = encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")
    assert decode(white, channels=channels).min() >= 254


def test_whatever_pillow_raises_for_damage_is_an_unreadable_image(tmp_path):
    data = bytearray(encoded(Image.fromarray(COLOUR), "DDS"))
    data[80] = 0x81  # flags of no pixel format: NotImplementedError
    with pytest.raises(ValueError, match="unreadable image of .*Unknown pixel format flags"):
        decode(bytes(data), channels=3)
    (tmp_path / "no_suffix").write_bytes(data)
    assert not is_image_file(tmp_path / "no_suffix")


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
