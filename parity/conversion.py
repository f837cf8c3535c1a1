"""The certificate of a conversion: which files, and that every tensor is bit for bit the same."""

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity import containers, foreign, orbax
from parity.certificate import sha256
from parity.certificate_file import FORMAT, PARTS, file_name
from parity.changing import Change, fields
from parity.changing import changed as altered_config
from parity.choice import ANY, Choice
from parity.containers.blocks import bytes_of, same_bytes
from parity.containers.names import BESIDE
from parity.containers.shards import shard_names
from parity.environment import now, versions
from parity.formats import FOREIGN
from parity.formats.kept import lost
from vit_spec import Header, training_state
from vit_spec.names import plain
from vit_spec.training_state import digest

PACKAGES = ("numpy", "ml_dtypes", "safetensors")
LIMIT = 4  # differences that a message names


def compared(
    src: Path,
    dst: Path,
    formats: tuple[str, str],
    header: Header,
    *,
    at: Path,
    training: bool,
    notes: list[str],
    changed: list[str],
    choice: Choice = ANY,
    change: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads the target back, compares it with the source, and returns the certificate.

    Its `same_bits` is false where a dtype had to be widened, which keeps the values, and where two
    tensors become their sum. Its `state_sha256` is of the target's own names. Its `remarks` are
    `notes`, what stays behind, what the target does otherwise where its outputs at the native size
    are the same, and these changes.

    Args:
        formats: of source and target.
        at: where the target lies now, before it takes its place `dst`.
        training: whether a training state went along.
        notes: of the conversion, but for `changed`.
        changed: how its bits are not those of the source, of `changes`.
        choice: which tensors of the source are the model.
        change: what was changed on request, as in the certificate.

    Raises `OSError` if the target does not hold the same tensors, or the disk refuses.
    """
    if set(formats) <= set(foreign.OURS):
        parts = {"weights", "training"} if training else {"weights"}
        problems, found, counts = _same_names(src, at, parts)
        more, files = {"header": header.to_json()} if change else {}, parts
    else:
        problems, found, count = read_back(src, at, formats, header, choice, fields(change))
        counts, files = {"weights": count}, {"weights"}
        more = {"header": header.to_json()}
    if problems:
        raise OSError(
            f"{dst} was written and reads back other than {src} ({some(problems)}): the disk is "
            "faulty or something else writes there; nothing was replaced: convert to another place"
        )
    chosen = {} if choice == ANY else {"taken": choice.to_dict()}
    return {
        "format": FORMAT,
        "kind": "conversion",
        "source": _files(src, formats[0], files, src) | chosen,
        "target": _files(at, formats[1], files, dst),
        "config": altered_config(header.config, fields(change)).to_dict(),
        "tensors": counts,
        "same_bits": not changed,
        "state_sha256": found,
        "remarks": [*notes, *changed],
        **more,
        **({"change": change} if change else {}),
        "versions": versions(PACKAGES),
        "date": now(),
    }


def remarks(
    src: Path, formats: tuple[str, str], opened: foreign.Source, *, training: bool
) -> list[str]:
    """What is not the same for who reads the target, though its outputs are: what is left out.

    `formats` are of source and target; `training` says whether a training state goes along.
    """
    target = formats[1]
    found = lost(opened.header, FOREIGN[target]) if target in FOREIGN else []
    found += opened.left_out
    if not training and training_state.has_training(src):
        found.append("the training state stays behind: the weights alone are converted")
    return found


def changes(source: foreign.Source, target: foreign.Target) -> list[str]:
    """How the bits of the target are not those of the source, where it computes the same."""
    found, wide = [], {**source.widened, **target.widened}
    summed = list(dict.fromkeys([*source.summed(), *target.summed()]))
    if wide:
        some = [f"{name} to {kind}" for name, kind in list(wide.items())[:3]]
        found.append(
            f"{len(wide)} tensors are widened, without loss, as the target joins them with wider "
            f"ones: {', '.join(some)}{', ...' if len(wide) > 3 else ''}"
        )
    if summed:
        found.append(
            f"the target has sums of values of {', '.join(summed)}, rounded to their dtype: no way "
            "back takes them apart again"
        )
    if target.dropped:
        found.append(
            f"{', '.join(target.dropped)} of the source, of training alone and not zero, has no "
            "place in the target and was left out: a way back writes zeros"
        )
    return found


def read_back(
    src: Path,
    dst: Path,
    formats: tuple[str, str],
    header: Header | None,
    choice: Choice = ANY,
    change: Change | None = None,
) -> tuple[list[str], str, int]:
    """Differences of the target from what the source becomes, the target's digest, its tensors."""
    problems, digested = [], hashlib.sha256()
    with (
        foreign.opened_as(src, formats[0], header, choice=choice) as source,
        reading(dst, "weights") as found,
    ):
        target = foreign.planned(foreign.altered(source, change or {}), formats[1])
        problems += [f"{n} is missing" for n in target.infos if n not in found]
        problems += [f"{n} is extra" for n in found if n not in target.infos]
        for name in target.infos:
            if name not in found:
                continue
            ours, theirs = target.read(name), found[name]
            digested.update(f"{name} {theirs.dtype} {theirs.shape}\n".encode())
            digested.update(bytes_of(theirs).data)
            if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
                kinds = f"{theirs.dtype} {theirs.shape}, not {ours.dtype} {ours.shape}"
                problems.append(f"{name} is {kinds}")
            elif not same_bytes(ours, theirs):
                problems.append(f"{name} has other values")
    return problems, digested.hexdigest(), len(target.infos)


def _same_names(src: Path, dst: Path, parts: set[str]) -> tuple[list[str], str, dict[str, int]]:
    """Differences of each part, the digest of the target's weights, and how many tensors it has."""
    counts: dict[str, int] = {}
    problems: list[str] = []
    for part in sorted(parts, reverse=True):
        with reading(src, part) as ours, reading(dst, part) as theirs:
            problems += differences(ours, theirs)
            counts[part] = len(theirs)
    with reading(dst, "weights") as weights:
        return problems, digest(weights), counts


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, names: Collection[str], read: Callable[[str], np.ndarray]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextlib.contextmanager
def reading(path: Path, part: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The tensors `weights` or `training` of a checkpoint, one at a time."""
    if part == "weights" and orbax.is_step(path):
        step = orbax.opened(path)
        yield Tensors(step.dtypes, step.read)
        return
    with containers.opened(file_of(path, part)) as opened:
        yield Tensors(opened.tensors, opened.read)


def differences(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> list[str]:
    """The tensors that are not bit for bit the same, with what is different."""
    found = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if a is None or b is None:
            found.append(f"{name} is {'extra' if a is None else 'missing'}")
        elif a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{name} is {b.dtype} {b.shape}, not {a.dtype} {a.shape}")
        elif not same_bytes(a, b):
            found.append(f"{name} has other values")
    return found


def some(problems: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(problems) - LIMIT} more" if len(problems) > LIMIT else ""
    return "; ".join(map(plain, problems[:LIMIT])) + more


def file_of(path: Path, part: str) -> Path:
    """One file of a checkpoint; of a run's step the one with the digests of its tensors."""
    if part == "weights" and orbax.is_step(path):
        return path / orbax.SEAL
    if part == "weights" and path.is_dir() and not (path / PARTS[part]).is_file():
        return foreign.weights_file(path)
    if part == "weights" and not path.is_dir():
        return path
    return (path if path.is_dir() else path.parent) / (file_name(part) or part)


def _files(path: Path, kind: str, parts: set[str], place: Path) -> dict[str, Any]:
    """The entry of a checkpoint at `path`, whose place is or will be `place`.

    It has the digests of `parts` and of the JSON files that the format reads.
    """
    said = ("config", *BESIDE) if kind in FOREIGN else ("config", "aside") if path.is_dir() else ()
    names = [p for p in PARTS if p in parts or (p in said and file_of(path, p).is_file())]
    names += [name for name in shard_names(file_of(path, "weights")) if file_name(name)]
    digests = {part: sha256(file_of(path, part)) for part in names}
    return {"path": place.as_posix(), "format": kind, "sha256": digests}
