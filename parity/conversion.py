"""The certificate of a conversion: which files, and that every tensor is bit for bit the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity import foreign
from parity.certificate import sha256
from parity.certificate_file import FORMAT, PARTS, beside, write
from parity.environment import now, versions
from vit_spec import Header, checkpoint
from vit_spec.layout import State
from vit_spec.training_state import digest

PACKAGES = ("numpy", "ml_dtypes", "safetensors")
LIMIT = 4  # differences that a message names


def certify(
    src: Path,
    dst: Path,
    formats: tuple[str, str],
    header: Header,
    states: Mapping[str, State],
    more: Mapping[str, Any],
) -> Path:
    """Reads the target back, compares it with what was read, and writes the certificate beside it.

    Args:
        formats: of source and target.
        states: the tensors that were read from the source, `weights` and perhaps `training`.
        more: entries of the certificate, such as `outputs`.

    Raises `OSError` if the target does not hold the same tensors, or the disk refuses.
    """
    for part, state in states.items():
        problems = differences(state, read(dst, part))
        if problems:
            raise OSError(
                f"{dst} was written and reads back other than {src} ({some(problems)}): the disk "
                "is faulty or something else writes there; convert again to another place"
            )
    parts = set(states) | {"config"}
    path = beside(dst)
    write(
        path,
        {
            "format": FORMAT,
            "kind": "conversion",
            "source": _files(src, formats[0], parts),
            "target": _files(dst, formats[1], parts),
            "config": header.config.to_dict(),
            "tensors": {part: len(state) for part, state in states.items()},
            "same_bits": True,
            "state_sha256": digest(states["weights"]),
            **more,
            "versions": versions(PACKAGES),
            "date": now(),
        },
    )
    return path


def certify_foreign(
    src: Path, dst: Path, formats: tuple[str, str], header: Header, more: Mapping[str, Any]
) -> Path:
    """The same for formats of others: what the source becomes is compared with the target.

    `state_sha256` is of the target's own names. `remarks` are what the target does otherwise where
    its outputs at the native size are the same.
    """
    problems, digest, count = foreign.compared(src, dst, formats, header)
    if problems:
        raise OSError(
            f"{dst} was written and reads back other than {src} ({some(problems)}): the disk "
            "is faulty or something else writes there; convert again to another place"
        )
    path = beside(dst)
    write(
        path,
        {
            "format": FORMAT,
            "kind": "conversion",
            "source": _files(src, formats[0], {"weights"}),
            "target": _files(dst, formats[1], {"weights"}),
            "config": header.config.to_dict(),
            "header": header.to_json(),
            "tensors": {"weights": count},
            "same_bits": True,
            "state_sha256": digest,
            "remarks": foreign.remarks(src, header, *formats),
            **more,
            "versions": versions(PACKAGES),
            "date": now(),
        },
    )
    return path


def differences(one: State, other: State) -> list[str]:
    """The tensors that are not bit for bit the same, with what is different."""
    found = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if a is None or b is None:
            found.append(f"{name} is {'extra' if a is None else 'missing'}")
        elif a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{name} is {b.dtype} {b.shape}, not {a.dtype} {a.shape}")
        elif np.ascontiguousarray(a).tobytes() != np.ascontiguousarray(b).tobytes():
            found.append(f"{name} has other values")
    return found


def some(problems: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(problems) - LIMIT} more" if len(problems) > LIMIT else ""
    return "; ".join(problems[:LIMIT]) + more


def read(path: Path, part: str) -> State:
    """The tensors `weights` or `training` of a checkpoint."""
    return checkpoint.read_tensors(file_of(path, part))


def file_of(path: Path, part: str) -> Path:
    """One file of a checkpoint."""
    if part == "weights" and path.is_dir() and not (path / PARTS[part]).is_file():
        return foreign.weights_file(path)
    return path / PARTS[part] if path.is_dir() else path


def _files(path: Path, kind: str, parts: set[str]) -> dict[str, Any]:
    names = [p for p in PARTS if p in parts] if path.is_dir() else ["weights"]
    digests = {part: sha256(file_of(path, part)) for part in names}
    return {"path": path.as_posix(), "format": kind, "sha256": digests}
