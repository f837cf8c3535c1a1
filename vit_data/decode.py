"""Image files and arrays to uint8 pixels (h, w, c), c = 1 (grey) or 3 (RGB). No twin: serves both.

Shapes: h height, w width in pixels, c channels.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

ImageData = bytes | str | os.PathLike[str] | np.ndarray

_HIGH_BYTE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def decode(data: ImageData, *, channels: int) -> np.ndarray:
    """The pixels of one image, uint8 `(h, w, channels)`.

    `data` is an encoded image (bytes), a path to one, or a uint8 array `(h, w)` or
    `(h, w, 1 | 3 | 4)`. Of an animation the first frame is taken. EXIF rotation is not applied
    and alpha is dropped without blending, as torchvision and big_vision do. Of 16-bit greys the
    high byte is kept, as Pillow does with 16-bit RGB.

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
            return _eight_bit(opened)
    except UnidentifiedImageError as error:
        raise ValueError(f"unreadable image of {len(data)} bytes (no known format)") from error
    except (OSError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise ValueError(f"unreadable image of {len(data)} bytes ({error})") from error


def _from_array(array: np.ndarray) -> Image.Image:
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_picture or 0 in array.shape:
        raise ValueError(
            f"image array is {array.dtype} {array.shape}; give uint8 (h, w) or (h, w, 1|3|4)"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _eight_bit(Image.fromarray(array))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A picture of mode L or RGB (or one that Pillow converts to them exactly)."""
    mode = picture.mode
    if mode in _HIGH_BYTE_MODES or (mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if mode in ("I", "F"):
        raise ValueError(
            f"image of mode {mode} (32 bits a pixel) has no fixed range; save it with 8 or 16 bits"
        )
    if mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in _ALPHA_MODES:
        return picture.convert("L" if picture.mode in ("LA", "La") else "RGB")
    return picture
