"""Orbax: one step of a training run, `RUN/checkpoints/STEP`, or weights alone in the same form.

It is read if its arrays fit the config, and its digests are compared.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.files import BrokenFile
from parity.containers.info import DTYPES
from parity.orbax.writing import write
from vit_spec import Header
from vit_spec.extras import install
from vit_spec.layout import State, torch_name
from vit_spec.run_step import (
    SEAL,
    STATE,
    DamageError,
    check_arrays,
    check_files,
    digests_in,
    header_in,
    is_step,
    read_run,
)
from vit_spec.strict_json import shown

__all__ = [
    "ABOUT",
    "FORMAT",
    "SEAL",
    "Opened",
    "header_of",
    "is_step",
    "is_tree",
    "opened",
    "read",
    "write",
]

FORMAT = "orbax"
ABOUT = "Orbax directory that vit_jax.load takes: weights, or a step of a run, RUN/checkpoints/STEP"
PARTS = {
    "params": "parameters",
    "ema": "moving average",
    "opt_state": "state of the optimizer",
    "step": "number of the step",
}
SHOWN = 6  # parts that a note names


@dataclass(frozen=True)
class Opened:
    """Weights in PyTorch's layout, each of which is read when it is asked for."""

    header: Header
    dtypes: dict[str, np.dtype]
    read: Callable[[str], np.ndarray]
    notes: list[str]  # what of a step is taken, and what is not


def opened(path: Path) -> Opened:
    """A step whose arrays fit its config.

    Raises `BrokenFile` for links out of it, for what is neither file nor folder, and for values
    that are not as saved; `ValueError` for other damage, and for all arrays that do not fit.
    """
    run, header = _described(path)
    with needed(path):
        from parity.orbax.arrays import Arrays

        arrays = Arrays(path / STATE)
    infos = {name: array.info for name, array in arrays.declared.items()}
    with _damage():
        check_arrays(header, {n: (info.shape, info.dtype) for n, info in infos.items()}, str(path))
        arrays.check()
        digests = digests_in(run, path, arrays.saved.part, infos)
    names = {torch_name(name, len(info.shape))[0]: name for name, info in infos.items()}

    def read(name: str) -> np.ndarray:
        array = arrays.read(names[name], digests[names[name]])
        return array.transpose(torch_name(names[name], array.ndim)[1])

    others = arrays.saved.others
    return Opened(
        header,
        {new: DTYPES[infos[name].dtype] for new, name in names.items()},
        read,
        [_taken(arrays.saved.part, others)] if others else [],
    )


def is_tree(path: Path) -> bool:
    """Whether another program wrote the folder: a tree of arrays, and no step of a run."""
    from parity.orbax import trees

    return not is_step(path) and trees.is_tree(path)


def read(path: Path) -> tuple[Header, State]:
    """Header and weights in PyTorch's layout. Raises what `opened` does."""
    found = opened(path)
    return found.header, {name: found.read(name) for name in found.dtypes}


def header_of(path: Path) -> Header:
    """What the model is. Raises `ValueError` for damage and for links."""
    return _described(path)[1]


def _described(path: Path) -> tuple[dict[str, Any], Header]:
    """What a step says of itself, and of its model."""
    _check(path)
    with _damage():
        run = read_run(path)
        return run, header_in(run, path)


def _check(path: Path) -> None:
    """Raises `ValueError` unless it is a step of files and folders, none of them elsewhere."""
    if not is_step(path):
        raise ValueError(
            f"{path} is no step of a training run, which has the folders state and run: give "
            "RUN/checkpoints/STEP"
        )
    with _damage():
        check_files(path)


def _taken(part: str, others: Sequence[str]) -> str:
    """The note about the parts of a step."""
    left = [PARTS.get(name) or shown(name) for name in others[:SHOWN]]
    more = ", ..." if len(others) > SHOWN else ""
    return (
        f"the weights are the {PARTS[part]} of this step of a run; what stays behind: "
        f"{', '.join(left)}{more}"
    )


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Gives damage the class that it has in every format."""
    try:
        yield
    except DamageError as error:
        raise BrokenFile(str(error)) from error


@contextlib.contextmanager
def needed(path: Path) -> Iterator[None]:
    """Says what to install where TensorStore is not."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is of Orbax, which needs {error.name}: {install('orbax')}"
        ) from error
