"""A known bug, and the pair of twins that it is planted in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import vit_jax
import vit_jax.training
import vit_torch
from parity.inputs import random_state
from parity.mutants.torch_training import TorchTraining
from parity.pair import TwinPair
from parity.sides import Prepare
from vit_spec import ViTConfig

SUBJECT = ViTConfig(
    image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64, num_classes=7
)
"""Width 32, because LayerNorm over few numbers amplifies noise; two blocks are enough to tell one
from all."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Plant:
    """A healthy pair whose parts can be exchanged before it is checked."""

    def __init__(self, config: ViTConfig, seed: int, *, raw: bool = False):
        self.config, self.seed, self.raw = config, seed, raw
        self.jax_state = random_state(config, seed)
        self.torch_state = dict(self.jax_state)
        self.in_jax: list[Callable[[vit_jax.ViT], None]] = []
        self.in_torch: list[Callable[[vit_torch.ViT], None]] = []
        self.jax_training: Any = vit_jax.training
        self.torch_training: Any = TorchTraining()
        self.jax_prepare: Prepare = normalize
        self.torch_prepare: Prepare = normalize

    def pair(self) -> TwinPair:
        """Both models with what was planted. Call it under `parity.precision.exact`."""
        jax_model = vit_jax.api.from_state(self.config, self.jax_state)
        torch_model = vit_torch.api.from_state(self.config, self.torch_state)
        for change in self.in_jax:
            change(jax_model)
        for change in self.in_torch:
            change(torch_model)
        return TwinPair(
            jax_model,
            torch_model,
            "tiny twins",
            batch_size=3,
            seed=self.seed,
            preprocess=(self.jax_prepare, self.torch_prepare) if self.raw else None,
            training=(self.jax_training, self.torch_training),
        )


@dataclass(frozen=True)
class Mutant:
    """One bug. A diagnosis names it if it gives this behaviour, at this place, in these words, and
    nothing else."""

    name: str
    group: str  # model, weights, preprocessing, precision, training
    plant: Callable[[Plant], None]
    what: str  # behaviour that the diagnosis should name
    words: str  # part of how the faulty side is described
    place: str = ""  # part of where
    config: dict[str, Any] = field(default_factory=dict)  # changes of `SUBJECT`
    raw: bool = False  # both sides take 8-bit images
    also: tuple[str, ...] = ()  # behaviours that the same bug changes as well

    def pair(self, seed: int) -> TwinPair:
        """The pair with the bug."""
        plant = self.healthy(seed)
        self.plant(plant)
        return plant.pair()

    def healthy(self, seed: int) -> Plant:
        """The pair without it."""
        return Plant(SUBJECT.replace(**self.config), seed, raw=self.raw)


def normalize(images: np.ndarray) -> np.ndarray:
    """8-bit images (b, H, W, 3) with ImageNet's mean and standard deviation."""
    mean, std = (np.array(values) for values in IMAGENET)
    return (images / 255 - mean) / std
