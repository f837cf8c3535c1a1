"""Make, save and load models. Twin: `vit_torch/api.py`."""

import dataclasses
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.functional import check_no_other_state
from vit_jax.options import AttentionKernel, Options, Remat
from vit_jax.run_weights import read_run_checkpoint
from vit_jax.vit import ViT
from vit_spec import Preprocessing, ViTConfig, checkpoint, resolve
from vit_spec.finetuning import changed
from vit_spec.layout import State, to_jax_layout, to_torch_layout
from vit_spec.run_step import is_step

OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def create(
    config_or_name: ViTConfig | str,
    *,
    seed: int = 0,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    remat: Remat = "none",
    scan: bool = False,
    attention: AttentionKernel = "auto",
    **fields: Any,
) -> ViT:
    """A new model with random weights (see `vit_jax.initializers`), in evaluation mode; options:
    `vit_jax.Options`. `fields` are those of the config that are to differ, such as `num_classes`.

    Raises `ValueError` for an unknown variant, option or field, with the near names.
    """
    options = Options(
        dtype=dtype, param_dtype=param_dtype, remat=remat, scan=scan, attention=attention
    )
    config = resolve(config_or_name, fields, options=("seed", *OPTIONS))
    return ViT(config, options, rngs=nnx.Rngs(seed))


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
    checkpoint.write(path, header, to_torch_layout(get_state(model)))


def load(
    path: str | os.PathLike[str], *, seed: int = 0, param_dtype: Any = None, **changes: Any
) -> ViT:
    """The model of a checkpoint directory or file, in evaluation mode.

    A checkpoint of an unfinished run, `RUN/checkpoints/STEP`, gives its moving average if it has
    one, else its parameters. `changes` are options as in `vit_jax.Options`, and fields of the
    config that are to differ, such as `num_classes` or `image_size`: a head of other classes and
    what the file lacks is new, by `seed`, and positions are resampled.

    `param_dtype` None keeps the file's. Raises `FileNotFoundError`, or `ValueError` naming every
    missing, extra and wrong-shaped tensor, and unknown options and fields.
    """
    checkpoint.check_path(path)
    if is_step(path):
        header, state = read_run_checkpoint(path)
        state = to_torch_layout(state)
    else:
        header, state = checkpoint.read(path)
    options = {name: changes.pop(name) for name in OPTIONS if name in changes}
    config = resolve(header.config, changes, options=("seed", *OPTIONS))
    dtype = param_dtype or next(iter(state.values())).dtype

    def start() -> State:
        return to_torch_layout(get_state(create(config, seed=seed, param_dtype=dtype)))

    state = changed(header, state, config, start)
    return from_state(config, state, param_dtype=dtype, **options)


def from_state(config: ViTConfig, state: State, *, param_dtype: Any = None, **options: Any) -> ViT:
    """The model of a config and a state in PyTorch's layout; `param_dtype` None keeps its dtype."""
    stored = next(iter(state.values())).dtype
    chosen = Options(param_dtype=param_dtype or stored, **options)
    model = nnx.eval_shape(lambda: ViT(config, chosen, rngs=nnx.Rngs(0)))
    set_state(model, to_jax_layout(state, names(model)))
    return model


def names(model: nnx.Module) -> list[tuple[str, int]]:
    """Dotted name and rank of every parameter."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return [(".".join(map(str, path)), len(variable.shape)) for path, variable in flat]


def get_state(model: nnx.Module) -> State:
    """The parameters as NumPy arrays by dotted name.

    Raises `ValueError` for a model that has more to save, such as running statistics.
    """
    check_no_other_state(model, "a checkpoint", nnx.Param, nnx.RngState)
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in flat}


def set_state(model: nnx.Module, state: State) -> None:
    """Replaces every parameter by a copy of the array of its name, cast to the model's dtype."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    new = [
        (path, variable.replace(jnp.array(state[".".join(map(str, path))], variable.dtype)))
        for path, variable in flat
    ]
    nnx.update(model, nnx.from_flat_state(new))
