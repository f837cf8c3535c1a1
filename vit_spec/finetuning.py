"""Weights of one model as the start of another: a new head, another image size. NumPy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vit_spec.checkpoint import Header
from vit_spec.config import ViTConfig
from vit_spec.groups import STEM, TAIL
from vit_spec.layout import State
from vit_spec.parameters import Shapes, parameters
from vit_spec.positions import resample_matrices

MAY_DIFFER = {*TAIL, *STEM} - {"patch_embed"}
"""Parts that may be new or left behind; all else is the trunk, which must fit."""
SIZES = ("image_size", "num_classes", "dropout", "drop_path")
"""Fields of a config that may differ without a word."""


class OtherModelError(ValueError):
    """Patches or blocks of a checkpoint do not fit the model."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What `fit` did with each tensor, by name."""

    taken: tuple[str, ...]
    resampled: tuple[str, ...]
    new: tuple[str, ...]  # of the target, which keeps the values that it had
    left: tuple[str, ...]  # of the source, which the target has no place for
    differs: tuple[str, ...]  # settings under which the same weights compute something else

    def __str__(self) -> str:
        lines = [f"{len(self.taken)} tensors taken"]
        for what, names in (
            ("resampled", self.resampled),
            ("newly initialised", self.new),
            ("left behind", self.left),
            ("differs from the checkpoint", self.differs),
        ):
            if names:
                lines.append(f"{what}: {', '.join(names)}")
        return "\n".join(lines)


def fit(
    source: Header, state: State, target: ViTConfig, start: State, *, like: Header | None = None
) -> tuple[State, Transfer]:
    """Parameters of `target` from the checkpoint `source` and `state`; those of `start` elsewhere.

    States are in PyTorch's names and layout. The head is new where the number of classes differs.
    Position embeddings are resampled to the target's grid as the source's config says, so the
    trunk computes what the source would for images of the target's size. `like` tells the
    target's preprocessing, to compare.

    Raises `OtherModelError` if patches or blocks do not fit, naming the tensors, and `ValueError`
    if positions do not.
    """
    shapes, found = parameters(target), {}
    _check_trunk(source.config, state, target, shapes)
    taken, resampled, new = [], [], []
    for name, shape in shapes.items():
        if name in state and state[name].shape == shape and not _moved(name, source, target):
            found[name], kind = state[name], taken
        elif name == "pos_embed" and name in state:
            found[name], kind = _resampled(source.config, state[name], target), resampled
        else:
            found[name], kind = start[name], new
        kind.append(name)
    left = [name for name in state if name not in shapes]
    return {n: a.astype(start[n].dtype) for n, a in found.items()}, Transfer(
        taken=tuple(taken),
        resampled=tuple(resampled),
        new=tuple(new),
        left=tuple(left),
        differs=tuple(_differences(source, target, like)),
    )


def changed(header: Header, state: State, config: ViTConfig, start: Callable[[], State]) -> State:
    """The parameters of a checkpoint for a model of another `config`: `fit` where shapes or grids
    differ, with what `start` makes for all that is new."""
    ours = header.config
    if parameters(config) == parameters(ours) and config.grid == ours.grid:
        return state
    return fit(header, state, config, start())[0]


def _moved(name: str, source: Header, target: ViTConfig) -> bool:
    """A table of the same shape for another grid, such as 7 x 14 for 14 x 7."""
    return name == "pos_embed" and source.config.grid != target.grid


def _resampled(source: ViTConfig, table: np.ndarray, target: ViTConfig) -> np.ndarray:
    """A table of positions (1, p + n, d) on the target's grid, in float64."""
    before, after = source.num_prefix_positions, target.num_prefix_positions
    if after > before or source.width != target.width:
        raise ValueError(
            f"pos_embed of the checkpoint is {table.shape}, with {before} positions before the "
            f"patches, and the model has {after} and width {target.width}: make the model's tokens "
            f"and width those of the checkpoint"
        )
    rows, columns = resample_matrices(source, target.grid)
    prefix, patches = table[:, :after], table[:, before:].astype(np.float64)
    patches = patches.reshape(*source.grid, -1)
    patches = np.einsum("rh,cw,hwd->rcd", rows, columns, patches).reshape(1, -1, source.width)
    return np.concatenate([prefix, patches], axis=1)


def _check_trunk(source: ViTConfig, state: State, target: ViTConfig, shapes: Shapes) -> None:
    names = [name for name in {**shapes, **state} if name.split(".")[0] not in MAY_DIFFER]
    wrong = [n for n in names if n not in state or state[n].shape != shapes.get(n)]
    if not wrong:
        return
    lines = [
        f"  {n}: {state[n].shape if n in state else 'none'} in the checkpoint, "
        f"{shapes.get(n, 'none')} in the model"
        for n in wrong[:10]
    ]
    more = [f"  ... and {len(wrong) - 10} more"] if len(wrong) > 10 else []
    raise OtherModelError(
        f"the checkpoint is another model (width {source.width}, depth {source.depth}, patches "
        f"{source.patch_shape}) than the one asked for (width {target.width}, depth "
        f"{target.depth}, patches {target.patch_shape}):\n" + "\n".join([*lines, *more])
    )


def _differences(source: Header, target: ViTConfig, like: Header | None) -> list[str]:
    ours, theirs = target.to_dict(), source.config.to_dict()
    found = [
        f"{name} {theirs[name]!r}, here {ours[name]!r}"
        for name in ours
        if name not in SIZES and ours[name] != theirs.get(name)
    ]
    if like is not None:
        p, q = source.preprocessing, like.preprocessing
        found += [
            f"{name} {getattr(p, name)!r}, here {getattr(q, name)!r}"
            for name in ("mean", "std")
            if getattr(p, name) != getattr(q, name)
        ]
    return found
