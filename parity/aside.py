"""Tensors that a file has and no model of ours: kept beside it where there is room.

They are those of training alone, such as the token of masked training. No output depends on them.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from parity.certificate_file import ASIDE
from parity.formats.table import Aside, Line
from vit_spec import checkpoint

FILE = ASIDE
"""In a directory of ours, beside the weights. Neither twin reads it."""
NAMES = ("mask_token",)

Kept = Mapping[str, np.ndarray]


def of_lines(lines: Iterable[Line], read: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """The values (n,) of those tensors of a file that are not zero, by our name."""
    found = {}
    for line in lines:
        if isinstance(line.op, Aside):
            values = read(line.theirs[0]).reshape(-1)
            if values.any():
                found[line.op.name] = values
    return found


def of_directory(path: Path) -> dict[str, np.ndarray]:
    """What lies beside the weights of a directory of ours. Raises `ValueError` if it is damaged."""
    file = path / FILE
    if not path.is_dir() or not file.is_file():
        return {}
    found = checkpoint.read_tensors(file)
    if odd := [name for name, values in found.items() if name not in NAMES or values.ndim != 1]:
        raise ValueError(
            f"{file} holds {odd[0]!r}, where only {', '.join(NAMES)} may be: remove the file"
        )
    return found


def write(path: Path, kept: Kept) -> None:
    """Writes them into a directory of ours, if there are any."""
    if kept:
        with checkpoint.replacing(path / FILE) as temporary:
            checkpoint.write_tensors(temporary, dict(kept), metadata={"format": "pt"})


def placed(lines: Iterable[Line], kept: Kept) -> dict[str, np.ndarray]:
    """The name in the target of each that its table has room for, and its values in that shape."""
    found = {}
    for line in lines:
        if isinstance(line.op, Aside) and line.op.name in kept:
            (zeros,) = line.op.to_jax(())
            values = kept[line.op.name]
            if zeros.size == values.size:
                found[line.theirs[0]] = values.reshape(zeros.shape)
    return found
