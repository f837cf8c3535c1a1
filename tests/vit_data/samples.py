"""Small data sets for the tests of vit_data: arrays and folders of images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_spec.preprocessing import Preprocessing


class ArraySource:
    """n grey 4x4 images; image i has the value i in every pixel and the label i % 3."""

    num_classes = 3
    label_names = ("a", "b", "c")
    name = "arrays"

    def __init__(self, count: int, corrupt: tuple[int, ...] = ()) -> None:
        self._count, self._corrupt = count, corrupt

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._corrupt:
            return {"image": b"no image", "label": index % 3}
        return {"image": np.full((4, 4), index, np.uint8), "label": index % 3}

    def describe(self, index: int) -> str:
        return f"example {index} of arrays"


PLAIN: Any = {
    "size": 4,
    "channels": 1,
    "preprocessing": Preprocessing(mean=(0.0,), std=(1 / 255,), crop_fraction=1.0),
}
"""Facts that make every pixel of an `ArraySource` its index."""


def indices(batch: dict[str, np.ndarray]) -> list[int]:
    """Which images of an `ArraySource` a batch holds."""
    return np.rint(batch["image"].max(axis=(1, 2, 3))).astype(int).tolist()


def png(array: np.ndarray, **options: Any) -> bytes:
    """The PNG file of an array."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG", **options)
    return file.getvalue()


def write_images(folder: Path, count: int, *, start: int = 0) -> None:
    """`count` grey 4x4 PNG files `<number>.png` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        (folder / f"{i}.png").write_bytes(png(np.full((4, 4), i % 256, np.uint8)))
