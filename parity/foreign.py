"""Conversion from and to the formats of others, tensor by tensor. No framework is imported."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from parity import containers, orbax, targets
from parity.containers.files import beside, check_link
from parity.containers.names import BESIDE
from parity.formats import FOREIGN, Format, Given
from parity.formats.format import Unsaid
from parity.formats.kept import lost
from parity.formats.plan import Read, Reader, check_inward, dtypes, order, widened
from parity.formats.said import Model, agreed, of_ours, settled
from parity.formats.table import their_shapes
from vit_spec import Header, checkpoint, parameters, training_state
from vit_spec.names import plain
from vit_spec.parameters import Shapes, check_shapes, check_size
from vit_spec.strict_json import shown

OURS = ("vitwin", "safetensors")
REASON = 120  # characters of why a checkpoint is not of a format


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open checkpoint as ours: its header, and its tensors in PyTorch's layout on demand."""

    header: Header
    dtypes: Mapping[str, np.dtype]  # of our tensors
    read: Read
    lines: list[Any] | None  # of the table, None for our own format
    notes: list[str] = field(default_factory=list)  # what the checkpoint does not say itself
    widened: Mapping[str, np.dtype] = field(default_factory=dict)  # of what is read, the dtype
    summed: Callable[[], list[str]] = list  # of what is read, see `Reader`


def weights_file(path: Path) -> Path:
    """The file with the weights of a checkpoint."""
    with containers.opened(path) as opened:
        return opened.path


def tell(path: Path) -> str:
    """The format of a checkpoint that is not ours, from its content.

    Raises `ValueError` that lists the candidates if there is not exactly one.
    """
    with containers.opened(path) as opened:
        given = _given(path, opened)
    found = _matching(given)
    if len(found) == 1:
        return found[0]
    what = f"is any of {', '.join(found)}" if found else "has no known format"
    names = ", ".join(map(plain, list(given.shapes)[:3]))
    raise ValueError(
        f"{path} {what} (its tensors are {names}, ...): say which, such as "
        f"source={(found or list(FOREIGN))[0]!r}; formats: {', '.join([*OURS, *FOREIGN])}"
    )


def candidates(path: Path) -> list[str]:
    """The formats of others that a checkpoint may have."""
    with containers.opened(path) as opened:
        return _matching(_given(path, opened))


def is_ours(path: Path) -> bool:
    """A directory or file that names this package's format."""
    try:
        if not path.is_dir():
            return checkpoint.read_header(path) is not None
        said = (beside(path / checkpoint.CONFIG) or {}).get("format")
        return isinstance(said, str) and said.startswith("vitwin ")
    except (ValueError, OSError):
        return False


def check_links(path: Path) -> None:
    """Raises `BrokenFile` for a link that leads out of a directory of ours."""
    if path.is_dir():
        for name in (checkpoint.CONFIG, checkpoint.WEIGHTS, training_state.TRAINING):
            check_link(path / name)


@contextlib.contextmanager
def opened_as(
    path: Path, format: str, model: Model, sizes: tuple[tuple[int, int], ...] = ()
) -> Iterator[Source]:
    """A checkpoint as ours. `model` is what `model=` says, for what the checkpoint does not.

    `sizes` are what `image_size=` says, if it says anything: height and width.

    Raises `ValueError` for missing, extra and wrong-shaped tensors, all in one message, and for
    all fields in which checkpoint and `model` contradict each other; `Unsaid` if neither says
    which model it is.
    """
    if format == orbax.FORMAT:
        step = orbax.opened(path)
        agreed(step.header, model, sizes, where=str(path))
        yield Source(
            header=step.header, dtypes=step.dtypes, read=step.read, lines=None, notes=step.notes
        )
        return
    if format in OURS:
        check_links(path)
        header, notes = of_ours(path, model, sizes)
        with containers.opened(checkpoint.weights_file(path)) as opened:
            shapes = {name: tuple(info.shape) for name, info in opened.tensors.items()}
            kinds = {name: info.dtype for name, info in opened.tensors.items()}
            check_size(header.config, shapes, where=str(path))
            check_shapes(parameters(header.config), shapes, where=str(path), dtypes=kinds)
            found = {name: np.dtype(kind) for name, kind in kinds.items()}
            yield Source(header=header, dtypes=found, read=opened.read, lines=None, notes=notes)
        return
    form = FOREIGN[format]
    with containers.opened(path) as opened:
        given = _given(path, opened)
        places = form.places(given)
        shapes = {n: given.shapes[place] for n, place in places.items()}
        given = replace(given, shapes=shapes, sizes=sizes)
        found = {n: np.dtype(opened.tensors[place].dtype) for n, place in places.items()}
        where = f"{path} ({format})"
        try:
            header, notes = settled(form, given, model, where=str(path))
            config = header.config
            check_size(config, given.shapes, where=where)
            lines, ours = _present(form.rules(config), given), parameters(config)
            check_inward(lines, ours, given.shapes, where=where, kinds=found)
        except (ValueError, LookupError, TypeError) as error:
            if form.matches(given) or (isinstance(error, Unsaid) and form.names(given)):
                raise
            raise ValueError(_unlike(path, form, given, error)) from error
        kinds = dtypes(lines, found, inward=True)
        read = Reader(lines, lambda name: opened.read(places[name]), kinds, inward=True)
        yield Source(
            header=header,
            dtypes=kinds,
            read=read,
            lines=lines,
            notes=notes,
            widened=widened(lines, found, inward=True),
            summed=read.summed,
        )


@dataclass(frozen=True)
class Target:
    """What a conversion writes: names, dtypes, shapes and values."""

    infos: dict[str, Any]  # containers.Info
    read: Read
    widened: Mapping[str, np.dtype] = field(default_factory=dict)  # of ours
    summed: Callable[[], list[str]] = list  # of ours


def planned(source: Source, format: str) -> Target:
    """The tensors of the target. Raises `ValueError` with all reasons if it cannot hold them."""
    config = source.header.config
    if format not in FOREIGN:
        ours = parameters(config)
        return _target(source.dtypes, ours, source.read, order(source.lines, None, ours))
    form = FOREIGN[format]
    lost(source.header, form)
    held = form.held(config)
    lines, ours = form.rules(held), parameters(held)
    theirs = their_shapes(lines, ours)
    check_inward(lines, ours, theirs, where=format)
    kinds = dtypes(lines, source.dtypes, inward=False)
    given = source.read if held == config else _positioned(source.read)
    read = Reader(lines, given, kinds, inward=False)
    target = _target(kinds, theirs, read, order(source.lines, lines, ours))
    found = widened(lines, source.dtypes, inward=False)
    return replace(target, widened=found, summed=read.summed)


def write(dst: Path, format: str, source: Source, shard: int | None = None) -> Target:
    """Writes a checkpoint where nothing is, in several files of up to `shard` bytes if that is set.

    Returns what it has. Raises `ValueError` if the format cannot hold it.
    """
    target, header = planned(source, format), source.header
    if format == orbax.FORMAT:
        orbax.write(dst, header, target.infos, target.read)
        return target
    form: Format | None = FOREIGN.get(format)
    files = {} if form is None else form.config_to(replace(header, config=form.held(header.config)))
    texts = {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}
    if format == "vitwin":
        texts = {checkpoint.CONFIG: header.to_json()}
    name = targets.file_in(format)
    if name is not None:
        checkpoint.make_directory(dst)
    for other, text in texts.items():
        with checkpoint.replacing(dst / other) as temporary:
            temporary.write_text(text, encoding="utf-8")
    metadata = {"format": "pt"} | ({"vitwin": header.to_json()} if form is None else {})
    kind = targets.kind(format)
    if shard is not None:
        containers.write_shards(dst, target.infos, target.read, shard, metadata=metadata)
        return target
    containers.write(
        dst if name is None else dst / name,
        kind,
        target.infos,
        target.read,
        metadata=metadata if kind == "safetensors" else None,
    )
    return target


def ignored(path: Path, format: str) -> list[str]:
    """Names in a checkpoint that are no part of the model, and entries that its kind leaves out."""
    if format not in FOREIGN:
        return []
    with containers.opened(path) as opened:
        given = _given(path, opened)
        places = set(FOREIGN[format].places(given).values())
        beside = opened.metadata.get("not_tensors", "") if opened.kind == "torch" else ""
    return [n for n in given.shapes if n not in places] + [n for n in beside.split(", ") if n]


def _present(lines: list[Any], given: Given) -> list[Any]:
    """The lines without tensors that no model of ours has and that a file need not have."""
    return [line for line in lines if line.ours or set(line.theirs) <= given.shapes.keys()]


def _positioned(read: Read) -> Read:
    """The tensors of a model whose class token has a position, of zeros."""

    def positioned(name: str) -> np.ndarray:
        array = read(name)
        if name != "pos_embed":
            return array
        return np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)

    return positioned


def _matching(given: Given) -> list[str]:
    return [name for name, format in FOREIGN.items() if format.matches(given)]


def _unlike(path: Path, form: Format, given: Given, error: Exception) -> str:
    """What a checkpoint looks like that was said to be of another format."""
    found = ["vitwin"] if is_ours(path) else _matching(given)
    like = f"but like {' or '.join(found)} in {given.kind}"
    way = f"give {' or '.join(f'source={name!r}' for name in found)}"
    if not found:
        like = f"nor like another known format in {given.kind}"
        way = (
            f"its first tensors are {shown(list(given.shapes)[:3])}; rename all as {form.name} has "
            "them, or say a format that has such names (docs/formats.md)"
        )
    why = f"{error}".removeprefix(f"{path}").removeprefix(f" ({form.name})").lstrip(": ")
    return (
        f"{path} does not look like {form.name} {like}: {way}; "
        f"as {form.name}: {shorten(why, REASON, placeholder='...')}"
    )


def _given(path: Path, opened: Any) -> Given:
    folder = path if path.is_dir() else path.parent
    files = {name: beside(folder / name) for name in BESIDE}
    return Given(
        shapes={name: tuple(info.shape) for name, info in opened.tensors.items()},
        kind=opened.kind,
        config=opened.config,
        files={name: content for name, content in files.items() if content is not None},
        folder=folder,
        metadata=opened.metadata or {},
    )


def _target(kinds: Mapping[str, np.dtype], shapes: Shapes, read: Read, names: list[str]) -> Target:
    infos = {name: containers.Info.of(kinds[name], shapes[name]) for name in names}
    return Target(infos, lambda name: np.asarray(read(name), dtype=kinds[name]))
