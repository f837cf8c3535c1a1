"""A PyTorch model on the host as a teacher: see `vit_jax.distillation`."""

import importlib
from collections.abc import Mapping

import numpy as np
import torch


class HostTeacher:
    """A function of images (b, c, H, W), normalised as the student's, to logits (b, k).

    It is named as `module:function`, or `module:model` for a `torch.nn.Module`, which is put in
    evaluation mode. Raises `ValueError` if there is none of that name.
    """

    def __init__(self, name: str):
        module, _, attribute = name.partition(":")
        try:
            self.function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no teacher {name!r}: {error}") from error
        if isinstance(self.function, torch.nn.Module):
            self.function.eval()

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(batch["image"])).permute(0, 3, 1, 2)
        return self.function(images).float().cpu().numpy()
