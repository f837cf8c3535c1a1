"""What a model accepts as images. Twin: `vit_torch/images.py`."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType

from vit_spec import ViTConfig


def check_images(images: Array, config: ViTConfig) -> tuple[int, int]:
    """The patch grid of images (b, H, W, c). Raises `ValueError` saying what does not fit."""
    shape, c = tuple(images.shape), config.in_channels
    if AxisType.Explicit in jax.typeof(images).sharding.mesh.axis_types:
        raise ValueError(
            "images lie on a mesh of explicit axes, which these models do not take: make it by "
            "vit_jax.sharding.make_mesh(...), or by jax.make_mesh(shape, names, "
            "axis_types=(jax.sharding.AxisType.Auto,) * len(names))"
        )
    if len(shape) != 4:
        raise ValueError(
            f"images have shape {shape}, must be (batch, height, width, {c}): use "
            f"images[None] for one"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}, must be floats normalised as in the checkpoint's "
            f"preprocessing: "
            "(images / 255 - mean) / std"
        )
    if shape[3] != c:
        hint = (
            ": they look channels-first, use images.transpose(0, 2, 3, 1)" if shape[1] == c else ""
        )
        raise ValueError(
            f"images of shape {shape} have {shape[3]} channels at axis 3, the model takes {c}{hint}"
        )
    return config.grid_of(shape[1], shape[2])
