"""Orbax: one step of a training run, `RUN/checkpoints/STEP`, or weights alone in the same form.

It is read if its arrays fit the config, and its digests are compared.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from parity.containers.files import check_link
from vit_spec import Header
from vit_spec.layout import State, to_jax_layout, to_torch_layout

FORMAT = "orbax"
ABOUT = "Orbax directory that vit_jax.load takes: weights, or a step of a run, RUN/checkpoints/STEP"
SEAL = Path("run") / "metadata"  # has a digest of every tensor


def is_step(path: Path) -> bool:
    """Whether a directory is one step of a run. No framework is imported."""
    return (path / "state").is_dir() and (path / SEAL).is_file()


def read(path: Path) -> tuple[Header, State]:
    """Header and weights in PyTorch's layout. Raises `ValueError` for damage and for links."""
    if not is_step(path):
        raise ValueError(
            f"{path} is no step of a training run, which has the folders state and run: give "
            "RUN/checkpoints/STEP"
        )
    for file in path.rglob("*"):
        check_link(file)
    with _needed(path):
        from vit_jax.run_weights import read_run_checkpoint

        header, state = read_run_checkpoint(path)
    return header, to_torch_layout(state)


def write(path: Path, header: Header, state: State) -> None:
    """Writes weights in PyTorch's layout where nothing is. All of them are in memory at once."""
    with _needed(path):
        from vit_jax.api import names_of
        from vit_jax.run_weights import write_run_checkpoint

        write_run_checkpoint(path, header, to_jax_layout(state, names_of(header.config)))


@contextlib.contextmanager
def _needed(path: Path) -> Iterator[None]:
    """Says what to install where JAX or Orbax is not."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is of Orbax, which needs {error.name}: pip install 'vitwin[jax,train]'"
        ) from error
