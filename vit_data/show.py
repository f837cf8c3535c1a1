"""A picture of a batch: what the model really sees, with its labels. No twin.

Shapes: b images in a batch, h height, w width in pixels, c channels, k classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vit_data.decode import to_picture
from vit_data.preprocess import channel_facts
from vit_data.recipe import Recipe, training_batches
from vit_data.sources import open_source
from vit_spec.preprocessing import Preprocessing

CELL, GAP, LINE = 160, 8, 14  # pixels: least width of an image, space around it, height of a line
LINES = 3  # of a caption at most
MOST = 48  # images shown


def show_batch(recipe: Recipe, path: Path) -> str:
    """Writes a picture of the first training batch of a recipe and says what was written."""
    source = open_source(recipe.data, split="train", data_dir=recipe.data_dir)
    batches = training_batches(recipe, recipe.model, source)
    try:
        batch = next(batches)
    finally:
        batches.close()
    facts: Any = {"preprocessing": recipe.preprocessing, "names": source.label_names}
    count = write_batch(path, batch["image"], batch["label"], **facts)
    return f"{path}: the first {count} of {len(batch['image'])} images of the first batch"


def write_batch(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    preprocessing: Preprocessing,
    names: Sequence[str],
) -> int:
    """Writes a PNG grid of the first images of a batch and returns their number.

    `images` float32 (b, h, w, c) are un-normalised; what lies outside of 0 .. 255, such as the
    noise of random erasing, is cut off. Under each is its class, or with mixed `labels` (b, k) the
    share of each class from one per cent on. Raises `OSError` when the file cannot be written.
    """
    count = min(len(images), MOST)
    columns = math.ceil(math.sqrt(count))
    height, width = images.shape[1:3]
    scale = max(1, math.ceil(CELL / width))
    captions = [caption(label, names)[:LINES] for label in labels[:count]]
    lines = max(len(text) for text in captions)
    step = (width * scale + GAP, height * scale + GAP + lines * LINE)
    grid = Image.new(
        "RGB", (columns * step[0] + GAP, math.ceil(count / columns) * step[1] + GAP), "white"
    )
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=LINE - 3)
    for i, pixels in enumerate(as_pixels(images[:count], preprocessing)):
        x, y = GAP + i % columns * step[0], GAP + i // columns * step[1]
        size = (width * scale, height * scale)
        grid.paste(to_picture(pixels).resize(size, Image.Resampling.NEAREST), (x, y))
        for line, text in enumerate(captions[i]):
            while draw.textlength(text, font) > step[0] - GAP // 2:
                text = f"{text.rstrip('…')[:-1]}…"
            draw.text((x, y + height * scale + line * LINE), text, "black", font)
    grid.save(path, format="PNG")
    return count


def as_pixels(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The inverse of the normalisation: uint8 (b, h, w, c)."""
    mean, std = channel_facts(preprocessing, images.shape[-1])
    return np.clip(np.rint((images * std + mean) * 255), 0, 255).astype(np.uint8)


def caption(label: np.ndarray, names: Sequence[str]) -> list[str]:
    """The class's name, or a line for each class of a mixture, the largest share first."""
    if label.ndim == 0:
        return [names[int(label)]]
    order = [int(k) for k in np.argsort(-label, kind="stable") if label[k] >= 0.01]
    if len(order) == 1:
        return [names[order[0]]]
    return [f"{label[k]:.0%} {names[k]}" for k in order]
