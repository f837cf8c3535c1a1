"""What a checkpoint of any format holds, read without its values. No framework is imported."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity import containers, foreign
from parity.convert import located, told
from parity.formats.format import Unsaid
from vit_spec import Header, OptimConfig, checkpoint, training_state
from vit_spec.parameters import check_shapes, check_size, parameters


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
    problem: str = ""  # what of its tensors is not as its header says


def inspect(path: str | os.PathLike[str]) -> Summary:
    """Names, dtypes and shapes of a checkpoint's weights, its header and its training's progress.

    What it does not have is None; tensors that are not those of its header are its `problem`. Of a
    format of others, names and shapes are those of ours, or its own if it does not say which model
    it is.
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
    tensors = checkpoint.tensor_shapes(path)
    return Summary(
        path=path,
        format=kind,
        header=header,
        tensors=tensors,
        step=step,
        optim=optim,
        problem=_problem(path, header, tensors) if header else "",
    )


def _problem(path: Path, header: Header, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """What of the tensors is not as the header says, all in one message."""
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    kinds = {name: kind for name, (kind, _) in tensors.items()}
    try:
        checkpoint.check_embedded(path, header)
        check_size(header.config, shapes, where=str(path))
        check_shapes(parameters(header.config), shapes, where=str(path), dtypes=kinds)
    except ValueError as error:
        return str(error)
    return ""
