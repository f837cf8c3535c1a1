"""The model in a checkpoint of a run: the moving average if there is one, else the parameters."""

import contextlib
import operator
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints import check_digests
from vit_jax.run_folder import CHECKPOINTS
from vit_spec.checkpoint import WEIGHTS, Header, read_header
from vit_spec.layout import State
from vit_spec.names import printable
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

ARRAY = re.compile(r"\.(ema|params)\['(\w[\w.]{0,200})'\]", re.ASCII)
"""How the digests of a step name an array of the model."""


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
    return _described(Path(path))[1] if is_step(path) else read_header(path)


def read_run_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and weights, in JAX's names and layout.

    Raises `ValueError` for damage, for links out of the step, for all arrays that do not fit the
    config, and for those that have no digest, before an array is read.
    """
    path = Path(path).absolute()
    run, header = _described(path)
    part, names = _arrays_in(run, path)
    with _naming(path / STATE):
        arrays = {name: _opened(path / STATE, f"{part}.{name}") for name in names}
    kinds = {n: (tuple(a.shape), a.dtype.name) for n, a in arrays.items()}
    check_arrays(header, kinds, where=f"{path}")
    expected = digests_in(run, path, part, names)
    with _naming(path / STATE):
        for name, array in arrays.items():  # a piece is read whole
            chunk = array.chunk_layout.read_chunk.shape
            if any(map(operator.gt, chunk, array.shape)):
                raise DamageError(f"{name} is {tuple(array.shape)} in pieces of {chunk}")
        reads = {name: array.read() for name, array in arrays.items()}
        state = {name: np.asarray(read.result()) for name, read in reads.items()}
        check_digests(state, {f"[{name!r}]": digest for name, digest in expected.items()})
    return header, state


def _described(path: Path) -> tuple[dict[str, Any], Header]:
    """What a step says of itself, and of its model."""
    check_files(path)
    run = read_run(path)
    return run, header_in(run, path)


def _arrays_in(run: Mapping[str, Any], path: Path) -> tuple[str, list[str]]:
    """The part of a step that has the weights, and the names of its arrays."""
    found: dict[str, list[str]] = {"ema": [], "params": []}
    for key in run["digests"]:
        if match := ARRAY.fullmatch(key):
            found[match[1]].append(match[2])
    part = "ema" if found["ema"] else "params"
    if not found[part]:
        raise DamageError(f"{path / SEAL} names no arrays: it is damaged, take another step")
    return part, found[part]


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Whatever reading raises is damage, named with its folder; but not the lack of permission."""
    try:
        yield
    except (PermissionError, MemoryError, ImportError):
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
        text = printable(text.replace(f"{os.path.realpath(folder)}/", ""))[:300]
        raise DamageError(f"{folder}: {text}: it is damaged, take another step") from error


def _opened(folder: Path, name: str) -> Any:
    """An array as Orbax writes it, by TensorStore itself.

    Orbax reads as well, but leaves threads that print tracebacks when an array is damaged.
    """
    import tensorstore as ts

    store: dict[str, Any] = {"driver": "file", "path": f"{os.path.realpath(folder)}/"}
    if (folder / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": store}
    store["path"] = f"{store.get('path', '')}{name}/"
    return ts.open({"driver": "zarr", "kvstore": store}, open=True, read=True).result()
