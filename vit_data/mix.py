"""Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899). No twin.

The definition is timm's `Mixup` in mode `batch`: one share for the whole batch, drawn from a Beta
distribution, and both images of a pair become mixtures. timm pairs the first image with the last;
here neighbours are pairs, so that the batch of one host is that of many, joined. The images are
shuffled already, hence the pairs are as random.

Shapes: b images in a batch, even, h height, w width in pixels, c channels, k classes.
"""

import math
from typing import NamedTuple

import numpy as np


class Mix(NamedTuple):
    """What a batch is mixed by: each image keeps the share `kept` of itself."""

    kept: float = 1.0
    box: tuple[int, int, int, int] | None = None
    """CutMix: (top, bottom, left, right) of what comes from the other image; Mixup: None."""


def draw_mix(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
) -> Mix:
    """How to mix one batch of images of `size` (h, w).

    `mixup` and `cutmix` are the parameters of Beta(a, a), 0 for off. With `probability` the batch
    is mixed at all; when both are on, with `switch` by CutMix.
    """
    if rng.random() >= probability:
        return Mix()
    cut = cutmix > 0 and (mixup == 0 or rng.random() < switch)
    if not cut:
        return Mix(float(rng.beta(mixup, mixup)))
    kept = float(rng.beta(cutmix, cutmix))
    return cut_box(kept, (rng.random(), rng.random()), size)


def cut_box(kept: float, centre: tuple[float, float], size: tuple[int, int]) -> Mix:
    """The box that leaves about `kept`, and what it leaves exactly: it is cut off at the border.

    `centre` is in shares of the height and the width.
    """
    sides = []
    for at, length in zip(centre, size, strict=True):
        cut, middle = int(length * math.sqrt(1 - kept)), int(at * length)
        sides.append((max(0, middle - cut // 2), min(length, middle + (cut + 1) // 2)))
    (top, bottom), (left, right) = sides
    kept = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    return Mix(kept, (top, bottom, left, right))


def mix_images(images: np.ndarray, mix: Mix) -> None:
    """Mixes float32 (b, h, w, c) in place."""
    first, second = images[0::2], images[1::2]
    if mix.box is not None:
        top, bottom, left, right = mix.box
        first, second = first[:, top:bottom, left:right], second[:, top:bottom, left:right]
        kept = first.copy()
        first[:] = second
        second[:] = kept
    elif mix.kept != 1:
        own, other = np.float32(mix.kept), np.float32(1 - mix.kept)
        mixed = first * own + second * other
        second *= own
        second += first * other
        first[:] = mixed


def mix_labels(labels: np.ndarray, classes: int, mix: Mix) -> np.ndarray:
    """Classes (b,) as probabilities float32 (b, k), not smoothed: the loss does that, once."""
    own = np.zeros((len(labels), classes), np.float32)
    own[np.arange(len(labels)), labels] = 1
    mates = own.reshape(-1, 2, classes)[:, ::-1].reshape(own.shape)
    return own * np.float32(mix.kept) + mates * np.float32(1 - mix.kept)
