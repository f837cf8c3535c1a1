"""What a checkpoint of any format holds, read without its values. No framework is imported."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parity import containers, foreign, left_out
from parity.choice import ANY, Choice, parted
from parity.containers import BrokenFile
from parity.convert import located, told
from parity.formats.format import Unsaid
from vit_spec import Header, OptimConfig, checkpoint, training_state
from vit_spec.parameters import check_shapes, check_size, parameters

UNKNOWN = "unknown format"


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
    entries: dict[str, str] = field(default_factory=dict)  # what lies where in the file, in words
    problem: str = ""  # what of its tensors is not as its header says, or why it is not converted


def inspect(
    path: str | os.PathLike[str],
    *,
    entry: str | None = None,
    prefix: str | None = None,
    leave_out: str | Iterable[str] = (),
    strict: bool = True,
) -> Summary:
    """Names, dtypes and shapes of a checkpoint's weights, its header and its training's progress.

    What it does not have is None; tensors that are not those of its header are its `problem`. Of a
    format of others, names and shapes are those of ours, or its own if it does not say which model
    it is, or if its format is not known. `entry`, `prefix` and `leave_out` are as those of
    `convert`.

    Raises `ValueError` for what `convert` refuses in a format of others, unless `strict` is false:
    then a file that can be read at all has a summary, whose `problem` says it.
    """
    address, choice = parted(path, Choice.of(entry, prefix, leave_out))
    path = located(address)
    try:
        kind = told(path, choice)
    except BrokenFile:
        raise
    except ValueError as error:
        if choice != ANY:
            raise
        return _as_it_is(path, UNKNOWN, notes=(str(error),))
    if kind not in foreign.OURS:
        try:
            with foreign.opened_as(path, kind, None, choice=choice) as opened:
                notes, shapes = (*opened.notes, *opened.left_out), parameters(opened.header.config)
                kinds = {n: (str(opened.dtypes[n]), shape) for n, shape in shapes.items()}
                return Summary(
                    path=path, format=kind, header=opened.header, tensors=kinds, notes=notes
                )
        except BrokenFile:
            raise
        except Unsaid as error:
            return _as_it_is(path, kind, notes=(str(error),))
        except ValueError as error:
            if strict or kind not in foreign.FOREIGN:
                raise
            return _as_it_is(path, kind, problem=str(error))
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


def _as_it_is(
    path: Path, format: str, *, notes: tuple[str, ...] = (), problem: str = ""
) -> Summary:
    """All tensors of a file by its own names, and what lies beside them."""
    with containers.opened(path) as opened:
        kinds = {n: (info.dtype, tuple(info.shape)) for n, info in opened.tensors.items()}
        entries = left_out.listing(opened.entries, opened.beside)
    return Summary(
        path=path,
        format=format,
        header=None,
        tensors=kinds,
        notes=notes,
        entries=entries,
        problem=problem,
    )
