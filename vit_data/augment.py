"""What may happen to training images, and the changes of place: crop, flip, turn, shift. No twin.

A function takes uint8 `(h, w, c)`, or the crop a whole picture, and returns the former. It draws
only from the generator that it is given, and draws nothing when it is switched off. Colour,
policies, erasing and mixing have modules of their own.
Shapes: h height, w width in pixels, c channels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from vit_data.decode import pixels, to_picture
from vit_data.erase import MODES
from vit_data.policies import policy_of
from vit_data.resize import ResizeBy, resize
from vit_spec.preprocessing import Preprocessing

PADDINGS = ("zero", "edge", "reflect")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which random changes the training images go through, in this order.

    Each image: crop, flips, rotation, shift, policy, colour jitter, normalisation, erasing. Then
    the batch: Mixup or CutMix. The defaults change nothing. For 8x8 digits a shift of 1 and a
    rotation of about 10 help, while a flip turns them into other signs.
    """

    flip: float = 0.0
    """Probability of a mirror image, left to right (AlexNet, 2012, section 4.1)."""
    rotation: float = 0.0
    """Largest angle in degrees, either way, uniform (torchvision `RandomRotation`, bilinear)."""
    shift: int = 0
    """Largest shift in pixels of the model's input, either way, each axis (ResNet, 2015, 4.2)."""
    padding: Literal["zero", "edge", "reflect"] = "zero"
    """What a shift fills in: black, the nearest pixel, or the mirrored image."""
    crop_scale: tuple[float, float] | None = None
    """Share of the area an inception crop keeps, e.g. (0.08, 1); None: the evaluation crop
    (GoogLeNet, 2014, section 6; drawn as in torchvision's `RandomResizedCrop`)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of an inception crop, log-uniform (torchvision's default)."""
    vertical_flip: float = 0.0
    """Probability of an upside-down image (`vflip` of timm)."""
    policy: str = ""
    """Image operations: `rand-m9-mstd0.5-inc1` (RandAugment in timm's notation and definition),
    `randaug(2,10)` (RandAugment in big_vision's), `3-augment` (DeiT III), or empty."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strength of brightness, contrast, saturation, and share of the hue's circle (torchvision)."""
    erasing: float = 0.0
    """Probability that a rectangle is erased (Random erasing, 2017, timm's numbers)."""
    erasing_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What fills it: the mean colour, one random colour, or noise."""
    mixup: float = 0.0
    """Mixup's parameter of Beta(a, a), e.g. 0.8; 0: off. One share for the whole batch."""
    cutmix: float = 0.0
    """CutMix's parameter of Beta(a, a), e.g. 1.0; 0: off."""
    mix_probability: float = 1.0
    """How often a batch is mixed at all."""
    mix_switch: float = 0.5
    """How often CutMix takes the place of Mixup when both are on."""
    repeats: int = 1
    """Differently augmented copies of an image in a batch (https://arxiv.org/abs/1901.09335); an
    epoch is as many times longer. DeiT takes 3 and calls a third of that an epoch."""

    @property
    def mixes(self) -> bool:
        """Whether labels are shares of classes (b, k) instead of classes (b,)."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        for name in ("flip", "vertical_flip", "erasing", "mix_probability", "mix_switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} {getattr(self, name)} is a probability: give a value in [0, 1]"
                )
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 (off) or positive")
        if self.erasing_mode not in MODES:
            raise ValueError(f"erasing_mode {self.erasing_mode!r} is none of {', '.join(MODES)}")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(
                f"color_jitter {self.color_jitter} must be 0 or more, and its hue at most 0.5"
            )
        if self.repeats < 1:
            raise ValueError(f"repeats {self.repeats} must be 1 or more")
        policy_of(self.policy)
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation {self.rotation} is in degrees: give a value in [0, 180]")
        if self.shift < 0:
            raise ValueError(f"shift {self.shift} is in pixels: give 0 or more")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding {self.padding!r} is none of {', '.join(PADDINGS)}")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must be (low, high) within (0, 1]")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio {self.crop_ratio} must be (low, high), both positive")

    @classmethod
    def none(cls) -> "Augmentation":
        """No change at all: the image as evaluation sees it."""
        return cls()


def augment(image: np.ndarray, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """`image` after the changes of place but the crop, which needs the undistorted original."""
    image = random_flip(image, rng, augmentation.flip)
    image = random_flip(image, rng, augmentation.vertical_flip, axis=0)
    image = random_rotation(image, rng, augmentation.rotation)
    return random_shift(image, rng, augmentation.shift, augmentation.padding)


def random_flip(
    image: np.ndarray, rng: np.random.Generator, probability: float, *, axis: int = 1
) -> np.ndarray:
    """Mirrored with `probability`: left to right, or upside down with `axis` 0."""
    if not probability or rng.random() >= probability:
        return image
    mirror, out = np.flip(image, axis), np.empty_like(image)
    for channel in range(image.shape[2]):  # a quarter of the cost of copying them together
        out[..., channel] = mirror[..., channel]
    return out


def random_rotation(image: np.ndarray, rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Turned about the centre by up to `degrees` either way; corners are filled with black."""
    if not degrees:
        return image
    angle = (2 * rng.random() - 1) * degrees
    return pixels(to_picture(image).rotate(angle, Image.Resampling.BILINEAR))


def random_shift(
    image: np.ndarray, rng: np.random.Generator, limit: int, padding: str = "zero"
) -> np.ndarray:
    """Moved by up to `limit` whole pixels either way along both axes."""
    if not limit:
        return image
    down = int(rng.random() * (2 * limit + 1)) - limit
    right = int(rng.random() * (2 * limit + 1)) - limit
    h, w = image.shape[:2]
    if padding == "zero":  # np.pad costs ten times as much on small images
        shifted = np.zeros_like(image)
        shifted[max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)] = image[
            max(-down, 0) : h - max(down, 0), max(-right, 0) : w - max(right, 0)
        ]
        return shifted
    widths = ((limit, limit), (limit, limit), (0, 0))
    padded = np.pad(image, widths, mode="edge" if padding == "edge" else "reflect")
    return padded[limit - down : limit - down + h, limit - right : limit - right + w]


def inception_crop(
    picture: Image.Image,
    rng: np.random.Generator,
    size: tuple[int, int],
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    resize_by: ResizeBy = "pillow",
) -> np.ndarray:
    """A random part of `picture`, resized to `size` `(h, w)`; the aspect ratio changes."""
    top, left, h, w = crop_box((picture.height, picture.width), rng, augmentation)
    part = picture.crop((left, top, left + w, top + h))
    return resize(part, size, preprocessing.interpolation, resize_by)


def crop_box(
    shape: tuple[int, int], rng: np.random.Generator, augmentation: Augmentation
) -> tuple[int, int, int, int]:
    """`(top, left, h, w)` of a random part of an image of `shape` `(h, w)`.

    Ten tries, then the largest centred part with an allowed ratio, as torchvision's
    `RandomResizedCrop.get_params`.
    """
    height, width = shape
    scale = augmentation.crop_scale or (1.0, 1.0)
    low, high = augmentation.crop_ratio
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        ratio = math.exp(math.log(low) + math.log(high / low) * rng.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.random() * (height - h + 1))
            return top, int(rng.random() * (width - w + 1)), h, w
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    return (height - h) // 2, (width - w) // 2, h, w
