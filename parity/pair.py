"""What `check` was given, as one JAX model and one PyTorch model."""

import os
from pathlib import Path
from typing import Any

import vit_jax
import vit_torch
from parity import inputs
from parity.twins import to_jax, to_torch
from vit_spec import ViTConfig, checkpoint, resolve
from vit_spec.layout import State

Model = vit_jax.ViT | vit_torch.ViT


def make_pair(model: Any, twin: Any, seed: int) -> tuple[vit_jax.ViT, vit_torch.ViT, str]:
    """The JAX model, the PyTorch model, and what to call them. `ValueError` if they are no pair."""
    ours, theirs, subject = _resolve(model, twin, seed)
    if ours.config != theirs.config:
        raise ValueError(f"the two configs differ: {_difference(ours.config, theirs.config)}")
    return ours, theirs, subject


def _resolve(model: Any, twin: Any, seed: int) -> tuple[vit_jax.ViT, vit_torch.ViT, str]:
    if isinstance(model, vit_torch.ViT) and not isinstance(twin, vit_torch.ViT):
        if isinstance(twin, vit_jax.ViT):
            return twin, model, "the models given"
        return (to_jax(model) if twin is None else vit_jax.load(twin)), model, "the model given"
    if isinstance(model, vit_jax.ViT):
        if twin is None:
            return model, to_torch(model), "the model given"
        return (
            model,
            twin if isinstance(twin, vit_torch.ViT) else vit_torch.load(twin),
            "the models given",
        )
    state, config, subject = _weights_of(model, seed)
    if isinstance(twin, vit_jax.ViT):
        raise ValueError("give the JAX model first: check(jax_model, path)")
    first = vit_jax.api.from_state(config, state)
    if twin is None:
        return first, vit_torch.api.from_state(config, state), subject
    second = twin if isinstance(twin, vit_torch.ViT) else vit_torch.load(twin)
    return (
        first,
        second,
        f"{subject} against {twin if not isinstance(twin, vit_torch.ViT) else 'the model given'}",
    )


def _weights_of(model: Any, seed: int) -> tuple[State, ViTConfig, str]:
    if isinstance(model, ViTConfig):
        return inputs.random_state(model, seed), model, "random weights"
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    if path is None:
        raise ValueError(
            f"{type(model).__name__} is neither a twin, a config, a variant's name nor a checkpoint"
        )
    if path.exists():
        header, state = checkpoint.read(path)
        return state, header.config, str(path)
    if isinstance(model, str) and path.suffix == "" and len(path.parts) < 3:
        config = resolve(model)
        return inputs.random_state(config, seed), config, f"{model} (random weights, seed {seed})"
    raise FileNotFoundError(f"{path} does not exist")


def _difference(a: ViTConfig, b: ViTConfig) -> str:
    ours, theirs = a.to_dict(), b.to_dict()
    return ", ".join(
        f"{k} {ours[k]!r} in JAX and {theirs[k]!r} in PyTorch" for k in ours if ours[k] != theirs[k]
    )
