"""A conversion tensor by tensor: what a target tensor needs is read, reshaped and handed over."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from parity.containers.blocks import same_bytes
from parity.formats.table import Line, Sum, their_shapes
from vit_spec.parameters import Shapes, check_shapes

Read = Callable[[str], np.ndarray]


class Reader:
    """Arrays under other names; one line of the table is held at a time.

    All tensors of a line are widened to the dtype that `kinds`, of `dtypes`, gives for it.
    """

    def __init__(
        self, table: Sequence[Line], read: Read, kinds: Mapping[str, np.dtype], *, inward: bool
    ):
        self._read, self._kinds = read, kinds
        self._inward = inward
        self._line = {
            name: line for line in table for name in (line.ours if inward else line.theirs)
        }
        self._held: tuple[Line | None, dict[str, np.ndarray]] = (None, {})

    def __call__(self, name: str) -> np.ndarray:
        """The array `name` of the other side."""
        line = self._line[name]
        if self._held[0] is not line:
            self._held = (None, {})  # free it before the next is read
            sources, names = (line.theirs, line.ours) if self._inward else (line.ours, line.theirs)
            apply = line.op.to_torch if self._inward else line.op.to_jax
            kind = self._kinds[name]
            arrays = apply(tuple(self._read(s).astype(kind, copy=False) for s in sources))
            self._held = (line, dict(zip(names, arrays, strict=True)))
        return self._held[1][name]

    def summed(self) -> list[str]:
        """What is read and added to another array, so that no way back gives it again."""
        found = []
        for line in dict.fromkeys(self._line.values()):
            sources, apply, undo = line.ours, line.op.to_jax, line.op.to_torch
            if self._inward:
                sources, apply, undo = line.theirs, undo, apply
            if isinstance(line.op, Sum) and apply is line.op.adds:
                arrays = tuple(self._read(name).astype("f8") for name in sources)
                found += [] if all(map(same_bytes, arrays, undo(apply(arrays)))) else sources
        return found


def check_inward(
    table: Sequence[Line],
    ours: Shapes,
    found: Shapes,
    *,
    where: str,
    kinds: Mapping[str, np.dtype] | None = None,
    extra: str = "",
) -> None:
    """Raises `ValueError` if a file has other tensors than a table, all in one message.

    `kinds`, if given, are the dtypes of `found`, which must be of floating point; `extra` is what
    to type to leave out what the table lacks.
    """
    _once(table, ours)
    names = {name: kind.name for name, kind in (kinds or {}).items()}
    way = f"If no output depends on what is extra, leave it out: {extra}" if extra else ""
    check_shapes(their_shapes(table, ours), found, where=where, dtypes=names, way=way)


def order(source: Sequence[Line] | None, target: Sequence[Line] | None, ours: Shapes) -> list[str]:
    """Names of the target in the order in which the source is read once from start to end."""
    place = {name: k for k, name in enumerate(ours)}
    if source is not None:
        place = {name: k for k, line in enumerate(source) for name in line.ours}
    if target is None:
        return sorted(place, key=place.__getitem__)
    first = sorted(target, key=lambda line: min((place[n] for n in line.ours), default=-1))
    return [name for line in first for name in line.theirs]


def dtypes(table: Sequence[Line], given: Mapping[str, np.dtype], *, inward: bool) -> dict:
    """The dtype of each tensor of the other side: the narrowest that holds its line's exactly."""
    usual = next(iter(given.values()))
    return {
        name: common(given[n] for n in sources) if sources else usual
        for line in table
        for sources, names in [(line.theirs, line.ours) if inward else (line.ours, line.theirs)]
        for name in names
    }


def common(kinds: Iterable[np.dtype]) -> np.dtype:
    """The narrowest dtype of floating point that holds all values of several exactly."""
    found = list(dict.fromkeys(kinds))
    return found[0] if len(found) == 1 else np.dtype("f8" if np.dtype("f8") in found else "f4")


def widened(
    table: Sequence[Line], given: Mapping[str, np.dtype], *, inward: bool
) -> dict[str, np.dtype]:
    """The tensors that are read in a wider dtype than their own, and that dtype."""
    return {
        name: kind
        for line in table
        for names in [line.theirs if inward else line.ours]
        for name in names
        for kind in [common(given[n] for n in names)]
        if given[name] != kind
    }


def _once(table: Sequence[Line], ours: Shapes) -> None:
    for side in ("ours", "theirs"):
        names = [name for line in table for name in getattr(line, side)]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"the table has {', '.join(twice)} twice: remove one of the rules")
    made = {name for line in table for name in line.ours}
    if lacking := [name for name in ours if name not in made]:
        raise ValueError(
            f"the table has no rule for {', '.join(lacking[:6])}: the format cannot hold the model"
        )
