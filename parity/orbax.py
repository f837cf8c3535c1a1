"""One step of a training run, `RUN/checkpoints/STEP`, as a source of a conversion.

It is read by Orbax, if its arrays fit the config, and its digests are compared. Only `train.py`
writes it.
"""

from pathlib import Path

from parity.containers.files import check_link
from vit_spec import Header
from vit_spec.layout import State, to_torch_layout

FORMAT = "orbax"
ABOUT = "one step of a training run, RUN/checkpoints/STEP: its moving average or parameters (read)"
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
    try:
        from vit_jax.run_weights import read_run_checkpoint
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is of Orbax, which needs {error.name}: pip install 'vitwin[jax,train]'"
        ) from error
    for file in path.rglob("*"):
        check_link(file)
    header, state = read_run_checkpoint(path)
    return header, to_torch_layout(state)
