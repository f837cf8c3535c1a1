"""Policies of image operations by their notation: which variant a name means. No twin."""

import re
from collections.abc import Callable

import numpy as np

from vit_data.color import three_augment
from vit_data.randaug_big_vision import BigVisionRandAugment
from vit_data.randaug_timm import Look, TimmRandAugment

Policy = Callable[[np.ndarray, np.random.Generator, Look], np.ndarray]


def policy_of(notation: str) -> Policy | None:
    """The function of one uint8 image (h, w, c) that a notation names; None for an empty one.

    `rand-m9-mstd0.5-inc1` is RandAugment of timm, `randaug(2,10)` that of big_vision, and
    `3-augment` that of DeiT III. Raises `ValueError` for anything else.
    """
    if not notation:
        return None
    if notation == "3-augment":
        return lambda image, rng, look: three_augment(image, rng)
    if notation.startswith("rand-"):
        return TimmRandAugment.parse(notation)
    numbers = re.fullmatch(r"randaug\((\d+), ?(\d+)\)", notation)
    if numbers is None:
        raise ValueError(
            f"policy {notation!r} is unknown: write rand-m9-mstd0.5-inc1 (RandAugment of timm), "
            "randaug(2,10) (of big_vision) or 3-augment (of DeiT III)"
        )
    layers, magnitude = (int(text) for text in numbers.groups())
    big_vision = BigVisionRandAugment(layers, magnitude)
    return lambda image, rng, look: big_vision(image, rng)
