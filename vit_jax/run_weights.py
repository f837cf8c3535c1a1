"""The model in a checkpoint of a run: the moving average if there is one, else the parameters."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.checkpoints import check_digests, naming_damage, quiet, unsealed
from vit_jax.run_folder import CHECKPOINTS
from vit_spec.checkpoint import WEIGHTS, Header, read_header
from vit_spec.layout import State


def is_run_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is one step of a run, as `Checkpoints` writes it."""
    return (Path(path) / "state").is_dir() and (Path(path) / "run" / "metadata").is_file()


def newest(path: str | os.PathLike[str]) -> Path:
    """Of a run's folder: itself if it has the finished model, else its newest checkpoint.

    A checkpoint is returned as it is. Raises `FileNotFoundError` if there is neither.
    """
    path = Path(path)
    if (path / WEIGHTS).is_file() or is_run_checkpoint(path):
        return path
    steps = [p for p in path.glob(f"{CHECKPOINTS}/*") if p.name.isdigit() and is_run_checkpoint(p)]
    if not steps:
        raise FileNotFoundError(f"{path} has neither {WEIGHTS} nor a checkpoint: train first")
    return max(steps, key=lambda p: int(p.name))


def header_of(path: str | os.PathLike[str]) -> Header:
    """What the model of a checkpoint of a run, or of a finished run, is. Raises `ValueError`."""
    if not is_run_checkpoint(path):
        return read_header(path)
    with naming_damage(f"{path}"):
        return _header(_run(Path(path)), path)


def read_run_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and weights, in JAX's names and layout. Raises `ValueError` for damage."""
    import orbax.checkpoint as ocp

    quiet()
    path = Path(path).absolute()
    with naming_damage(f"{path}"):
        run = _run(path)
        reader = ocp.PyTreeCheckpointer()
        metadata: Any = reader.metadata(path / "state").item_metadata
        saved = metadata.tree
        part = "ema" if saved.get("ema") else "params"
        target = {part: {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in saved[part].items()}}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        state = reader.restore(
            path / "state",
            args=ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True),
        )[part]
        check_digests(
            state,
            {n: d for n, d in run["digests"].items() if n.startswith(f".{part}[")},
            f".{part}",
        )
    return _header(run, path), state


def _run(path: Path) -> dict[str, Any]:
    return unsealed(json.loads((path / "run" / "metadata").read_text()))


def _header(run: dict[str, Any], path: str | os.PathLike[str]) -> Header:
    return Header.from_json(json.dumps(run["header"]), where=str(path))
