"""RandAugment as big_vision computes it: `randaug(layers, magnitude)`, 16 operations. No twin.

Source: `big_vision/pp/archive/autoaugment.py` (a fork of the TPU EfficientNet code), in
TensorFlow's arithmetic: float32, cut off to uint8. Every operation was compared with that file
under TensorFlow 2.21, pixel by pixel: equal. It differs from timm's variant
(`vit_data.randaug_timm`) in its operations, its strengths, and in what the code really does:

- `Contrast` blends with the grey h * w / 256, which was meant to be the mean;
- `Solarize` compares with a threshold in uint8, where 256 is 0: at magnitude 10 it inverts;
- `Posterize` keeps 8 bits at magnitude 20 and one bit at magnitude 0.

Shapes: h height, w width in pixels, c channels, 1 (grey) or 3 (RGB); images are uint8 (h, w, c).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ImageOps

from vit_data.decode import pixels, to_picture

GREY = 128  # `replace_value`: what fills the places that no pixel moves to
TRANSLATE, CUTOUT = 100, 40  # pixels at magnitude 10 (`translate_const`, `cutout_const`)
MAX_MAGNITUDE = 20  # beyond, `Posterize` would keep more bits than there are


@dataclass(frozen=True)
class BigVisionRandAugment:
    """`layers` operations drawn with replacement, all of strength `magnitude` (0 to 20)."""

    layers: int
    magnitude: int

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(
                f"randaug({self.layers},{self.magnitude}): big_vision's magnitude goes from 0 to "
                f"{MAX_MAGNITUDE}; 10 is its light2 setting, 15 medium, 20 strong"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image after the operations, uint8 (h, w, c)."""
        for _ in range(self.layers):
            name = NAMES[int(rng.random() * len(NAMES))]
            image = apply(name, image, self.magnitude, rng)
        return image


def apply(name: str, image: np.ndarray, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """One operation by name; `rng` draws the sign of a movement, or the place of a cutout."""
    if name == "Cutout":
        height, width = image.shape[:2]
        centre = int(rng.random() * height), int(rng.random() * width)
        return cutout(image, centre, int(magnitude / 10 * CUTOUT))
    if name in SIGNED and rng.random() < 0.5:
        magnitude = -magnitude
    return OPERATIONS[name](image, magnitude)


def blend(low: np.ndarray | np.float32, high: np.ndarray, factor: float) -> np.ndarray:
    """`low + factor * (high - low)` in float32, clipped, cut off to uint8."""
    x = high.astype(np.float32)
    x -= low
    x *= np.float32(factor)
    x += low
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def enhancement(level: float) -> float:
    """The factor of Color, Contrast, Brightness and Sharpness: 0.1 at level 0, 1.9 at 10."""
    return level / 10 * 1.8 + 0.1


def grey(image: np.ndarray) -> np.ndarray:
    """`tf.image.rgb_to_grayscale` of uint8: float32 weights in [0, 1], then times 255.5, cut."""
    if image.shape[2] == 1:
        return image
    weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
    scaled = (image * np.float32(1 / 255)) @ weights
    return (scaled * np.float32(255.5)).astype(np.uint8)[..., None]


def color(image: np.ndarray, level: float) -> np.ndarray:
    """Away from, or towards, the image in grey."""
    return blend(grey(image).astype(np.float32), image, enhancement(level))


def contrast(image: np.ndarray, level: float) -> np.ndarray:
    """Away from, or towards, the grey h * w / 256."""
    level_of_grey = np.float32(int(min(255.0, image.shape[0] * image.shape[1] / 256)))
    return _looked_up(image, blend(level_of_grey, _EVERY, enhancement(level)))


def brightness(image: np.ndarray, level: float) -> np.ndarray:
    """Times the factor."""
    return _looked_up(image, blend(np.float32(0), _EVERY, enhancement(level)))


def sharpness(image: np.ndarray, level: float) -> np.ndarray:
    """Away from, or towards, the smoothed image; the outermost pixels stay."""
    smooth = image.copy()
    if min(image.shape[:2]) > 2:
        smooth[1:-1, 1:-1] = _smoothed(image)
    return blend(smooth.astype(np.float32), image, enhancement(level))


def _smoothed(image: np.ndarray) -> np.ndarray:
    """Pillow's SMOOTH kernel, (h - 2, w - 2, c), as TensorFlow adds it up: fused, row by row.

    Each sum is rounded once, from float64 here; a sum of thirteenths can end just below a whole
    number, which the cut to uint8 makes visible.
    """
    x = image.astype(np.float64)
    h, w = image.shape[0] - 2, image.shape[1] - 2
    total = np.zeros((h, w, image.shape[2]), np.float32)
    for row, column in np.ndindex(3, 3):
        weight = np.float64(np.float32((5 if row == column == 1 else 1) / np.float32(13)))
        total = (total + x[row : row + h, column : column + w] * weight).astype(np.float32)
    return total.astype(np.uint8)


def autocontrast(image: np.ndarray, level: float) -> np.ndarray:
    """Every channel stretched to 0 .. 255."""
    out = image.copy()
    for channel in range(image.shape[2]):
        low, high = (np.float32(f(image[..., channel])) for f in (np.min, np.max))
        if high > low:
            scale = np.float32(255) / (high - low)
            table = np.clip(_EVERY * scale + -low * scale, 0, 255).astype(np.uint8)
            out[..., channel] = _looked_up(image[..., channel], table)
    return out


def equalize(image: np.ndarray, level: float) -> np.ndarray:
    """Every channel's histogram made even, as Pillow does."""
    return pixels(ImageOps.equalize(to_picture(image)))


def invert(image: np.ndarray, level: float) -> np.ndarray:
    """255 minus each value."""
    return 255 - image


def posterize(image: np.ndarray, level: float) -> np.ndarray:
    """The highest `int(0.4 * level)` bits; with none, TensorFlow's shift by 8 is one by 7."""
    shift = min(7, 8 - int(level / 10 * 4))
    return image >> shift << shift


def solarize(image: np.ndarray, level: float) -> np.ndarray:
    """Values from the threshold on inverted."""
    threshold = int(level / 10 * 256) % 256
    return _looked_up(image, np.where(np.arange(256) < threshold, _BYTES, 255 - _BYTES))


def solarize_add(image: np.ndarray, level: float) -> np.ndarray:
    """`int(11 * level)` added to values below 128."""
    added = np.minimum(np.arange(256) + int(level / 10 * 110), 255).astype(np.uint8)
    return _looked_up(image, np.where(np.arange(256) < 128, added, _BYTES))


def cutout(image: np.ndarray, centre: tuple[int, int], half: int) -> np.ndarray:
    """A square of 2 * `half` pixels a side filled with grey, cut where it leaves the image."""
    out, (y, x) = image.copy(), centre
    out[max(0, y - half) : y + half, max(0, x - half) : x + half] = GREY
    return out


def rotate(image: np.ndarray, level: float) -> np.ndarray:
    """Turned by 3 degrees a level about the centre."""
    angle = np.float32(level / 10 * 30 * (math.pi / 180))
    cos, sin = np.cos(angle), np.sin(angle)
    h, w = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
    right = (w - (cos * w - sin * h)) / np.float32(2)
    down = (h - (sin * w + cos * h)) / np.float32(2)
    return moved(image, (cos, -sin, right), (sin, cos, down))


def shear_x(image: np.ndarray, level: float) -> np.ndarray:
    """Rows moved by 0.03 of their number a level."""
    return moved(image, (1, level / 10 * 0.3, 0), (0, 1, 0))


def shear_y(image: np.ndarray, level: float) -> np.ndarray:
    """Columns moved by 0.03 of their number a level."""
    return moved(image, (1, 0, 0), (level / 10 * 0.3, 1, 0))


def translate_x(image: np.ndarray, level: float) -> np.ndarray:
    """Moved to the left by 10 pixels a level, whatever the image's size."""
    return moved(image, (1, 0, level / 10 * TRANSLATE), (0, 1, 0))


def translate_y(image: np.ndarray, level: float) -> np.ndarray:
    """Moved up by 10 pixels a level."""
    return moved(image, (1, 0, 0), (0, 1, level / 10 * TRANSLATE))


Row = tuple[float | np.float32, float | np.float32, float | np.float32]


def moved(image: np.ndarray, across: Row, down: Row) -> np.ndarray:
    """Pixel (x, y) from the nearest to (across . (x, y, 1), down . (x, y, 1)), else grey.

    `ImageProjectiveTransform` of TensorFlow: pixel centres at whole numbers, float32, halves
    rounded away from zero.
    """
    h, w, c = image.shape
    source_x, source_y = _coordinates(across, w, h), _coordinates(down, w, h)
    inside = (source_x >= 0) & (source_x < w) & (source_y >= 0) & (source_y < h)
    places = np.where(inside, source_y * w + source_x, h * w)  # (h, w)
    grey_last = np.concatenate([image.reshape(-1, c), np.full((1, c), GREY, np.uint8)])
    return np.take(grey_last, places, axis=0)  # a quarter of the time of grey_last[places]


def _coordinates(row: Row, w: int, h: int) -> np.ndarray:
    """`row . (x, y, 1)` of all pixels as whole numbers, (1, w), (h, 1) or (h, w) by need."""
    a, b, c = (np.float32(value) for value in row)
    x, y = np.arange(w, dtype=np.float32)[None], np.arange(h, dtype=np.float32)[:, None]
    value = a * x + c if b == 0 else b * y + c if a == 0 else a * x + b * y + c
    return np.copysign(np.floor(np.abs(value).astype(np.float64) + 0.5), value).astype(np.int32)


def _looked_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    flat = np.frombuffer(image.tobytes().translate(table.tobytes()), np.uint8)
    return flat.reshape(image.shape)  # a third of the time of table[image]


_BYTES = np.arange(256, dtype=np.uint8)
_EVERY = np.arange(256, dtype=np.float32)

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "SolarizeAdd": solarize_add,
}
NAMES = (*(name for name in OPERATIONS if name != "SolarizeAdd"), "Cutout", "SolarizeAdd")
