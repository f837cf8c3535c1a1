"""Both twins on the same test images, as they are used: float32, batch by batch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

import vit_jax
import vit_torch
from vit_jax.functional import merge, split


@dataclass(frozen=True)
class Predictions:
    """How the predictions of both sides compare."""

    images: int
    same: int  # images with the same prediction
    right: int  # images that PyTorch classifies correctly
    gap: float  # largest difference of a logit


def compare_predictions(
    path: str | os.PathLike[str], batches: Iterable[dict[str, Any]], *, most: int | None = None
) -> Predictions:
    """Runs the model of a checkpoint on both sides over batches of `image`, `label` and `mask`.

    `most` are the images after which it stops; None: all.
    """
    jax_model, torch_model = vit_jax.load(path), vit_torch.load(path)
    apply = partial(
        jax.jit(lambda structure, params, x: merge(structure, params)(x), static_argnums=0),
        *split(jax_model),
    )
    same, seen, right, gap = 0, 0, 0, 0.0
    for batch in batches:
        left = None if most is None else most - seen
        if left == 0:
            break
        images, labels, mask = (batch[name][:left] for name in ("image", "label", "mask"))
        kept = mask > 0
        ours = np.asarray(apply(images))[kept]
        with torch.no_grad():
            theirs = torch_model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()[kept]
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        right += int((theirs.argmax(-1) == labels[kept]).sum())
        seen, gap = seen + int(kept.sum()), max(gap, float(np.abs(ours - theirs).max(initial=0)))
    return Predictions(images=seen, same=same, right=right, gap=gap)
