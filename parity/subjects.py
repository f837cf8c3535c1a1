"""Names, paths and configs as live twins."""

import os
from pathlib import Path
from typing import Any

import vit_jax
import vit_torch
from parity import inputs, orbax
from parity.twins import to_jax, to_torch
from vit_spec import Header, ViTConfig, checkpoint
from vit_spec.layout import State
from vit_spec.variants import get_if_no_path


def resolve_twins(model: Any, twin: Any, seed: int) -> tuple[vit_jax.ViT, vit_torch.ViT, str]:
    """The JAX twin, the PyTorch twin, and what to call them."""
    if isinstance(model, vit_torch.ViT) and not isinstance(twin, vit_torch.ViT):
        if isinstance(twin, vit_jax.ViT):
            return twin, model, "the models given"
        return (to_jax(model) if twin is None else _jax(twin)), model, "the model given"
    if isinstance(model, vit_jax.ViT):
        if twin is None:
            return model, to_torch(model), "the model given"
        theirs = twin if isinstance(twin, vit_torch.ViT) else _torch(twin)
        return model, theirs, "the models given"
    state, config, subject = _weights_of(model, seed)
    if isinstance(twin, vit_jax.ViT):
        raise ValueError("give the JAX model first: check(jax_model, path)")
    first = vit_jax.api.from_state(config, state)
    if twin is None:
        return first, vit_torch.api.from_state(config, state), subject
    if isinstance(twin, vit_torch.ViT):
        return first, twin, f"{subject} against the model given"
    return first, _torch(twin), f"{subject} against {twin}"


def _jax(path: str | os.PathLike[str]) -> vit_jax.ViT:
    header, state = _read(Path(path))
    return vit_jax.api.from_state(header.config, state)


def _torch(path: str | os.PathLike[str]) -> vit_torch.ViT:
    header, state = _read(Path(path))
    return vit_torch.api.from_state(header.config, state)


def _read(path: Path) -> tuple[Header, State]:
    """A checkpoint of ours, or one of Orbax."""
    return orbax.read(path) if orbax.is_step(path) else checkpoint.read(path)


def _weights_of(model: Any, seed: int) -> tuple[State, ViTConfig, str]:
    if isinstance(model, ViTConfig):
        return inputs.random_state(model, seed), model, "random weights"
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    if path is None:
        raise ValueError(
            f"{type(model).__name__} is neither a model, a config, a variant's name nor a "
            f"checkpoint"
        )
    if path.exists():
        header, state = _read(path)
        return state, header.config, str(path)
    if isinstance(model, str) and path.suffix == "" and len(path.parts) < 3:
        config = get_if_no_path(model)
        return inputs.random_state(config, seed), config, f"{model} (random weights, seed {seed})"
    raise FileNotFoundError(f"{path} does not exist")


def difference(a: ViTConfig, b: ViTConfig) -> str:
    """The fields in which JAX's config differs from PyTorch's, as text."""
    ours, theirs = a.to_dict(), b.to_dict()
    return ", ".join(
        f"{k} {ours[k]!r} in JAX and {theirs[k]!r} in PyTorch" for k in ours if ours[k] != theirs[k]
    )
