"""Image files and arrays to uint8 pixels (h, w, c), c = 1 (grey) or 3 (RGB). No twin: serves both.

Shapes: h height, w width in pixels, c channels.
"""

import contextlib
import io
import os
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageData = bytes | str | os.PathLike[str] | np.ndarray

BACKGROUND = "white"
"""What shows through transparent pixels. Transparency is blended, not cut off."""

_HIGH_BYTE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_HIGH_BYTE_FORMATS = ("PNG", "PPM")  # of which older Pillows or PGM files have mode I for 16 bits
_STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # which Pillow names and does not read


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that this Pillow reads, in lower case with their dot."""
    Image.init()
    read = Image.OPEN.keys() - _STUBS
    return frozenset({".mpo"} | {s for s, f in Image.registered_extensions().items() if f in read})


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by its suffix, or without a suffix by its first bytes.

    Hidden files are none.
    """
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix:
        return suffix in image_suffixes() and not name.startswith(".")
    try:
        if not os.path.isfile(path):
            return False
        with Image.open(path) as picture:
            return picture.format not in _STUBS
    except Exception:  # Pillow's readers raise anything for bytes that only look like theirs
        return False


def decode(data: ImageData, *, channels: int) -> np.ndarray:
    """The pixels of one image, uint8 `(h, w, channels)`.

    `data` is an encoded image (bytes), a path to one, or a uint8 array `(h, w)` or
    `(h, w, 1 | 3 | 4)`. Of an animation the first frame is taken. A picture is turned as its EXIF
    orientation says, and transparent parts show `BACKGROUND`. Of 16-bit greys the high byte is
    kept, as Pillow does with 16-bit RGB.

    Raises `ValueError` when the image cannot be read or its values have no fixed range, and
    `FileNotFoundError` (or another `OSError`) when the path cannot be opened.
    """
    return pixels(decode_picture(data, channels=channels))


def decode_picture(data: ImageData, *, channels: int) -> Image.Image:
    """As `decode`, but a Pillow picture of mode L or RGB: a crop of it needs no copy of it all."""
    if channels not in (1, 3):
        raise ValueError(f"channels {channels} is neither 1 (grey) nor 3 (RGB)")
    if isinstance(data, np.ndarray):
        picture = _from_array(data)
    elif isinstance(data, bytes):
        picture = _from_bytes(data)
    else:
        path = Path(data)
        try:
            picture = _from_bytes(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def to_picture(image: np.ndarray) -> Image.Image:
    """The Pillow picture of uint8 pixels `(h, w, 1 | 3)`; shares their memory where it can."""
    h, w, c = image.shape
    mode = "L" if c == 1 else "RGB"
    contiguous = np.ascontiguousarray(image)
    return Image.frombuffer(mode, (w, h), contiguous, "raw", mode, 0, 1)  # half of fromarray's cost


def pixels(picture: Image.Image) -> np.ndarray:
    """The inverse of `to_picture`: read-only uint8 `(h, w, 1)` of mode L, `(h, w, 3)` of RGB."""
    flat = np.frombuffer(picture.tobytes(), np.uint8)
    return flat.reshape(picture.height, picture.width, len(picture.getbands()))  # (h, w, c)


def _from_bytes(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            _set_upright(opened)
            return _eight_bit(opened)
    except UnidentifiedImageError as error:
        raise ValueError(f"unreadable image of {len(data)} bytes (no known format)") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything for damaged bytes
        why = str(error) or type(error).__name__
        raise ValueError(f"unreadable image of {len(data)} bytes ({why})") from error


def _from_array(array: np.ndarray) -> Image.Image:
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_picture or 0 in array.shape:
        raise ValueError(
            f"image array is {array.dtype} {array.shape}; give uint8 (h, w) or (h, w, 1|3|4)"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _eight_bit(Image.fromarray(array))


def _set_upright(picture: Image.Image) -> None:
    """Turns a picture as its EXIF orientation says."""
    with contextlib.suppress(Exception):  # whatever damaged EXIF data raises; the pixels are whole
        ImageOps.exif_transpose(picture, in_place=True)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """An opaque picture of mode L or RGB (or one that Pillow converts to them exactly)."""
    mode = picture.mode
    if mode in _HIGH_BYTE_MODES or (mode == "I" and picture.format in _HIGH_BYTE_FORMATS):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if mode in ("I", "F"):
        raise ValueError(
            f"image of mode {mode} (32 bits a pixel) has no fixed range; save it with 8 or 16 bits"
        )
    if not picture.has_transparency_data:
        return picture.convert("RGB") if mode == "LAB" else picture  # LAB has no way to L
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, BACKGROUND)
    return Image.alpha_composite(ground, picture).convert(
        "L" if mode in ("L", "LA", "La") else "RGB"
    )
