"""Live training run to live training run, bit for bit: through `vit_spec.TrainingState`."""

from typing import Any

import torch

import vit_jax.training_state
import vit_torch.training_state
from vit_jax.training import TrainState
from vit_spec import OptimConfig
from vit_torch.training import Params


def training_to_torch(
    structure: Any, state: TrainState, optim: OptimConfig, *, device: torch.device | str = "cpu"
) -> vit_torch.training_state.Training:
    """`(model, optimizer, optim, step, ema)` in PyTorch, of a run in JAX.

    Raises `ValueError` if `state` is not one of `optim`.
    """
    training = vit_jax.training_state.get_training(structure, state, optim)
    return vit_torch.training_state.from_training(training, device=device)


def training_to_jax(
    model: vit_torch.ViT,
    optimizer: torch.optim.Optimizer,
    optim: OptimConfig,
    *,
    step: int,
    ema: Params | None = None,
    **options: Any,
) -> tuple[Any, TrainState, OptimConfig]:
    """`(structure, state, optim)` in JAX, of a run in PyTorch after `step` updates.

    `options` are those of `vit_jax.Options`; a float64 run needs JAX's x64 mode. Raises
    `ValueError` if `optimizer` is not one of `optim`, or counts other steps.
    """
    training = vit_torch.training_state.get_training(model, optimizer, optim, step=step, ema=ema)
    return vit_jax.training_state.from_training(training, **options)
