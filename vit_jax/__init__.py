"""The Flax NNX twin. `vit_torch` has the same names."""

from vit_spec.extras import require

require("vit_jax", "jax", "flax", "optax")

from vit_jax.api import create, load, save
from vit_jax.masks import sample_masks
from vit_jax.options import Options
from vit_jax.training_state import load_training, save_training
from vit_jax.vit import ViT
from vit_spec.version import __version__

__all__ = [
    "__version__",
    "Options",
    "ViT",
    "create",
    "load",
    "load_training",
    "sample_masks",
    "save",
    "save_training",
]
