"""One step of a run, `RUN/checkpoints/STEP`: what it says of itself, without its arrays.

The folder `state` holds all arrays as Orbax writes them; the file `run/metadata` is JSON under a
digest: the header of the model, and a digest of each array.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_spec import strict_json
from vit_spec.checkpoint import Header
from vit_spec.layout import torch_name
from vit_spec.links import leads_out
from vit_spec.parameters import Shapes, check_shapes, check_size, parameters
from vit_spec.strict_json import shown

STATE = "state"
SEAL = Path("run") / "metadata"
SALTS = (0x9E3779B9, 0x85EBCA6B)
"""Of the two sums of 32 bits that make an array's digest, as JAX has no 64 without x64 mode."""
MIXES = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
"""Shifts and factors of MurmurHash3's finalizer (A. Appleby, public domain), but its last shift."""


class DamageError(ValueError):
    """A checkpoint is not as it was written."""


def is_step(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is one step of a run; `check_files` says whether it can be read."""
    return (Path(path) / STATE).is_dir() and os.path.lexists(Path(path) / SEAL)


def check_files(path: str | os.PathLike[str]) -> None:
    """Raises `DamageError` for what in a step is no file and no folder, or lies elsewhere.

    A reader would wait for a pipe for ever, and take any file of the disk for a part of the model.
    """
    for place in Path(path).rglob("*"):
        if leads_out(place):
            raise DamageError(
                f"{place}: it is a link that leads out of its folder; do not use it; or put the "
                "file itself into the folder"
            )
        if not (place.is_file() or place.is_dir()):
            raise DamageError(
                f"{place}: it is neither a file nor a folder; remove it, or take another step"
            )


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The item `run`, with the digest of its content."""
    return {"body": body, "sha256": _sha256(body)}


def unsealed(content: Any) -> dict[str, Any]:
    """The item `run`. Raises `DamageError` if it is not as written."""
    body = content.get("body") if isinstance(content, dict) else None
    if not isinstance(body, dict):
        raise DamageError("has no content under a digest")
    if content.get("sha256") != _sha256(body):
        raise DamageError("has another digest than that of its content")
    return body


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The item `run` of a step. Raises `DamageError` naming the file."""
    file = Path(path) / SEAL
    try:
        with file.open("rb") as opened:
            run = unsealed(strict_json.loads(opened.read(strict_json.LIMIT + 1)))
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{file} {error}: it is damaged, take another step") from error
    for name in ("header", "digests"):
        if not isinstance(run.get(name), dict):
            raise DamageError(f"{file}: {name} {shown(run.get(name))} must be an object")
    return run


def header_in(run: Mapping[str, Any], path: str | os.PathLike[str]) -> Header:
    """What the model of a step is, of which `run` is the item. Raises `ValueError`."""
    return Header.from_json(json.dumps(run["header"]), where=str(path))


def digests_in(run: Mapping[str, Any], path: Path, part: str, names: Iterable[str]) -> Any:
    """The digest of each array of `part`, by the array's name. Raises `DamageError` without one."""
    found = {name: run["digests"].get(f".{part}[{name!r}]") for name in names}
    if bare := [name for name, digest in found.items() if digest is None]:
        raise DamageError(
            f"{path / SEAL} has no digest of {len(bare)} tensors, first {shown(bare[0])}: it is "
            "damaged, take another step"
        )
    return found


def check_arrays(header: Header, arrays: Mapping[str, tuple[tuple[int, ...], str]], where: str):
    """Raises `ValueError` with all arrays, as (shape, dtype), that are not those of the config.

    Their names and layout are JAX's; the message has PyTorch's.
    """
    found: Shapes = {}
    dtypes: dict[str, str] = {}
    for name, (shape, dtype) in arrays.items():
        new, axes = torch_name(name, len(shape))
        if new in found:
            raise DamageError(f"{where} has two arrays for {new}: take another step")
        found[new], dtypes[new] = tuple(shape[axis] for axis in axes), dtype
    check_size(header.config, found, where=where)
    check_shapes(parameters(header.config), found, where=where, dtypes=dtypes)


def _sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
