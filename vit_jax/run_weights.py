"""The model in a checkpoint of a run: the moving average if there is one, else the parameters."""

import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.checkpoints import DamageError, check_digests, naming_damage, quiet, sealed, unsealed
from vit_jax.digests import digests
from vit_jax.run_folder import CHECKPOINTS
from vit_spec import strict_json
from vit_spec.checkpoint import WEIGHTS, Header, read_header
from vit_spec.layout import State, torch_name
from vit_spec.parameters import Shapes, check_shapes, check_size, parameters
from vit_spec.strict_json import shown


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


def read_run_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and weights, in JAX's names and layout.

    Raises `ValueError` for damage, and before an array is read for all that do not fit the config.
    """
    import orbax.checkpoint as ocp

    quiet()
    path = Path(path).absolute()
    run = _run(path)
    header = _header(run, path)
    with naming_damage(f"{path}"):
        reader = ocp.PyTreeCheckpointer()
        metadata: Any = reader.metadata(path / "state").item_metadata
        saved = metadata.tree
        part = "ema" if saved.get("ema") else "params"
        arrays = {str(name): x for name, x in saved[part].items()}
        shapes = {name: tuple(x.shape) for name, x in arrays.items()}
        kinds = {name: str(np.dtype(x.dtype)) for name, x in arrays.items()}
        chunks = {name: x.storage.chunk_shape for name, x in arrays.items()}
    _check(header, shapes, kinds, where=f"{path}")
    with naming_damage(f"{path}"):
        for name, chunk in chunks.items():  # one is read whole
            if any(map(operator.gt, chunk, shapes[name])):
                raise DamageError(f"{name} is {shapes[name]} in pieces of {chunk}")
        target = {part: {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in arrays.items()}}
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
    return header, state


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
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
        saver.save(Path(path).absolute(), items)


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


def _check(header: Header, shapes: Shapes, kinds: Mapping[str, str], *, where: str) -> None:
    """Raises `ValueError` with all arrays that are not those of the config, in PyTorch's layout."""
    found: Shapes = {}
    names: dict[str, str] = {}
    for name, shape in shapes.items():
        new, axes = torch_name(name, len(shape))
        if new in found:
            raise DamageError(f"{where} has two arrays for {new}: take another step")
        found[new], names[new] = tuple(shape[axis] for axis in axes), name
    check_size(header.config, found, where=where)
    expected, dtypes = parameters(header.config), {new: kinds[n] for new, n in names.items()}
    check_shapes(expected, found, where=where, dtypes=dtypes)


def _header(run: dict[str, Any], path: str | os.PathLike[str]) -> Header:
    return Header.from_json(json.dumps(run["header"]), where=str(path))
