"""The model in a checkpoint of a run: the moving average if there is one, else the parameters."""

import contextlib
import json
import operator
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.checkpoints import (
    PARTIAL,
    DamageError,
    SaveError,
    check_digests,
    naming_damage,
    quiet,
    reason,
    sealed,
    unsealed,
)
from vit_jax.digests import digests
from vit_jax.run_folder import CHECKPOINTS
from vit_spec import strict_json
from vit_spec.checkpoint import WEIGHTS, Header, read_header
from vit_spec.layout import State, torch_name
from vit_spec.parameters import Shapes, check_shapes, check_size, parameters
from vit_spec.strict_json import shown

CLOSED = "Event loop is closed"


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
    return _header(_run(Path(path)), path)


@dataclass(frozen=True)
class RunWeights:
    """The model in a checkpoint of a run, whose arrays are not read yet."""

    path: Path
    header: Header
    part: str  # `ema` or `params`
    others: tuple[str, ...]  # the other parts of the state that are there
    arrays: Mapping[str, jax.ShapeDtypeStruct]  # in JAX's names and layout
    digests: Mapping[str, str]  # of each array, as `digests` names them

    def read(self) -> State:
        """The weights, in JAX's names and layout. Raises `ValueError` for damage."""
        import orbax.checkpoint as ocp

        with naming_damage(f"{self.path}"):
            target = {self.part: dict(self.arrays)}
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
            state = ocp.PyTreeCheckpointer().restore(
                self.path / "state",
                args=ocp.args.PyTreeRestore(
                    item=target, restore_args=arguments, partial_restore=True
                ),
            )[self.part]
            check_digests(state, self.digests, f".{self.part}")
        return state


def open_run_checkpoint(path: str | os.PathLike[str]) -> RunWeights:
    """What the model of a checkpoint of a run is. No array is read.

    Raises `ValueError` for damage, for all arrays that do not fit the config, and for those that
    have no digest.
    """
    import orbax.checkpoint as ocp

    quiet()
    path = Path(path).absolute()
    run = _run(path)
    header = _header(run, path)
    with naming_damage(f"{path}"):
        metadata: Any = ocp.PyTreeCheckpointer().metadata(path / "state").item_metadata
        saved = metadata.tree
        part = "ema" if saved.get("ema") else "params"
        others = tuple(str(name) for name, content in saved.items() if name != part and content)
        found = {str(name): x for name, x in saved[part].items()}
        arrays = {n: jax.ShapeDtypeStruct(x.shape, np.dtype(x.dtype)) for n, x in found.items()}
        chunks = {name: x.storage.chunk_shape for name, x in found.items()}
    _check(header, arrays, where=f"{path}")
    with naming_damage(f"{path}"):
        for name, chunk in chunks.items():  # one is read whole
            if any(map(operator.gt, chunk, arrays[name].shape)):
                raise DamageError(f"{name} is {arrays[name].shape} in pieces of {chunk}")
    if bare := [n for n in arrays if f".{part}[{n!r}]" not in run["digests"]]:
        raise DamageError(
            f"{path / 'run' / 'metadata'} has no digest of {len(bare)} tensors, first "
            f"{shown(bare[0])}: it is damaged, take another step"
        )
    expected = {n: d for n, d in run["digests"].items() if n.startswith(f".{part}[")}
    return RunWeights(path, header, part, others, arrays, expected)


def read_run_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and weights, in JAX's names and layout. Raises what both steps do."""
    found = open_run_checkpoint(path)
    return found.header, found.read()


def write_run_checkpoint(path: str | os.PathLike[str], header: Header, state: State) -> None:
    """Writes weights, in JAX's names and layout, as one step of a run that has nothing else.

    Nothing may be at `path`. Raises `OSError` if the disk refuses.
    """
    import orbax.checkpoint as ocp

    quiet()
    body = {
        "header": json.loads(header.to_json()),
        "digests": {f".params{name}": digest for name, digest in digests(state).items()},
    }
    items = ocp.args.Composite(
        state=ocp.args.StandardSave({"params": state}), run=ocp.args.JsonSave(sealed(body))
    )
    try:
        with _heard_once(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
            saver.save(Path(path).absolute(), items)
    except (OSError, ValueError, RuntimeError) as error:
        _remove(Path(f"{os.fspath(path)}{PARTIAL}"))
        raise SaveError(f"the weights were not saved for Orbax: {reason(error)}") from error


@contextlib.contextmanager
def _heard_once() -> Iterator[None]:
    """Nothing but the error of a save that fails.

    Of several arrays that fail, Orbax raises the first error and closes its event loop. The others
    then print that it is closed, and may do so after the block: what drops that stays in place.
    """
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == CLOSED):
            before(found)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before


def _remove(folder: Path) -> None:
    """Until nothing comes back for a second: TensorStore's threads write on after a failure."""
    since = start = time.monotonic()
    while since < start + 20 and time.monotonic() < since + 1:
        if folder.exists():
            since = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def _run(path: Path) -> dict[str, Any]:
    """What a step says of itself. Raises `DamageError` naming the file."""
    file = path / "run" / "metadata"
    try:
        with file.open("rb") as opened:
            run = unsealed(strict_json.loads(opened.read(strict_json.LIMIT + 1)))
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{file} {error}: it is damaged, take another step") from error
    for name in ("header", "digests"):
        if not isinstance(run.get(name), dict):
            raise DamageError(f"{file}: {name} {shown(run.get(name))} must be an object")
    return run


def _check(header: Header, arrays: Mapping[str, jax.ShapeDtypeStruct], *, where: str) -> None:
    """Raises `ValueError` with all arrays that are not those of the config, in PyTorch's layout."""
    found: Shapes = {}
    dtypes: dict[str, str] = {}
    for name, array in arrays.items():
        new, axes = torch_name(name, len(array.shape))
        if new in found:
            raise DamageError(f"{where} has two arrays for {new}: take another step")
        found[new], dtypes[new] = tuple(array.shape[axis] for axis in axes), str(array.dtype)
    check_size(header.config, found, where=where)
    check_shapes(parameters(header.config), found, where=where, dtypes=dtypes)


def _header(run: dict[str, Any], path: str | os.PathLike[str]) -> Header:
    return Header.from_json(json.dumps(run["header"]), where=str(path))
