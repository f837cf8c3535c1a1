"""Brings a picture to another size: by Pillow, or by PyTorch's kernel of 8-bit images. No twin.

Both are antialiased and round to 8 bits after either pass. PyTorch weighs with 16 bits where
Pillow has 22: a pixel differs by a level at most while both go along the rows first. Pillow takes
the columns first where that is less work, and then edges of full contrast differ more, by what
bicubic overshoots and is cut off between the passes.
Shapes: h height, w width in pixels, c channels.
"""

import importlib.util
import multiprocessing
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from vit_data.decode import pixels
from vit_spec.extras import install

ResizeBy = Literal["pillow", "torch"]

RESIZERS = get_args(ResizeBy)
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
TORCH_MODES = ("bicubic", "bilinear")


def check_resizer(by: str, interpolation: str) -> None:
    """Raises `ValueError` unless `by` is here and can do `interpolation`."""
    if by not in RESIZERS:
        raise ValueError(f"resize_by {by!r} is none of {', '.join(RESIZERS)}")
    if by == "torch" and interpolation not in TORCH_MODES:
        raise ValueError(
            f"resize_by 'torch' has no {interpolation} resizing: choose 'pillow', or one of "
            f"{', '.join(TORCH_MODES)}"
        )
    if by == "torch" and importlib.util.find_spec("torch") is None:
        raise ValueError(
            f"resize_by 'torch' needs PyTorch, which is not installed: {install('torch')}; "
            "or choose 'pillow'"
        )


def resize(
    picture: Image.Image, size: tuple[int, int], interpolation: str, by: ResizeBy = "pillow"
) -> np.ndarray:
    """A picture of mode L or RGB brought to `size` `(h, w)`: uint8 `(h, w, c)`.

    `by` `"torch"` gives the pixels of torchvision's `v2.functional.resize` of a uint8 tensor, which
    transformers' fast image processors call. It knows bicubic and bilinear alone; see
    `check_resizer`.
    """
    if size == (picture.height, picture.width):
        return pixels(picture)
    if by == "pillow":
        return pixels(picture.resize((size[1], size[0]), RESAMPLING[interpolation]))
    torch, shape = _torch(), (picture.height, picture.width, len(picture.getbands()))
    data = bytearray(picture.tobytes())  # a copy, for PyTorch warns of memory it must not write to
    image = torch.frombuffer(data, dtype=torch.uint8).view(1, *shape).permute(0, 3, 1, 2)
    image = torch.nn.functional.interpolate(image, size, mode=interpolation, antialias=True)
    return image[0].permute(1, 2, 0).numpy()  # (h, w, c)


@cache
def _torch() -> Any:
    """PyTorch, with one thread in a worker process: the workers share the cores."""
    import torch

    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    return torch
