"""Tables between our names and those of a format, read both ways. PyTorch layout is ours.

An operation's `to_torch` makes our arrays of theirs, its `to_jax` theirs of ours: the operations
of `parity.operations`, where "JAX" is the foreign side.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.operations import Arrays, Op, fused, same
from vit_spec.parameters import Shapes

DEPTH = "{i}"

split = fused(same)
"""Query, key and value apart, each in PyTorch's layout."""


@dataclass(frozen=True)
class Sum(Op):
    """An operation that adds arrays one way, after which they cannot be told apart."""

    adds: Callable[[Arrays], Arrays]  # that way


@dataclass(frozen=True)
class Aside(Op):
    """The operation of a tensor that no model of ours has."""

    name: str  # ours
    written: bool


@dataclass(frozen=True)
class Rule:
    """One line of a table: our names, their names, and what makes ours of theirs.

    `{i}` stands for every block. No names of ours: what the format needs and no model of ours has,
    such as a token for masked training; it is dropped on the way in.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    op: Op = same


@dataclass(frozen=True)
class Line:
    """A rule for one block."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    op: Op


def lines(rules: Iterable[Rule], depth: int) -> list[Line]:
    """The rules, written out for every block."""
    found = []
    for rule in rules:
        ours, theirs = _tuple(rule.ours), _tuple(rule.theirs)
        if not any(DEPTH in name for name in (*ours, *theirs)):
            found.append(Line(ours, theirs, rule.op))
            continue
        for i in range(depth):
            block = [tuple(n.replace(DEPTH, str(i)) for n in names) for names in (ours, theirs)]
            found.append(Line(*block, rule.op))
    return found


def leaves(ours: str, theirs: str) -> list[Rule]:
    """`weight` and `bias` of one module, in PyTorch's layout on both sides."""
    return [Rule(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in ("weight", "bias")]


def modules(pairs: Mapping[str, str]) -> list[Rule]:
    """`weight` and `bias` of modules by our name."""
    return [rule for ours, theirs in pairs.items() for rule in leaves(ours, theirs)]


def parts(ours: str, theirs: Sequence[str]) -> list[Rule]:
    """A fused linear layer of ours, of which the format has the parts."""
    return [
        Rule(f"{ours}.{leaf}", tuple(f"{name}.{leaf}" for name in theirs), fused(same, len(theirs)))
        for leaf in ("weight", "bias")
    ]


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Op:
    """The same values in another shape; one -1 stands for what is left."""
    return Op(
        lambda arrays: tuple(a.reshape(ours) for a in arrays),
        lambda arrays: tuple(a.reshape(theirs) for a in arrays),
    )


def aside(name: str, shape: tuple[int, ...], *, written: bool = True) -> Aside:
    """A tensor that only the format has: kept beside a model of ours, or else zeros on the way out.

    With `written` False it is not written at all.
    """
    return Aside(lambda arrays: (), lambda arrays: (np.zeros(shape, np.int8),), name, written)


def stacked(op: Op, depth: int, count: int) -> Op:
    """`count` arrays of theirs with a leading depth axis, to the blocks' arrays one after another.

    `op` makes one block's arrays of ours from one block's arrays of theirs.
    """

    def to_ours(arrays: Arrays) -> Arrays:
        return tuple(a for i in range(depth) for a in op.to_torch(tuple(s[i] for s in arrays)))

    def to_theirs(arrays: Arrays) -> Arrays:
        each = len(arrays) // depth
        blocks = [op.to_jax(arrays[i * each : (i + 1) * each]) for i in range(depth)]
        return tuple(np.stack([block[k] for block in blocks]) for k in range(count))

    return Op(to_ours, to_theirs)


def stack(rules: Iterable[Rule], depth: int, name: Callable[[str], str]) -> list[Rule]:
    """A table whose blocks lie in one tensor each; `name` gives its name from that of a rule."""
    found = []
    for rule in rules:
        ours, theirs = _tuple(rule.ours), _tuple(rule.theirs)
        if DEPTH not in theirs[0]:
            found.append(rule)
            continue
        blocks = tuple(n.replace(DEPTH, str(i)) for i in range(depth) for n in ours)
        op = stacked(rule.op, depth, len(theirs))
        found.append(Rule(blocks, tuple(map(name, theirs)), op))
    return found


def our_shapes(table: Iterable[Line], found: Shapes) -> Shapes:
    """Our names and shapes of all that a table finds among their names."""
    shapes: Shapes = {}
    known: dict[Any, Any] = {}
    for line in table:
        if all(name in found for name in line.theirs):
            try:
                after = _after(line.op.to_torch, [found[n] for n in line.theirs], known)
            except (ValueError, IndexError) as error:  # other axes than the operation's
                said = ", ".join(f"{n} {found[n]}" for n in line.theirs[:3])
                raise ValueError(f"{said} cannot become {line.ours[0]} ({error})") from error
            shapes |= dict(zip(line.ours, after, strict=True))
    return shapes


def their_shapes(table: Iterable[Line], ours: Shapes) -> Shapes:
    """Their names and shapes for ours."""
    shapes: Shapes = {}
    known: dict[Any, Any] = {}
    for line in table:
        after = _after(line.op.to_jax, [ours[n] for n in line.ours], known)
        shapes |= dict(zip(line.theirs, after, strict=True))
    return shapes


def _after(
    carry: Callable[[Arrays], Arrays], shapes: list[tuple[int, ...]], known: dict[Any, Any]
) -> list[tuple[int, ...]]:
    """The shapes that arrays of `shapes` get; of all blocks it is computed once."""
    key = (carry, *shapes)
    if key not in known:
        known[key] = [a.shape for a in carry(tuple(np.empty(shape, np.int8) for shape in shapes))]
    return known[key]


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
