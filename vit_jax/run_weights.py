"""The model in a checkpoint of a run: the moving average if there is one, else the parameters."""

import operator
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.checkpoints import check_digests, naming_damage, quiet
from vit_jax.run_folder import CHECKPOINTS
from vit_spec.checkpoint import WEIGHTS, Header, read_header
from vit_spec.layout import State
from vit_spec.run_step import (
    STATE,
    DamageError,
    check_arrays,
    digests_in,
    header_in,
    is_step,
    read_run,
)


def newest(path: str | os.PathLike[str]) -> Path:
    """Of a run's folder: itself if it has the finished model, else its newest checkpoint.

    A checkpoint is returned as it is. Raises `FileNotFoundError` if there is neither.
    """
    path = Path(path)
    if (path / WEIGHTS).is_file() or is_step(path):
        return path
    steps = [p for p in path.glob(f"{CHECKPOINTS}/*") if p.name.isdigit() and is_step(p)]
    if not steps:
        raise FileNotFoundError(f"{path} has neither {WEIGHTS} nor a checkpoint: train first")
    return max(steps, key=lambda p: int(p.name))


def header_of(path: str | os.PathLike[str]) -> Header:
    """What the model of a checkpoint of a run, or of a finished run, is. Raises `ValueError`."""
    if not is_step(path):
        return read_header(path)
    return header_in(read_run(path), path)


def read_run_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and weights, in JAX's names and layout.

    Raises `ValueError` for damage, for all arrays that do not fit the config, and for those that
    have no digest, before an array is read.
    """
    import orbax.checkpoint as ocp

    quiet()
    path = Path(path).absolute()
    run = read_run(path)
    header = header_in(run, path)
    with naming_damage(f"{path}"):
        metadata: Any = ocp.PyTreeCheckpointer().metadata(path / STATE).item_metadata
        saved = metadata.tree
        part = "ema" if saved.get("ema") else "params"
        found = {str(name): x for name, x in saved[part].items()}
        arrays = {n: jax.ShapeDtypeStruct(x.shape, np.dtype(x.dtype)) for n, x in found.items()}
        chunks = {name: x.storage.chunk_shape for name, x in found.items()}
    kinds = {n: (x.shape, str(x.dtype)) for n, x in arrays.items()}
    check_arrays(header, kinds, where=f"{path}")
    expected = digests_in(run, path, part, arrays)
    with naming_damage(f"{path}"):
        for name, chunk in chunks.items():  # one is read whole
            if any(map(operator.gt, chunk, arrays[name].shape)):
                raise DamageError(f"{name} is {arrays[name].shape} in pieces of {chunk}")
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), arrays)
        state = ocp.PyTreeCheckpointer().restore(
            path / STATE,
            args=ocp.args.PyTreeRestore(
                item={part: arrays}, restore_args={part: arguments}, partial_restore=True
            ),
        )[part]
        check_digests(state, {f"[{name!r}]": digest for name, digest in expected.items()})
    return header, state
