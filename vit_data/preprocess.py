"""What a model sees of an image at evaluation: resize, centre crop, normalise. No twin.

Shapes: h height, w width in pixels, c channels. The facts come from `vit_spec.Preprocessing`.
"""

import math

import numpy as np
from PIL import Image

from vit_data.decode import ImageData, decode_picture, to_picture
from vit_data.resize import ResizeBy, check_resizer, resize
from vit_spec.preprocessing import Preprocessing

CHUNK = 2**15  # values, 128 KiB


def load_image(
    data: ImageData,
    *,
    size: tuple[int, int] | int,
    channels: int,
    preprocessing: Preprocessing,
    resize_by: ResizeBy = "pillow",
) -> np.ndarray:
    """One image as the model's input, float32 `(h, w, channels)`.

    `data` is as in `vit_data.decode`; `size` is `(h, w)` in pixels, or one side of a square;
    `resize_by` as in `vit_data.resize`.
    Raises `ValueError` for an image that cannot be read and for facts that do not fit `channels`.
    """
    size = check_size(size)
    check_resizer(resize_by, preprocessing.interpolation)
    mean, std = channel_facts(preprocessing, channels)
    picture = decode_picture(data, channels=channels)
    return normalise(fit(picture, size, preprocessing, resize_by), mean, std)


def fit(
    picture: Image.Image | np.ndarray,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    resize_by: ResizeBy = "pillow",
) -> np.ndarray:
    """Resized and centre-cropped uint8 `(h, w, c)`, antialiased in 8-bit arithmetic.

    Sides and crop are rounded as timm's `create_transform` does (torchvision for squares).
    """
    if isinstance(picture, np.ndarray):
        picture = to_picture(picture)
    resized = resized_shape((picture.height, picture.width), size, preprocessing)
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    whole = resize(picture, resized, preprocessing.interpolation, resize_by)
    return whole[top : top + size[0], left : left + size[1]]  # (h, w, c)


def resized_shape(
    shape: tuple[int, int], size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[int, int]:
    """The `(h, w)` that an image of `shape` is resized to before the crop of `size`."""
    target = tuple(math.floor(side / preprocessing.crop_fraction) for side in size)
    if preprocessing.squash:
        return (target[0], target[1])
    if target[0] == target[1]:  # torchvision.transforms.Resize: the shorter side is exact
        short = min(shape)
        h, w = (target[0] if side == short else int(target[0] * side / short) for side in shape)
        return (h, w)
    ratio = min(shape[0] / target[0], shape[1] / target[1])  # timm's ResizeKeepRatio
    return (max(size[0], round(shape[0] / ratio)), max(size[1], round(shape[1] / ratio)))


def normalise(image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """`(x / 255 - mean) / std` in float32, of uint8 `(..., c)`; `mean` and `std` `(c,)`."""
    out = np.empty(image.shape, np.float32)
    values, results = image.reshape(-1), out.reshape(-1)
    pixels = min(CHUNK, len(values)) // len(mean)
    mean, std = (np.tile(facts, pixels) for facts in (mean, std))
    for start in range(0, len(values), len(mean)):  # so that all passes find a part in the cache
        x = results[start : start + len(mean)]
        np.divide(values[start : start + len(mean)], np.float32(255), out=x, dtype=np.float32)
        x -= mean[: len(x)]
        x /= std[: len(x)]
    return out


def channel_facts(preprocessing: Preprocessing, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`mean` and `std` as float32 `(channels,)`.

    Facts that are the same in every channel serve any number of channels. Raises `ValueError`
    when there are more or fewer channels than facts.
    """

    def spread(name: str, values: tuple[float, ...]) -> np.ndarray:
        if len(values) != channels and len(set(values)) != 1:
            raise ValueError(
                f"preprocessing.{name} {values} has {len(values)} channels and the model {channels}"
                f": give {channels} values"
            )
        return np.asarray(values if len(values) == channels else values[:1] * channels, np.float32)

    return spread("mean", preprocessing.mean), spread("std", preprocessing.std)


def check_size(size: tuple[int, int] | int) -> tuple[int, int]:
    """`size` as `(h, w)`. Raises `ValueError` unless both sides are positive."""
    h, w = (size, size) if isinstance(size, int) else size
    if h < 1 or w < 1:
        raise ValueError(f"size {size} must be (height, width) of at least one pixel")
    return h, w
