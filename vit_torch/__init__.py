"""The PyTorch twin. `vit_jax` has the same names."""

from vit_spec.extras import require

require("vit_torch", "torch")

from vit_spec.version import __version__
from vit_torch.api import create, load, save
from vit_torch.masks import sample_masks
from vit_torch.training_state import load_training, save_training
from vit_torch.vit import ViT

__all__ = [
    "__version__",
    "ViT",
    "create",
    "load",
    "load_training",
    "sample_masks",
    "save",
    "save_training",
]
