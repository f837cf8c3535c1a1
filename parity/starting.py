"""What a training run begins with, from a checkpoint of any format: parameters, or a teacher."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import vit_jax
from parity.choice import ANY, parted
from parity.convert import header_of, read
from vit_jax.distillation import ModelTeacher, Precomputed, Teacher
from vit_jax.functional import split
from vit_spec import Header, Preprocessing, ViTConfig
from vit_spec.finetuning import SIZES, OtherModelError, fit
from vit_spec.layout import State, to_jax_layout, to_torch_layout
from vit_spec.names import printable

NAMES = (("model", "model"), ("image_size", "image-size"), ("entry", "entry"),
         ("prefix", "prefix"), ("leave_out", "leave-out"))  # fmt: skip
OPTIONS = {name: f"--init-{flag} {{}}" for name, flag in (("source", "format"), *NAMES)}
"""What the training program calls the arguments of `parity.read`."""
CONVERTED = {
    name: f"--{flag} {{}} to `parity convert` and take what it writes"
    for name, flag in (("source", "from"), *NAMES)
}
"""The same where a program has no such options."""


def initial_header(checkpoint: str, **told: Any) -> Header:
    """What the model of a checkpoint of any format is; its weights are not read.

    `told` are arguments of `parity.read`, for what the checkpoint does not say. Raises `ValueError`
    or `OSError` for what is no checkpoint, or does not say which model it is.
    """
    with _named(OPTIONS):
        return header_of(checkpoint, **told)


def initial_params(
    checkpoint: str, make: Callable[[], vit_jax.ViT], header: Header, **told: Any
) -> Mapping[str, np.ndarray]:
    """Parameters for the model that `make` returns, on the host, as far as the checkpoint has them.

    `told` is as for `initial_header`. Prints what was taken, resampled, newly initialised and left
    behind. Raises `ValueError` or `OSError` for what is no checkpoint.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = make()
        start = to_torch_layout(vit_jax.api.get_state(model))
        with _named(OPTIONS):
            theirs, weights = read(checkpoint, note=_noting(OPTIONS), **told)
        try:
            state, transfer = fit(theirs, weights, header.config, start, like=header)
        except OtherModelError as error:
            raise ValueError(f"{error}\n{_way_out(theirs.config, header.config)}") from error
        vit_jax.api.set_state(model, to_jax_layout(state, vit_jax.api.names(model)))
        print(f"from {checkpoint}: {transfer}")
        return {name: np.asarray(value) for name, value in split(model)[1].items()}


def read_checkpoint(source: str) -> tuple[Header, State]:
    """`parity.read` for a program without options for what `source` does not say itself."""
    with _named(CONVERTED):
        return read(source, note=_noting(CONVERTED))


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
    if ":" in source and "://" not in source and parted(source, ANY)[0] == source:
        from vit_torch.teacher import HostTeacher

        return HostTeacher(source)
    header, state = read_checkpoint(source)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model: Any = vit_jax.api.from_state(header.config, state, dtype=dtype)
        return ModelTeacher(model, mesh, theirs=header.preprocessing, ours=preprocessing)


def _way_out(theirs: ViTConfig, ours: ViTConfig) -> str:
    """The options under which the model would be that of the checkpoint."""
    mine = ours.to_dict()
    fields = {n: v for n, v in theirs.to_dict().items() if n not in SIZES and v != mine[n]}
    flags = " ".join(_flag(name.replace("_", "-"), value) for name, value in fields.items())
    return f"Leave out what you gave of --model to train the checkpoint's, or give {flags}"


def _flag(name: str, value: Any) -> str:
    """A field of the model as the training program takes it."""
    if isinstance(value, bool):
        return f"--model.{'' if value else 'no-'}{name}"
    return f"--model.{name} {' '.join(map(str, value if isinstance(value, list) else [value]))}"


@contextlib.contextmanager
def _named(options: Mapping[str, str]) -> Iterator[None]:
    """Errors name a program's options in place of Python's arguments."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_with_options(str(error), options)) from error


def _noting(options: Mapping[str, str]) -> Callable[[str], None]:
    return lambda text: print(f"note: {printable(_with_options(text, options), lines=True)}")


def _with_options(text: str, options: Mapping[str, str]) -> str:
    text = re.sub(r"\bimage_size=\((\d+), (\d+)\)", r"image_size='\1 \2'", text)
    names = "|".join(options)
    text = re.sub(rf"\b({names})=(?=[\s,;]|$)", lambda m: options[m[1]].format("").strip(), text)
    return re.sub(rf"\b({names})=('([^']*)')", lambda m: options[m[1]].format(_typed(m)), text)


def _typed(match: re.Match[str]) -> str:
    """A value as a shell takes it: a pattern in quotes."""
    return match[2] if match[1] == "leave_out" else match[3]
