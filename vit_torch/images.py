"""What a model accepts as images. Twin: `vit_jax/images.py`."""

from torch import Tensor

from vit_spec import ViTConfig


def check_images(images: Tensor, config: ViTConfig) -> tuple[int, int]:
    """The patch grid of images (b, c, H, W). Raises `ValueError` saying what does not fit."""
    shape, c = tuple(images.shape), config.in_channels
    if len(shape) != 4:
        raise ValueError(
            f"images have shape {shape}, must be (batch, {c}, height, width): use "
            f"images[None] for one"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, must be floats normalised as in the checkpoint's "
            f"preprocessing: "
            "(images / 255 - mean) / std"
        )
    if shape[1] != c:
        hint = ": they look channels-last, use images.permute(0, 3, 1, 2)" if shape[3] == c else ""
        raise ValueError(
            f"images of shape {shape} have {shape[1]} channels at axis 1, the model takes {c}{hint}"
        )
    return config.grid_of(shape[2], shape[3])
