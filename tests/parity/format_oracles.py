"""Reference models of other libraries, tiny, random and in float64, and how they are compared.

A class of each library holds what the tests of a format need: how its model is made, saved, loaded
strictly, and what it returns.
"""

import numpy as np
import torch

import tests.oracles.timm_models  # noqa: F401  (makes torchvision importable)
import vit_torch
from parity.containers import opened
from tests.twin_models import BOUND, relative_gap

SIZE = {"image_size": 32, "patch_size": 8}


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model in float64 with weights that nothing hides behind: no zeros, no ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(parameter.ndim == 1).add_(noise * fan_in**-0.5)
    return model.eval()


def images(height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    """Two random images (b, c, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn((2, channels, height, width), generator=generator, dtype=torch.float64)


def gap_of_ours(path, x: torch.Tensor, expected: torch.Tensor) -> float:
    """Gap of our twin, loaded from a directory of ours, to what the reference returns."""
    model = vit_torch.load(path)
    assert next(model.parameters()).dtype == torch.float64
    with torch.no_grad():
        return relative_gap(model(x), expected)


def tensors(path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint of any format."""
    with opened(path) as file:
        return {name: np.array(file.read(name)) for name in file.tensors}


def assert_same_bits(one, other) -> None:
    """Two checkpoints hold the same tensors under the same names, bit for bit."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype and array.shape == b[name].shape, name
        assert array.tobytes() == b[name].tobytes(), name


__all__ = ["BOUND", "SIZE", "assert_same_bits", "gap_of_ours", "images", "randomised", "tensors"]
