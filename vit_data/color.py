"""Random changes of colour in Pillow's arithmetic: jitter and 3-Augment. No twin.

Every function takes a uint8 image `(h, w, c)`, c = 1 or 3, and returns one.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vit_data.decode import pixels, to_picture

BLUR = (0.1, 2.0)  # radius in pixels of 3-Augment's blur, uniform
SOLARIZE = 128  # values from here on are inverted


def three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of grey, solarised or blurred, equally likely (DeiT III, 2022, section 3.3).

    Numbers of the authors' `augment.py`; as there, `color_jitter` 0.3 comes after it.
    """
    picture, choice = to_picture(image), int(rng.random() * 3)
    if choice == 0:
        return pixels(grey(picture))
    if choice == 1:
        return pixels(ImageOps.solarize(picture, SOLARIZE))
    radius = BLUR[0] + (BLUR[1] - BLUR[0]) * rng.random()
    return pixels(picture.filter(ImageFilter.GaussianBlur(radius)))


def color_jitter(
    image: np.ndarray, rng: np.random.Generator, strength: tuple[float, float, float, float]
) -> np.ndarray:
    """Brightness, contrast and saturation by factors of `1 +- strength`, and hue, in random order.

    Factors are uniform and not below 0; the hue turns by up to `strength[3]` of the circle, at
    most half (torchvision's `ColorJitter`).
    """
    if not any(strength):
        return image
    picture = to_picture(image)
    order = np.argsort([rng.random() for _ in strength])
    amounts = [(2 * rng.random() - 1) * limit for limit in strength]
    for which in order:
        if strength[which]:
            picture = jittered(picture, int(which), amounts[which])
    return pixels(picture)


def jittered(picture: Image.Image, which: int, amount: float) -> Image.Image:
    """One step of the jitter: 0 brightness, 1 contrast, 2 saturation, 3 hue; 0 changes nothing."""
    if which == 3:
        return turned_hue(picture, amount)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    return kinds[which](picture).enhance(max(0.0, 1 + amount))


def turned_hue(picture: Image.Image, share: float) -> Image.Image:
    """The hue moved by `share` of the circle, in 8 bits; a grey picture has none."""
    if picture.mode == "L":
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    steps = int(share * 255)
    turned = hue.point([(h + steps) % 256 for h in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert(picture.mode)


def grey(picture: Image.Image) -> Image.Image:
    """Without colour, in the mode it had (weights of ITU-R 601)."""
    return picture.convert("L").convert(picture.mode)
