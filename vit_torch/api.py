"""Make, save and load models. Twin: `vit_jax/api.py`."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit_spec import Preprocessing, ViTConfig, checkpoint, resolve
from vit_spec.finetuning import changed
from vit_spec.layout import State
from vit_spec.parameters import FLOATS
from vit_torch.buffers import check_no_buffers
from vit_torch.initializers import initialize
from vit_torch.vit import ViT

OPTIONS = ("seed", "dtype", "device")


def create(
    config_or_name: ViTConfig | str,
    *,
    seed: int = 0,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    **fields: Any,
) -> ViT:
    """A new model with random weights (see `vit_torch.initializers`), in evaluation mode.

    `fields` are those of the config that are to differ, such as `num_classes`. Raises `ValueError`
    for an unknown variant or field, with the near names.
    """
    config = resolve(config_or_name, fields, options=OPTIONS)
    model = _empty(config, _float_type(dtype), device)
    initialize(model, torch.Generator(device).manual_seed(seed))
    return model


def save(
    model: ViT,
    path: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> None:
    """Writes the checkpoint directory that both twins load (see `vit_spec.checkpoint`)."""
    header = checkpoint.Header(
        config=model.config, preprocessing=preprocessing or Preprocessing(), labels=labels
    )
    checkpoint.write(path, header, get_state(model))


def load(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    **fields: Any,
) -> ViT:
    """The model of a checkpoint directory or file, in evaluation mode.

    `fields` are those of the config that are to differ, such as `num_classes` or `image_size`: a
    head of other classes and what the file lacks is new, by `seed`, and positions are resampled.

    `dtype` None keeps the file's. Raises `FileNotFoundError`, or `ValueError` naming every missing,
    extra and wrong-shaped tensor, and unknown fields.
    """
    checkpoint.check_path(path)
    header, state = checkpoint.read(path)
    config = resolve(header.config, fields, options=OPTIONS)
    stored = to_tensor(next(iter(state.values()))).dtype

    def start() -> State:
        return get_state(create(config, seed=seed, dtype=stored))

    state = changed(header, state, config, start)
    return from_state(config, state, dtype=dtype, device=device)


def from_state(
    config: ViTConfig,
    state: State,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
) -> ViT:
    """The model of a config and a state; `dtype` None keeps the state's."""
    stored = to_tensor(next(iter(state.values()))).dtype
    model = _empty(config, stored if dtype is None else _float_type(dtype), device)
    set_state(model, state)
    return model


def get_state(model: ViT) -> State:
    """The parameters as NumPy arrays by name; they share memory with a model on the CPU.

    Raises `ValueError` for a model that has more to save, such as running statistics.
    """
    check_no_buffers(model, "a checkpoint")
    return {name: to_numpy(p) for name, p in model.named_parameters()}


@torch.no_grad()
def set_state(model: ViT, state: State) -> None:
    """Copies arrays into the parameters of the same names, cast to the model's dtype."""
    for name, parameter in model.named_parameters():
        parameter.copy_(to_tensor(state[name]))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as NumPy, bfloat16 included."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor of the same dtype, bfloat16 included."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _float_type(value: torch.dtype | str) -> torch.dtype:
    """The dtype of a name or type. Raises `ValueError` unless it is one of `FLOATS`."""
    name = str(value).removeprefix("torch.")
    if name not in FLOATS:
        raise ValueError(f"dtype {value!r} is none of {', '.join(map(repr, FLOATS))}")
    return getattr(torch, name)


def _empty(config: ViTConfig, dtype: torch.dtype, device: torch.device | str) -> ViT:
    """A model whose parameters are allocated and not yet filled."""
    with torch.device("meta"):
        model = ViT(config)
    check_no_buffers(model, "a new model")  # buffers would keep what memory held
    return model.to(dtype).to_empty(device=device).eval()
