"""A training run between two steps, for both twins: the checkpoint and `training.safetensors`.

`training.safetensors` holds the optimizer's moments, of the parameters and of the kinds that it has
(`vit_spec.groups.moments_of`), and the moving average, as `m.NAME`, `v.NAME` and `ema.NAME`, in
PyTorch's names and layout like the weights. Its metadata holds the step, the
optimizer's settings and a digest of the weights that it belongs to.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from vit_spec import checkpoint, strict_json
from vit_spec.checkpoint import WEIGHTS, Header
from vit_spec.config import ViTConfig
from vit_spec.groups import frozen_names, moments_of
from vit_spec.layout import State
from vit_spec.names import unknown_name
from vit_spec.optim import OptimConfig
from vit_spec.parameters import Shapes, check_shapes, parameters

FORMAT = "vitwin training 2"
TRAINING = "training.safetensors"
LAST_STEP = 2**31 - 1  # Optax counts in int32


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """All that a training run carries from step to step, in PyTorch's names and layout.

    Raises `ValueError` for a step or a setting out of range, for tensors that do not fit the
    config, all in one message, and for tensors of another dtype than their parameter.
    """

    header: Header
    optim: OptimConfig
    step: int  # updates done so far: the position in the schedule, and the optimizer's count
    params: State
    m: State  # the optimizer's first moment
    v: State  # its second moment, if it has one
    ema: State | None = None  # moving average of `params`, if `optim` has an `ema_decay`

    def __post_init__(self) -> None:
        problems = _problems(self.step, dataclasses.asdict(self.optim))
        if problems:
            raise ValueError("; ".join(problems))
        config, tensors = self.header.config, self.tensors()
        _check(parameters(config), self.params, where="the model")
        _check(training_shapes(config, self.optim), tensors, where="the training state")
        for name, array in tensors.items():
            dtype = self.params[name.partition(".")[2]].dtype
            if array.dtype != dtype:
                raise ValueError(
                    f"{name} is {array.dtype} and its parameter {dtype}: cast both to one dtype"
                )

    def tensors(self) -> State:
        """Moments and moving average under the names that they have in the file."""
        trees = {"m": self.m, "v": self.v, "ema": self.ema or {}}
        return {f"{kind}.{name}": a for kind, tree in trees.items() for name, a in tree.items()}


def training_shapes(config: ViTConfig, optim: OptimConfig) -> Shapes:
    """Names and shapes of the tensors in `training.safetensors`."""
    shapes = parameters(config)
    frozen = frozen_names(shapes, optim.freeze)
    found = {
        f"{kind}.{name}": shape
        for kind in ("m", "v")
        for name, shape in shapes.items()
        if name not in frozen and kind in moments_of(name, len(shape), optim)
    }
    averages = {} if optim.ema_decay is None else {f"ema.{n}": s for n, s in shapes.items()}
    return found | averages


def write(path: str | os.PathLike[str], training: TrainingState) -> None:
    """Writes the directory `path`; what was there before stays until all files are complete.

    Raises `OSError` if the disk refuses.
    """
    path = checkpoint.make_directory(path)
    content = {
        "format": FORMAT,
        "step": training.step,
        "optim": dataclasses.asdict(training.optim),
        "weights": digest(training.params),
    }
    metadata = {"format": "pt", "vitwin": json.dumps(content, indent=2) + "\n"}
    with checkpoint.replacing(path / TRAINING) as temporary:
        checkpoint.write_tensors(temporary, training.tensors(), metadata=metadata)
        checkpoint.flush(temporary)
        checkpoint.write(path, training.header, training.params)


def read(path: str | os.PathLike[str]) -> TrainingState:
    """The training state of a checkpoint directory.

    Raises `FileNotFoundError`, or `ValueError` for a damaged file, another format, settings out of
    range, a state of other weights, and missing, extra and wrong-shaped tensors (all in one
    message).
    """
    return read_beside(path, *checkpoint.read(path))


def read_beside(path: str | os.PathLike[str], header: Header, params: State) -> TrainingState:
    """The training state of the directory `path`, whose header and weights have been read."""
    file = _training_file(path)
    step, optim, weights = _read_metadata(file)
    if weights != digest(params):
        raise ValueError(
            f"{file} does not belong to the weights in {WEIGHTS}, which were written at another "
            f"time: copy both from one place, or delete {TRAINING} to start from the weights alone"
        )
    tensors = checkpoint.read_tensors(file)
    _check(training_shapes(header.config, optim), tensors, where=str(file))
    trees: dict[str, State] = {"m": {}, "v": {}, "ema": {}}
    for name, array in tensors.items():
        kind, _, parameter = name.partition(".")
        trees[kind][parameter] = array
    ema = trees.pop("ema") or None
    try:
        return TrainingState(header=header, optim=optim, step=step, params=params, ema=ema, **trees)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def read_progress(path: str | os.PathLike[str]) -> tuple[int, OptimConfig]:
    """Step and optimizer settings of a checkpoint directory, without reading any tensor."""
    step, optim, _ = _read_metadata(_training_file(path))
    return step, optim


def has_training(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a directory that holds a training state."""
    return (Path(path) / TRAINING).is_file()


def digest(params: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(params):
        array = params[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _training_file(path: str | os.PathLike[str]) -> Path:
    if not has_training(path):
        raise FileNotFoundError(
            f"{path} has no {TRAINING}, so no training can go on from it: write it with "
            f"save_training, or load the weights alone with load"
        )
    return Path(path) / TRAINING


def _read_metadata(file: Path) -> tuple[int, OptimConfig, str]:
    """Step, optimizer settings and the digest of the weights."""
    text, where = checkpoint.metadata(file).get("vitwin", "{}"), f"the header of {file}"
    try:
        content = strict_json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    found = content.get("format")
    if found != FORMAT:
        raise ValueError(
            f"{where} has format {found!r}, not {FORMAT!r}: it is not a vitwin training state"
        )
    missing = [name for name in ("step", "optim", "weights") if name not in content]
    if missing:
        raise ValueError(f"{where} lacks the entry {', '.join(map(repr, missing))}")
    try:
        return content["step"], _optim(content["step"], content["optim"]), content["weights"]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _optim(step: Any, fields: Any) -> OptimConfig:
    """The optimizer settings of a header, none left to a default."""
    if not isinstance(fields, dict):
        raise ValueError(f"optim {fields!r} must be an object of optimizer settings")
    known = [f.name for f in dataclasses.fields(OptimConfig)]
    problems = [unknown_name("optimizer setting", n, known) for n in fields if n not in known]
    problems += [f"lacks the optimizer setting {name!r}" for name in known if name not in fields]
    fields = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    problems = problems or _problems(step, dataclasses.asdict(OptimConfig()) | fields)
    if problems:
        raise ValueError("; ".join(problems))
    return OptimConfig(**fields)


def _problems(step: Any, fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with the types of step and settings, and which of them are not finite."""
    found = []
    if not _is_number(step, int) or not 0 <= step <= LAST_STEP:
        found.append(f"step {step!r} must be a whole number from 0 to {LAST_STEP}")
    for name, hint in get_type_hints(OptimConfig).items():
        value, kind = fields[name], int if hint is int else (int, float)
        if get_origin(hint) is tuple:
            if not isinstance(value, tuple) or not all(isinstance(v, str) for v in value):
                found.append(f"{name} {value!r} must be a list of names")
            continue
        if get_origin(hint) is Literal:
            continue  # OptimConfig names the choices
        if _is_number(value, kind) and math.isfinite(value):
            continue
        if value is not None or type(None) not in get_args(hint):
            what = "whole number" if hint is int else "finite number"
            found.append(f"{name} {value!r} must be a {what}")
    return found


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check(expected: Shapes, tensors: State, *, where: str) -> None:
    check_shapes(expected, {name: a.shape for name, a in tensors.items()}, where=where)
