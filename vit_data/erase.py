"""Random erasing of a rectangle (Zhong et al., 2017, https://arxiv.org/abs/1708.04896). No twin.

Numbers and fillings are timm's (`timm/data/random_erasing.py`), which acts on normalised images.
"""

import math
from typing import Literal

import numpy as np

MODES = ("const", "rand", "pixel")
AREA = (0.02, 1 / 3)  # share of the image, uniform
RATIO = (0.3, 1 / 0.3)  # height over width, log-uniform
TRIES = 10


def random_erasing(
    image: np.ndarray,
    rng: np.random.Generator,
    probability: float,
    mode: Literal["const", "rand", "pixel"],
) -> None:
    """Fills a rectangle of `image`, normalised float32 `(h, w, c)`, in place with `probability`.

    `const` fills with 0, which is the mean colour; `rand` with one normal draw a channel; `pixel`
    with normal noise, one draw for each value.
    """
    if rng.random() >= probability:
        return
    height, width, channels = image.shape
    for _ in range(TRIES):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * rng.random())
        ratio = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * rng.random())
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top = int(rng.random() * (height - h + 1))
            left = int(rng.random() * (width - w + 1))
            shape = {"const": None, "rand": (channels,), "pixel": (h, w, channels)}[mode]
            filling = 0.0 if shape is None else rng.standard_normal(shape, np.float32)
            image[top : top + h, left : left + w] = filling
            return
