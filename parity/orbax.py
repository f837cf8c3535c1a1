"""Orbax: one step of a training run, `RUN/checkpoints/STEP`, or weights alone in the same form.

It is read if its arrays fit the config, and its digests are compared.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.containers.files import broken, check_link
from parity.containers.writing import flush_directory
from vit_spec import Header
from vit_spec.checkpoint import flush
from vit_spec.layout import State, to_jax_layout, to_torch_layout, torch_name
from vit_spec.strict_json import shown

FORMAT = "orbax"
ABOUT = "Orbax directory that vit_jax.load takes: weights, or a step of a run, RUN/checkpoints/STEP"
SEAL = Path("run") / "metadata"  # has a digest of every tensor
PARTS = {
    "params": "parameters",
    "ema": "moving average",
    "opt_state": "state of the optimizer",
    "step": "number of the step",
}
SHOWN = 6  # parts that a note names


def is_step(path: Path) -> bool:
    """Whether a directory is one step of a run. No framework is imported."""
    return (path / "state").is_dir() and (path / SEAL).is_file()


@dataclass(frozen=True)
class Opened:
    """Weights in PyTorch's layout, all of which are read with the first one."""

    header: Header
    dtypes: dict[str, np.dtype]
    read: Callable[[str], np.ndarray]
    notes: list[str]  # what of a step is taken, and what is not


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A step whose arrays fit its config, and are held until the block ends.

    Raises `BrokenFile` for links out of it and for what is neither file nor folder, `ValueError`
    for other damage.
    """
    _check(path)
    with _needed(path):
        from vit_jax.run_weights import open_run_checkpoint

        found = open_run_checkpoint(path)
    kinds = {n: (len(x.shape), np.dtype(x.dtype)) for n, x in found.arrays.items()}
    held: State = {}

    def read(name: str) -> np.ndarray:
        if not held:
            held.update(to_torch_layout(found.read()))
        return held[name]

    try:
        yield Opened(
            found.header,
            {torch_name(name, rank)[0]: kind for name, (rank, kind) in kinds.items()},
            read,
            [_taken(found.part, found.others)] if found.others else [],
        )
    finally:
        held.clear()


def read(path: Path) -> tuple[Header, State]:
    """Header and weights in PyTorch's layout. Raises what `opened` does."""
    with opened(path) as found:
        return found.header, {name: found.read(name) for name in found.dtypes}


def header_of(path: Path) -> Header:
    """What the model is. Raises `ValueError` for damage and for links."""
    _check(path)
    with _needed(path):
        from vit_jax import run_weights

        return run_weights.header_of(path)


def write(path: Path, header: Header, state: State) -> None:
    """Writes weights in PyTorch's layout where nothing is, and waits for the disk.

    All of them are in memory, and Orbax copies them. Raises `OSError` if the disk refuses.
    """
    with _needed(path):
        from vit_jax.api import names_of
        from vit_jax.run_weights import write_run_checkpoint

        write_run_checkpoint(path, header, to_jax_layout(state, names_of(header.config)))
    for place in (path, *path.rglob("*")):  # Orbax itself waits for the arrays alone
        (flush_directory if place.is_dir() else flush)(place)


def _check(path: Path) -> None:
    """Raises `ValueError` unless it is a step of files and folders, none of them elsewhere."""
    if not is_step(path):
        raise ValueError(
            f"{path} is no step of a training run, which has the folders state and run: give "
            "RUN/checkpoints/STEP"
        )
    for place in path.rglob("*"):
        check_link(place)
        if not (place.is_file() or place.is_dir()):  # a reader would wait for a pipe
            raise broken(
                place, "it is neither a file nor a folder", "remove it, or take another step"
            )


def _taken(part: str, others: Sequence[str]) -> str:
    """The note about the parts of a step."""
    left = [PARTS.get(name) or shown(name) for name in others[:SHOWN]]
    more = ", ..." if len(others) > SHOWN else ""
    return (
        f"the weights are the {PARTS[part]} of this step of a run; what stays behind: "
        f"{', '.join(left)}{more}"
    )


@contextlib.contextmanager
def _needed(path: Path) -> Iterator[None]:
    """Says what to install where JAX or Orbax is not."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is of Orbax, which needs {error.name}: pip install 'vitwin[jax,train]'"
        ) from error
