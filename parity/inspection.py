"""What a checkpoint of any format holds, read without its values. No framework is imported."""

import os
from dataclasses import dataclass
from pathlib import Path

from parity import containers, foreign
from parity.convert import located, told
from parity.formats.format import Unsaid
from vit_spec import Header, OptimConfig, checkpoint, training_state
from vit_spec.parameters import parameters


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a checkpoint holds."""

    path: Path
    format: str
    header: Header | None
    tensors: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape), of the weights
    step: int | None = None  # of the training state, if there is one
    optim: OptimConfig | None = None  # its optimizer settings
    notes: tuple[str, ...] = ()  # what it does not say itself, and what was assumed


def inspect(path: str | os.PathLike[str]) -> Summary:
    """Names, dtypes and shapes of a checkpoint's weights, its header and its training's progress.

    What it does not have is None. Of a format of others, names and shapes are those of ours, or
    its own if it does not say which model it is.
    """
    path = located(path)
    kind = told(path)
    if kind not in foreign.OURS:
        try:
            with foreign.opened_as(path, kind, None) as opened:
                notes, shapes = tuple(opened.notes), parameters(opened.header.config)
                kinds = {n: (str(opened.dtypes[n]), shape) for n, shape in shapes.items()}
                return Summary(
                    path=path, format=kind, header=opened.header, tensors=kinds, notes=notes
                )
        except Unsaid as error:
            with containers.opened(path) as opened:
                kinds = {n: (info.dtype, tuple(info.shape)) for n, info in opened.tensors.items()}
            return Summary(path=path, format=kind, header=None, tensors=kinds, notes=(str(error),))
    foreign.check_links(path)
    try:
        header = checkpoint.read_header(path)
    except ValueError:
        header = None
        if kind == "vitwin":
            raise
    step, optim = None, None
    if training_state.has_training(path):
        step, optim = training_state.read_progress(path)
    return Summary(
        path=path,
        format=kind,
        header=header,
        tensors=checkpoint.tensor_shapes(path),
        step=step,
        optim=optim,
    )
