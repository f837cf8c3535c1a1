"""Where a conversion writes: what it may replace, and how the complete target takes its place.

A target is built, synced and compared in a folder beside its place, and then renamed into it: what
was there stays until then, and whoever reads sees the old one or the new one, whole.
"""

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from parity import certificate_file, orbax
from parity.certificate import sha256
from parity.containers.names import BESIDE, CANDIDATES, INDEX, SUFFIXES
from parity.containers.opening import kind_of
from parity.containers.writing import flush_directory
from parity.formats import FOREIGN
from vit_spec.checkpoint import CONFIG, WEIGHTS

AT_FDCWD, EXCHANGE = -100, 2  # of Linux's renameat2
SHOWN = 4  # names that a message lists


def file_in(format: str) -> str | None:
    """The name of the weights in a directory of the format; None if it is one file."""
    if format in FOREIGN:
        return FOREIGN[format].file
    return {"vitwin": WEIGHTS, orbax.FORMAT: orbax.SEAL.as_posix()}.get(format)


def kind(format: str) -> str:
    """The kind of container that the format writes."""
    return FOREIGN[format].kind if format in FOREIGN else "safetensors"


def check_replaceable(dst: Path, format: str) -> None:
    """Raises `FileExistsError` if there is something that no conversion to `format` wrote.

    A directory is replaced if it is empty, or has the certificate of a conversion to that format,
    files that are still those, and no file of others (one of Orbax never); a file, if it is of
    the same kind and as the certificate beside it says.
    """
    _check_place(dst, format)
    if dst.is_dir():
        found = _of_directory(dst, format)
    elif dst.exists():
        found = _of_file(dst, format)
    elif dst.name in CANDIDATES:
        found = _of_folder(dst)
    else:
        return
    if found:
        rule = f"; a conversion to {format} replaces only what one has written"
        raise FileExistsError(
            f"{found}{'' if format == orbax.FORMAT else rule}: choose another path, or remove it "
            "first"
        )


def _check_place(dst: Path, format: str) -> None:
    """Raises `NotADirectoryError` below a file, `ValueError` for a directory named like a file."""
    there = next((path for path in dst.parents if path.exists()), dst.parent)
    if not there.is_dir():
        raise NotADirectoryError(
            f"{there} is a file, so nothing can be written as {dst}: choose another path"
        )
    if file_in(format) is not None and dst.suffix in SUFFIXES and not dst.exists():
        raise ValueError(
            f"{dst} is the name of a file, and {format} is a directory: choose a name without "
            f"{dst.suffix}, or another format"
        )


def _of_directory(dst: Path, format: str) -> str:
    """Why a directory may not be replaced; nothing if it may."""
    names = sorted(path.name for path in dst.iterdir())
    weights = file_in(format)
    if weights is None:
        suffix = {"torch": "pth"}.get(kind(format), kind(format))
        return f"{dst} is a directory, and {format} is one file, such as {dst / 'model'}.{suffix}"
    if names and format == orbax.FORMAT:
        return f"{dst} holds {_some(names)}, and Orbax writes only into a new or empty directory"
    if names and certificate_file.IN_DIRECTORY not in names:
        return f"{dst} is a directory with {_some(names)}, without a certificate of a conversion"
    return _of_output(dst, format, weights, names) if names else ""


def _of_output(dst: Path, format: str, weights: str, names: list[str]) -> str:
    """The same of a directory that has a certificate."""
    digests, problem = _recorded(dst, format)
    if problem:
        return problem
    recorded = {certificate_file.file_name(part) or part: sha for part, sha in digests.items()}
    several = weights + INDEX in names
    recorded[weights + INDEX if several else weights] = recorded.pop(WEIGHTS)
    own = {*recorded, CONFIG, *BESIDE, certificate_file.IN_DIRECTORY}
    if others := [name for name in names if name not in own]:
        return f"{dst} holds {_some(others)} beside the output of a conversion"
    changed = [name for name, digest in recorded.items() if _digest(dst / name) != digest]
    return f"{dst} is not as it was converted: {_some(changed)} changed" if changed else ""


def _recorded(dst: Path, format: str) -> tuple[dict[str, str], str]:
    """The digests in the certificate of a conversion to the format, or why it is none."""
    try:
        record = certificate_file.read(certificate_file.beside(dst))
    except ValueError as error:
        return {}, str(error)
    if record["kind"] != "conversion":
        return {}, f"{dst} has a certificate of something else than a conversion"
    if record["target"]["format"] != format:
        return {}, f"{dst} is of the format {record['target']['format']}"
    return record["target"]["sha256"], ""


def _digest(file: Path) -> str:
    return sha256(file) if file.is_file() else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _of_file(dst: Path, format: str) -> str:
    """Why a file may not be replaced; nothing if it may."""
    if file_in(format) is not None:
        return f"{dst} is a file, and {format} is a directory"
    found = kind_of(dst)
    if found != kind(format):
        what = f"a file of {found}" if found else "no file of tensors"
        return f"{dst} is {what}, and {format} is one of {kind(format)}"
    if not certificate_file.beside(dst).is_file():
        return _of_folder(dst) or f"{dst} has no certificate of a conversion beside it"
    digests, problem = _recorded(dst, format)
    changed = "" if _digest(dst) == digests.get("weights") else f"{dst} is not as it was converted"
    return problem or changed


def _of_folder(dst: Path) -> str:
    """Why no file may come into a folder: its `config.json` is of another model, perhaps."""
    if (dst.parent / CONFIG).is_file():
        return f"{dst.parent} is the directory of a checkpoint, which {dst.name} is a part of"
    return ""


@contextlib.contextmanager
def staged(dst: Path) -> Iterator[Path]:
    """A place for the new target, with the name of `dst`, which it takes when the block ends well.

    Its certificate comes along; an old one does not outlive its file. Nothing is left of a block
    that fails. Raises `FileExistsError` if what is there changed meanwhile, `OSError` if the disk
    refuses, and everything is as it was.
    """
    dst = dst.resolve()  # a link stays one, and "." has a name
    dst.parent.mkdir(parents=True, exist_ok=True)
    fill, before = dst.is_dir() and not any(dst.iterdir()), _looks(dst)
    home = dst if fill else dst.parent
    folder = Path(tempfile.mkdtemp(prefix=f".{dst.name}.", dir=home))
    try:
        place = folder / dst.name
        yield place
        if place.is_dir():
            flush_directory(place)
        if (now := _looks(dst, besides=folder.name)) != before:
            changed = _some(sorted({name for name, *_ in before ^ now}))
            raise FileExistsError(
                f"{changed} of {dst} changed during the conversion, so nothing was "
                "replaced: look at it and convert again"
            )
        if fill:
            _fill(place, dst)
        elif place.is_dir() and dst.is_dir():
            _swap(place, dst)
        else:
            place.rename(dst)
        if not dst.is_dir():
            _certificate(place, dst)
        flush_directory(home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _looks(dst: Path, *, besides: str = "") -> set[tuple[str, int, int, int]]:
    """What tells whether someone else writes to a target: its files, their sizes and times."""
    files = [file for file in dst.iterdir() if file.name != besides] if dst.is_dir() else [dst]
    found = [(file.name, os.lstat(file)) for file in files if os.path.lexists(file)]
    return {(name, of.st_ino, of.st_size, of.st_mtime_ns) for name, of in found}


def _fill(place: Path, dst: Path) -> None:
    """Into an empty directory, which may be where a disk is mounted; the weights come last."""
    files = sorted(place.iterdir(), key=lambda file: file.is_dir() or file.name in CANDIDATES)
    try:
        for file in files:
            file.rename(dst / file.name)
    except BaseException:
        for file in files:
            if (dst / file.name).is_dir():
                shutil.rmtree(dst / file.name)
            else:
                (dst / file.name).unlink(missing_ok=True)
        raise


def _swap(place: Path, dst: Path) -> None:
    """Two directories change places: at once on Linux, elsewhere the old one steps aside first."""
    shutil.copymode(dst, place)
    if _exchanged(place, dst):
        return
    aside = place.with_name(".old")
    try:
        dst.rename(aside)
        place.rename(dst)
    except BaseException:
        if aside.exists() and not dst.exists():
            aside.rename(dst)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the system has exchanged two names in one step."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE) == 0


def _certificate(place: Path, dst: Path) -> None:
    """The certificate of a file follows it."""
    new, old = certificate_file.beside(place), certificate_file.beside(dst)
    if new.exists():
        new.rename(old)
    else:
        old.unlink(missing_ok=True)
