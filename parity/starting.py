"""What a training run begins with, from a checkpoint of any format: parameters, or a teacher."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import vit_jax
from parity.convert import read
from vit_jax.distillation import ModelTeacher, Precomputed, Teacher
from vit_jax.functional import split
from vit_spec import Header, Preprocessing
from vit_spec.finetuning import fit
from vit_spec.layout import to_jax_layout, to_torch_layout
from vit_spec.names import printable


def initial_params(
    source: str, make: Callable[[], vit_jax.ViT], header: Header
) -> Mapping[str, np.ndarray]:
    """Parameters for the model that `make` returns, on the host, as far as `source` has them.

    Prints what was taken, resampled, newly initialised and left behind. Raises `ValueError` or
    `OSError` for what is no checkpoint.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = make()
        start = to_torch_layout(vit_jax.api.get_state(model))
        state, told = fit(*read(source, note=_noted), header.config, start, like=header)
        vit_jax.api.set_state(model, to_jax_layout(state, vit_jax.api.names(model)))
        print(f"from {source}: {told}")
        return {name: np.asarray(value) for name, value in split(model)[1].items()}


def open_teacher(
    source: str, mesh: Mesh, *, dtype: str, preprocessing: Preprocessing, mixed: bool
) -> Teacher:
    """A checkpoint of any format, `module:name` of a PyTorch model, or a file of logits.

    A checkpoint's model is divided over the mesh. `preprocessing` is that of the batches; `mixed`
    says whether their images are mixed, for which no logits can be looked up. Raises `ValueError`
    or `OSError` for what is none of them.
    """
    if Path(source).suffix in (".npy", ".npz"):
        if mixed:
            raise ValueError(
                f"the logits of {source} are of single images, and the recipe mixes them: set "
                f"--augmentation.mixup 0 --augmentation.cutmix 0, or take a model as the teacher"
            )
        return Precomputed(Path(source))
    if ":" in source and "://" not in source:
        from vit_torch.teacher import HostTeacher

        return HostTeacher(source)
    header, state = read(source, note=_noted)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model: Any = vit_jax.api.from_state(header.config, state, dtype=dtype)
        return ModelTeacher(model, mesh, theirs=header.preprocessing, ours=preprocessing)


def _noted(text: str) -> None:
    print(f"note: {printable(text, lines=True)}")
