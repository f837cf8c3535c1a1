"""Files to files: the twins' directory, plain safetensors, and formats of others, tensor by tensor.

No framework is imported. What the formats of others are is in `parity.formats`.

A directory may hold a training state too, see `vit_spec.training_state`.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import aside, changing, foreign, orbax, targets
from parity import conversion_outputs as outputs
from parity.certificate_file import beside
from parity.certificate_file import write as write_certificate
from parity.changing import Change
from parity.choice import ANY, Choice, parted
from parity.containers.hub import downloaded, is_address, names_file
from parity.containers.names import TORCH
from parity.containers.shard_writing import size_of
from parity.conversion import changes, compared, remarks
from parity.formats import FOREIGN
from parity.formats.said import model_of
from vit_spec import Header, ViTConfig, checkpoint, training_state
from vit_spec.layout import State
from vit_spec.names import unknown_name
from vit_spec.parameters import parameters

FORMATS = {
    "vitwin": "directory with model.safetensors and config.json, which both twins load",
    "safetensors": "one safetensors file in PyTorch's layout, its config in the metadata",
    orbax.FORMAT: orbax.ABOUT,
} | {name: format.about for name, format in FOREIGN.items()}


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    source: str | None = None,
    target: str | None = None,
    model: ViTConfig | str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    leave_out: str | Iterable[str] = (),
    change: Change | None = None,
    max_shard_size: int | str | None = None,
    certificate: bool = True,
    verify: bool = False,
    note: Callable[[str], object] | None = None,
) -> Path:
    """Writes the checkpoint `src` as `dst`; returns what was written.

    From a directory to a directory the training state goes along, if there is one: moments, step,
    moving average. A `.safetensors` file takes the weights, and the header as metadata, which other
    tools ignore: both twins load it, too.

    Args:
        src: a directory or a file of one of `FORMATS`, or `hf://ORG/NAME[@REVISION][/FILE]`; of a
            run that is not finished, `RUN/checkpoints/STEP`. `FILE:PART` is a part of it, such as
            `siglip.npz:img`.
        dst: a directory or a file, as the format has it. What is there is replaced, in one step,
            if its certificate says that a conversion to that format wrote it (`parity.targets`).
        source: a format's name; None: told from the content.
        target: a format's name; None: `vitwin` for a directory, `safetensors` for such a file.
        model: what a file is that does not say so itself: a config, a variant's name, or the path
            of a checkpoint or of its `config.json`. What the file says is never overruled; of a
            variant's name, head and image size are those of the file.
        image_size: height and width in pixels of the images that the positions of a file are of,
            where it does not say it itself: 16 positions may be 4 x 4 or 2 x 8.
        entry: where in `src` the model is: the keys of the dicts that it is in, with dots. None:
            the one place that fits a format; of several a note says which was taken and why.
        prefix: what its names begin with, below `entry`; None: found too.
        leave_out: patterns of names, with `*`, that are not part of the model. Projection heads and
            decoders of training, and what lies outside of `entry` and `prefix`, are left out and
            listed anyhow.
        change: fields of the config and their new values, for a target that has no others, such as
            {"activation": "gelu_tanh", "norm_eps": 1e-6}. They change what the model computes: how
            far its outputs move is measured on random images, said, and recorded.
        max_shard_size: bytes, or a text such as "5GB": a directory of transformers gets as many
            files as it takes, and their index. None: one file.
        certificate: read the target back, compare every bit, and write what `parity verify` takes:
            `DST.parity.json` beside a file, `parity.json` inside a directory.
        verify: compare bits and the outputs of both sides, in float64: the source as the JAX twin,
            the target as the PyTorch one. The command does so by default. Without JAX or PyTorch
            the certificate says that bits alone were compared. With neither argument the target is
            not read back.
        note: called with a line about what `src` does not say itself and was assumed, or what of
            a step is taken; the certificate has it among its remarks. Without either argument
            above, with its other remarks too: what stays behind or changes.

    Raises:
        Disagreement: the outputs of both sides are not the same.
        FileExistsError: the target's place has something else.
        OSError: the target reads back other than it was written, or the disk refuses.
        FileNotFoundError, ValueError: no such file; damaged; unknown format, or one that cannot
            hold the model; tensors that do not fit the config, all in one message; `model`
            contradicts what `src` says of itself; neither says which model it is.
    """
    return converted(
        src,
        dst,
        source=source,
        target=target,
        model=model,
        image_size=image_size,
        choice=Choice.of(entry, prefix, leave_out),
        change=change,
        max_shard_size=max_shard_size,
        certificate=certificate,
        verify=verify,
        note=note,
    )[0]


def converted(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    source: str | None,
    target: str | None,
    model: ViTConfig | str | os.PathLike[str] | None,
    image_size: int | tuple[int, int] | None,
    choice: Choice,
    change: Change | None,
    max_shard_size: int | str | None,
    certificate: bool,
    verify: bool,
    note: Callable[[str], object] | None,
) -> tuple[Path, dict[str, Any]]:
    """What `convert` does; returns the certificate too, {} if nothing was compared."""
    address, choice = parted(src, choice)
    src, dst = located(address), local(dst)
    source, target = source or told(src, choice), target or format_of(dst)
    for name in (source, target):
        if name not in FORMATS:
            raise ValueError(unknown_name("format", name, FORMATS))
    if _overwrites(dst.resolve(), src.resolve()):
        raise ValueError(f"{dst} would overwrite what is read of {src}: choose another target")
    targets.check_replaceable(dst, target)
    limit = None if max_shard_size is None else _shard_size(max_shard_size, target)
    training, record = target == source == "vitwin" and training_state.has_training(src), {}
    changed: list[str] = []
    with contextlib.ExitStack() as stack:
        told_of = (model_of(model), _sizes(image_size), choice)
        with foreign.opened_as(src, source, *told_of) as original:
            opened, notes = foreign.altered(original, change or {}), original.notes
            header, reason = original.header, _reason(original.header, verify)
            record_of_change = _moved(original, opened) if change else None
            notes = [*notes, changing.text(record_of_change)] if record_of_change else notes
            _tell(notes, note)
            place = stack.enter_context(targets.staged(dst))
            if training:
                state = checkpoint.read_tensors(checkpoint.weights_file(src))
                beside_it = training_state.read_beside(src, header, state)
                training_state.write(place, replace(beside_it, header=opened.header))
                aside.write(place, opened.kept())
            else:
                changed = changes(opened, foreign.write(place, target, opened, limit))
        formats = (source, target)
        stays = remarks(src, formats, opened, training=training)
        if certificate or verify:
            record = compared(
                src,
                dst,
                formats,
                header,
                at=place,
                training=training,
                notes=[*notes, *stays],
                changed=changed,
                choice=opened.choice,
                change=record_of_change,
            )
            record |= {"address": address} if is_address(address) else {}
            record |= {"image_size": list(header.config.image_shape)} if image_size else {}
            record["outputs"] = (
                outputs.none(reason)
                if reason
                else outputs.measured(src, place, formats, header, opened.choice, change)
            )
        else:
            _tell([*stays, *changed], note)
        failed = bool(record) and record["outputs"]["verdict"] == outputs.FAIL
        if certificate:
            write_certificate(beside(place), record)
        elif failed:
            raise outputs.Disagreement(f"{_said_of(record)}; nothing was written: please report it")
    if failed:
        raise outputs.Disagreement(
            f"{_said_of(record)}; do not use it; {beside(dst)} records this: please report it with "
            "that file"
        )
    return dst, record


def read(
    path: str | os.PathLike[str],
    *,
    source: str | None = None,
    model: ViTConfig | str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    leave_out: str | Iterable[str] = (),
    note: Callable[[str], object] | None = None,
) -> tuple[Header, State]:
    """Header and tensors of a checkpoint of any of `FORMATS`, in our names and layout.

    All arguments are as those of `convert`; `note` gets what is left out, too. Raises what
    `convert` does.
    """
    choice = Choice.of(entry, prefix, leave_out)
    with _opened(path, source, model, image_size, choice) as opened:
        _tell([*opened.notes, *opened.left_out], note)
        names = parameters(opened.header.config)
        return opened.header, {name: np.asarray(opened.read(name)) for name in names}


def header_of(
    path: str | os.PathLike[str],
    *,
    source: str | None = None,
    model: ViTConfig | str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    leave_out: str | Iterable[str] = (),
) -> Header:
    """The header that `read` returns, without reading tensors."""
    choice = Choice.of(entry, prefix, leave_out)
    with _opened(path, source, model, image_size, choice) as opened:
        return opened.header


@contextlib.contextmanager
def _opened(
    path: Any, source: str | None, model: Any, image_size: Any, choice: Choice
) -> Iterator[foreign.Source]:
    """A checkpoint of any of `FORMATS`, open."""
    address, choice = parted(path, choice)
    place = located(address)
    source = source or told(place, choice)
    if source not in FORMATS:
        raise ValueError(unknown_name("format", source, FORMATS))
    told_of = (model_of(model), _sizes(image_size), choice)
    with foreign.opened_as(place, source, *told_of) as opened:
        yield opened


def _sizes(image_size: int | tuple[int, int] | None) -> tuple[tuple[int, int], ...]:
    """What is said of the image size, if anything. Raises `ValueError` for what is none."""
    if image_size is None:
        return ()
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size={image_size!r} must be a height and a width in pixels")
    return ((sides[0], sides[1]),)


def _moved(before: foreign.Source, after: foreign.Source) -> dict[str, Any]:
    """The certificate's entry on a change."""
    one, other = before.header.config, after.header.config
    movement = {"reason": outputs.neither()}
    if not movement["reason"] and (needed := outputs.lacking_memory(one)):
        movement["reason"] = f"is not known: {needed}"
    if not movement["reason"]:
        state = {name: np.array(before.read(name), np.float64) for name in parameters(one)}
        movement = changing.moved(one, other, state)
    return changing.entry(one, other, movement)


def _overwrites(dst: Path, src: Path) -> bool:
    """Whether the target is the source, a file in it, or the folder that it is in."""
    return (
        dst == src or (src.is_file() and src.parent == dst) or (src in dst.parents and dst.exists())
    )


def _shard_size(size: int | str, format: str) -> int:
    """Bytes of a shard. Raises `ValueError` for a wrong size, or a format that has one file."""
    sharded = [name for name, form in FOREIGN.items() if form.sharded]
    if format not in sharded:
        raise ValueError(
            f"max_shard_size {size!r} is for directories of transformers, not for {format}: "
            f"leave it out, or convert to {', '.join(sharded)}"
        )
    return size_of(size)


def _said_of(record: dict[str, Any]) -> str:
    """About outputs that are not the same."""
    found = outputs.text(record["outputs"])
    return f"the target computes something else than the source: {found}"


def _reason(header: Header, verify: bool) -> str:
    """Why outputs are not compared; known before anything is written."""
    if not verify:
        return outputs.NOT_ASKED
    if reason := outputs.missing():
        return reason
    outputs.check_memory(header.config)
    return ""


def located(path: str | os.PathLike[str]) -> Path:
    """The path of a source; an address of the Hub becomes its folder or file in the cache."""
    address = os.fspath(path)
    if not is_address(address):
        return Path(path)
    found = downloaded(address)
    return found if names_file(address) else found.parent


def local(path: str | os.PathLike[str]) -> Path:
    """The path of a target. Raises `ValueError` for an address of the Hub."""
    if is_address(os.fspath(path)):
        raise ValueError(
            f"{os.fspath(path)!r} is on the Hub: convert to a directory and upload it by "
            "`hf upload ORG/NAME DIR`"
        )
    return Path(path)


def format_of(path: Path) -> str:
    """The format that a path stands for."""
    if path.suffix == ".safetensors":
        return "safetensors"
    if path.is_dir() or path.suffix == "":
        return "vitwin"
    kind = "npz" if path.suffix == ".npz" else "torch" if path.suffix in TORCH else None
    files = [name for name, form in FOREIGN.items() if form.file is None and form.kind == kind]
    if files:
        raise ValueError(
            f"{path} may have several formats: say which, such as target={files[0]!r}; those of "
            f"such a file are {', '.join(files)}"
        )
    raise ValueError(
        f"the name of {path} says no format: name it *.safetensors or a directory, or say which, "
        f"such as target='timm'; formats: {', '.join(FORMATS)}"
    )


def told(path: Path, choice: Choice = ANY) -> str:
    """The format of a checkpoint that exists, from its content; ours if nothing else is named."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if orbax.is_step(path):
        return orbax.FORMAT
    if foreign.is_ours(path):
        return format_of(path)
    try:
        return foreign.tell(path, choice)
    except ValueError:
        if path.suffix == ".safetensors" and foreign.has_our_names(path):
            return "safetensors"  # of ours without a header, which `model` names
        raise


def _tell(notes: list[str], note: Callable[[str], object] | None) -> None:
    if note is not None:
        for text in notes:
            note(text)
