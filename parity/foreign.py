"""Conversion from and to the formats of others, tensor by tensor. No framework is imported."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import aside, containers, left_out, orbax, subtree, targets, unread
from parity.changing import Change, changed
from parity.choice import ANY, Choice
from parity.containers.files import beside, check_link
from parity.containers.names import BESIDE
from parity.formats import FOREIGN, Format, Given, nnx, trained, uncovered
from parity.formats.format import Unsaid
from parity.formats.kept import lost
from parity.formats.plan import Read, Reader, check_inward, dtypes, order, widened
from parity.formats.said import Model, agreed, of_ours, settled
from parity.formats.table import Aside, their_shapes
from vit_spec import Header, ViTConfig, checkpoint, parameters, training_state
from vit_spec.parameters import Shapes, check_shapes, check_size

OURS = ("vitwin", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open checkpoint as ours: its header, and its tensors in PyTorch's layout on demand."""

    header: Header
    dtypes: Mapping[str, np.dtype]  # of our tensors
    read: Read
    lines: list[Any] | None  # of the table, None for our own format
    notes: list[str] = field(default_factory=list)  # what the checkpoint does not say itself
    left_out: list[str] = field(default_factory=list)  # what of it is not part of the model
    choice: Choice = ANY  # that finds the same tensors again
    widened: Mapping[str, np.dtype] = field(default_factory=dict)  # of what is read, the dtype
    summed: Callable[[], list[str]] = list  # of what is read, see `Reader`
    kept: Callable[[], aside.Kept] = dict  # what no model of ours has, see `parity.aside`


def altered(source: Source, change: Change) -> Source:
    """The same tensors of a model with other values in some fields. Raises as `changed` does."""
    if not change:
        return source
    config = changed(source.header.config, change)
    return replace(source, header=replace(source.header, config=config))


def weights_file(path: Path) -> Path:
    """The file with the weights of a checkpoint."""
    with containers.opened(path) as opened:
        return opened.path


def tell(path: Path, choice: Choice = ANY) -> str:
    """The format of a checkpoint that is not ours, from its content.

    Raises `ValueError` that lists the candidates if there is not exactly one.
    """
    with containers.opened(path) as opened:
        given = _given(path, opened)
        found = subtree.found(given, opened.entries, _formats(given), choice)
        taken = subtree.one(found, given, where=f"{path}") if found else None
        formats = taken.formats if taken else ()
        if len(formats) == 1:
            return formats[0]
        if taken and formats:
            apart = unread.apart(formats, subtree.seen(given, taken))
            raise ValueError(
                f"{path} is any of {', '.join(formats)} (its tensors are {unread.some(given)}): "
                f"say which, such as source={formats[0]!r}{apart}"
            )
        if reason := uncovered.reason(given):
            raise ValueError(f"{path} {reason}")
        near = subtree.nearest(given, opened.entries, _formats(given))
    if given.kind == "safetensors" and any(s.path and "timm" in s.formats for s in near):
        return "timm"  # our names, wrapped, of a model that `model` names
    raise ValueError(unread.unknown(path, given, near))


def has_our_names(path: Path) -> bool:
    """Whether a file has tensors with names of ours, as they are."""
    with containers.opened(path) as opened:
        return not parameters(ViTConfig()).keys().isdisjoint(opened.tensors)


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
        names = (checkpoint.CONFIG, checkpoint.WEIGHTS, training_state.TRAINING, aside.FILE)
        for name in names:
            check_link(path / name)


@contextlib.contextmanager
def opened_as(
    path: Path,
    format: str,
    model: Model,
    sizes: tuple[tuple[int, int], ...] = (),
    choice: Choice = ANY,
) -> Iterator[Source]:
    """A checkpoint as ours. `model` is what `model=` says, for what the checkpoint does not.

    `sizes` are what `image_size=` says, if it says anything: height and width. `choice` says which
    of its tensors are the model, where that is not plain.

    Raises `ValueError` for missing, extra and wrong-shaped tensors, all in one message, and for
    all fields in which checkpoint and `model` contradict each other; `Unsaid` if neither says
    which model it is.
    """
    tree = format == orbax.FORMAT and orbax.is_tree(path)
    if choice != ANY and format not in FOREIGN and not tree:
        raise ValueError(
            f"{path} is of the format {format}, whose tensors are all of the model: leave out "
            "entry=, prefix= and leave_out="
        )
    if format == orbax.FORMAT and not tree:
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
            yield Source(
                header=header,
                dtypes=found,
                read=opened.read,
                lines=None,
                notes=notes,
                kept=lambda: aside.of_directory(path),
            )
        return
    form = nnx.FORMAT if format == orbax.FORMAT else FOREIGN[format]
    with containers.opened(path) as opened:
        whole = _given(path, opened)
        found = subtree.found(whole, opened.entries, [form], choice)
        taken = subtree.one(found, whole, where=str(path))
        given = subtree.seen(whole, taken)
        places = {name: taken.names[place] for name, place in form.places(given).items()}
        shapes = {name: whole.shapes[place] for name, place in places.items()}
        named = replace(given, shapes=shapes, sizes=sizes)
        where, header = f"{path} ({format})", None
        try:
            header, notes = settled(form, named, model, where=str(path))
            config = header.config
            left_out.check_classifier(given)
            check_size(config, shapes, where=where)
            lines, ours = _present(form.rules(config), named), parameters(config)
            known = {name for line in lines for name in line.theirs}
            for name in left_out.heads(places, known) if given.model_type is None else ():
                del places[name], shapes[name]
            kinds = {name: np.dtype(opened.tensors[place].dtype) for name, place in places.items()}
            extra = left_out.patterns([n for n in shapes if n not in known], known)
            check_inward(lines, ours, shapes, where=where, kinds=kinds, extra=extra)
        except (ValueError, LookupError, TypeError) as error:
            if form.matches(given) or (isinstance(error, Unsaid) and form.names(given)):
                raise
            if header is not None and form.names(given):  # its names, other tensors
                raise ValueError(f"{error}{unread.others(form, given)}") from error
            raise ValueError(unread.unlike(path, form, given, error, ours=is_ours(path))) from error
        used = set(places.values())
        inward = dtypes(lines, kinds, inward=True)
        read = Reader(lines, lambda name: opened.read(places[name]), inward, inward=True)
        yield Source(
            header=header,
            dtypes=inward,
            read=read,
            lines=lines,
            notes=[
                *opened.notes,
                *taken.notes(),
                *([] if opened.config else trained.note(whole.said)),
                *notes,
            ],
            left_out=left_out.remarks(opened.tensors, opened.beside, used, taken.rivals),
            choice=taken.choice(choice),
            widened=widened(lines, kinds, inward=True),
            summed=read.summed,
            kept=lambda: aside.of_lines(lines, lambda name: opened.read(places[name])),
        )


@dataclass(frozen=True)
class Target:
    """What a conversion writes: names, dtypes, shapes and values."""

    infos: dict[str, Any]  # containers.Info
    read: Read
    widened: Mapping[str, np.dtype] = field(default_factory=dict)  # of ours
    summed: Callable[[], list[str]] = list  # of ours
    dropped: list[str] = field(
        default_factory=list
    )  # what the source kept and this has no room for


def planned(source: Source, format: str) -> Target:
    """The tensors of the target. Raises `ValueError` with all reasons if it cannot hold them."""
    config = source.header.config
    kept = source.kept()
    if format not in FOREIGN:
        ours = parameters(config)
        target = _target(source.dtypes, ours, source.read, order(source.lines, None, ours))
        return replace(target, dropped=[] if format == "vitwin" else list(kept))
    form = FOREIGN[format]
    lost(source.header, form)
    held = form.held(config)
    lines, ours = [line for line in form.rules(held) if _is_written(line)], parameters(held)
    theirs = their_shapes(lines, ours)
    check_inward(lines, ours, theirs, where=format)
    kinds = dtypes(lines, source.dtypes, inward=False)
    given = source.read if held == config else _positioned(source.read)
    read, more = Reader(lines, given, kinds, inward=False), aside.placed(lines, kept)
    kinds |= {name: values.dtype for name, values in more.items()}

    def reading(name: str) -> np.ndarray:
        return more[name] if name in more else read(name)

    target = _target(kinds, theirs, reading, order(source.lines, lines, ours))
    room = {line.op.name for line in lines if line.theirs[0] in more}
    found = widened(lines, source.dtypes, inward=False)
    dropped = [name for name in kept if name not in room]
    return replace(target, widened=found, summed=read.summed, dropped=dropped)


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
        checkpoint.make_directory(dst)
        aside.write(dst, source.kept())
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


def _is_written(line: Any) -> bool:
    return not isinstance(line.op, Aside) or line.op.written


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


def _formats(given: Given) -> list[Format]:
    """What a file of others may be: a tree of ours is written by Orbax."""
    return [*FOREIGN.values()] + ([nnx.FORMAT] if given.kind == "orbax" else [])


def _given(path: Path, opened: Any) -> Given:
    if not opened.tensors:
        also = (
            "; NumPy arrays in it are not read" if opened.kind == "torch" and opened.beside else ""
        )
        raise ValueError(f"{path} holds no tensors{also}")
    folder = path if path.is_dir() else path.parent
    files = {name: beside(folder / name) for name in BESIDE}
    return Given(
        shapes={name: tuple(info.shape) for name, info in opened.tensors.items()},
        kind=opened.kind,
        config=opened.config or trained.config(opened.beside),
        files={name: content for name, content in files.items() if content is not None},
        folder=folder,
        metadata=opened.metadata or {},
        said=opened.beside,
    )


def _target(kinds: Mapping[str, np.dtype], shapes: Shapes, read: Read, names: list[str]) -> Target:
    infos = {name: containers.Info.of(kinds[name], shapes[name]) for name in names}
    return Target(infos, lambda name: np.asarray(read(name), dtype=kinds[name]))
