"""Which JAX parameter is which PyTorch parameter, where the law of mirrored names does not say it.

A table of rules is read both ways. Every operation carries its inverse, and all of them are
permutations of values, so gradients and moments cross by the same table as parameters.

Shapes: i inputs, o outputs, h heads of k channels.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vit_spec.layout import State, torch_name

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Op:
    """Arrays of the JAX side to arrays of the PyTorch side, and back."""

    to_torch: Callable[[Arrays], Arrays]
    to_jax: Callable[[Arrays], Arrays]


def permute(*axes: int) -> Op:
    """PyTorch's axes, as indices of JAX's: `permute(1, 0)` transposes."""
    inverse = tuple(int(a) for a in np.argsort(axes))
    return Op(
        lambda arrays: tuple(a.transpose(axes) for a in arrays),
        lambda arrays: tuple(a.transpose(inverse) for a in arrays),
    )


same = Op(lambda arrays: arrays, lambda arrays: arrays)
"""The same layout on both sides."""


def heads(num_heads: int, *, output: bool = False) -> Op:
    """Linen's `DenseGeneral` of attention: kernel (i, h, k) or bias (h, k) to (h k, i) or (h k,).

    With `output=True` the kernel (h, k, o) of the projection after attention, to (o, h k).
    """

    def to_torch(array: np.ndarray) -> np.ndarray:
        if output:
            return array.reshape(-1, array.shape[-1]).T
        return array.reshape(*array.shape[:-2], -1).T

    def to_jax(array: np.ndarray) -> np.ndarray:
        if output:
            return array.T.reshape(num_heads, -1, array.shape[0])
        return array.T.reshape(*array.shape[1:], num_heads, -1)

    return Op(
        lambda arrays: tuple(map(to_torch, arrays)), lambda arrays: tuple(map(to_jax, arrays))
    )


def fused(part: Op, count: int = 3) -> Op:
    """`count` JAX arrays, each carried by `part`, to one PyTorch array, row after row."""
    return Op(
        lambda arrays: (np.concatenate(part.to_torch(arrays), axis=0),),
        lambda arrays: part.to_jax(tuple(np.split(arrays[0], count, axis=0))),
    )


@dataclass(frozen=True)
class Rule:
    """One line of a table: names of the JAX side, names of the PyTorch side.

    `{i}` stands for a number, any other `{word}` for one part of a dotted name; both sides use the
    same ones. Paths of Linen parameters are written with dots. `op` None: the law of
    `vit_spec.layout` by the JAX leaf's name. A rule between modules names a measuring point.
    """

    jax: str | tuple[str, ...]
    torch: str | tuple[str, ...]
    op: Op | None = None


class Names:
    """A table of rules, with the law for every name that no rule matches."""

    def __init__(self, rules: Iterable[Rule] = ()):
        self.rules = tuple(rules)
        for rule in self.rules:
            _check(rule)

    def groups(self, jax: Iterable[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Op]]:
        """JAX names, their PyTorch names and the operation, each JAX name once.

        Raises `ValueError` if a rule finds only some of its names.
        """
        waiting = dict.fromkeys(jax)
        for rule in self.rules:
            first, *_ = _tuple(rule.jax)
            for found in [m for name in waiting if (m := _pattern(first).fullmatch(name))]:
                ours = tuple(_fill(name, found) for name in _tuple(rule.jax))
                theirs = tuple(_fill(name, found) for name in _tuple(rule.torch))
                absent = [name for name in ours if name not in waiting]
                if absent:
                    raise ValueError(
                        f"{rule} matches {ours[0]}, but there is no {', '.join(absent)}"
                    )
                for name in ours:
                    del waiting[name]
                yield ours, theirs, rule.op or _LAW
        for name in waiting:
            yield (name,), (), _LAW

    def to_torch(self, state: State) -> State:
        """A JAX state in PyTorch's names and layout."""
        converted: State = {}
        for ours, theirs, op in self.groups(state):
            arrays = tuple(state[name] for name in ours)
            if op is _LAW:
                by_law = [torch_name(n, a.ndim) for n, a in zip(ours, arrays, strict=True)]
                theirs = theirs or tuple(name for name, _ in by_law)
                arrays = tuple(
                    a.transpose(axes) for a, (_, axes) in zip(arrays, by_law, strict=True)
                )
            else:
                arrays = _applied(op.to_torch, ours, arrays, theirs)
            twice = [name for name in theirs if name in converted]
            if twice:
                raise ValueError(f"{', '.join(ours)} becomes {twice[0]}, as another name does")
            converted.update(zip(theirs, arrays, strict=True))
        return converted

    def unused(self, jax: Iterable[str]) -> list[Rule]:
        """Rules that match neither a name nor a module around one."""
        names = list(jax)
        places = {*names}
        for name in names:
            while name:
                name = _parent(name)
                places.add(name)
        return [
            rule
            for rule in self.rules
            if not any(_pattern(_tuple(rule.jax)[0]).fullmatch(place) for place in places)
        ]

    def to_jax(self, state: State, jax: dict[str, int]) -> State:
        """A PyTorch state in JAX's names and layout; `jax` gives names and ranks of that side.

        Raises `KeyError` for a name that `state` lacks.
        """
        converted: State = {}
        for ours, theirs, op in self.groups(jax):
            if op is _LAW:
                for i, name in enumerate(ours):
                    by_law, axes = torch_name(name, jax[name])
                    array = state[theirs[i] if theirs else by_law]
                    converted[name] = array.transpose(np.argsort(axes))
            else:
                arrays = tuple(state[name] for name in theirs)
                converted.update(zip(ours, _applied(op.to_jax, theirs, arrays, ours), strict=True))
        return converted

    def torch_names(self, jax: dict[str, int]) -> dict[str, tuple[str, ...]]:
        """The PyTorch names of each JAX name."""
        return {
            name: theirs or (torch_name(name, jax[name])[0],)
            for ours, theirs, _ in self.groups(jax)
            for name in ours
        }

    def point(self, jax_path: str) -> str:
        """The PyTorch path of a JAX module."""
        for rule in self.rules:
            pairs = zip(_tuple(rule.jax), _tuple(rule.torch), strict=False)
            for ours, theirs in [*pairs]:
                for pattern, target in ((ours, theirs), (_parent(ours), _parent(theirs))):
                    found = pattern and _pattern(pattern).fullmatch(jax_path)
                    if found and len(_tuple(rule.jax)) == 1:
                        return _fill(target, found)
        return jax_path


_LAW = Op(
    lambda arrays: arrays, lambda arrays: arrays
)  # marks the law, which needs the leaf's name


def _applied(
    change: Callable[[Arrays], Arrays], names: Iterable[str], arrays: Arrays, into: tuple[str, ...]
) -> Arrays:
    try:
        changed = change(arrays)
    except (ValueError, IndexError) as error:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
        raise ValueError(
            f"the rule for {', '.join(into)} does not fit {shapes}: {error}"
        ) from error
    if len(changed) != len(into):
        raise ValueError(f"the rule for {', '.join(into)} makes {len(changed)} array(s) of them")
    return changed


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    seen: set[str] = set()
    text = ""
    for position, part in enumerate(parts):
        if position % 2 == 0:
            text += re.escape(part)
        elif part in seen:
            text += f"(?P={part})"
        else:
            seen.add(part)
            text += rf"(?P<{part}>\d+)" if len(part) == 1 else rf"(?P<{part}>[^.]+)"
    return re.compile(text)


def _fill(template: str, found: re.Match[str]) -> str:
    return template.format(**found.groupdict())


def _check(rule: Rule) -> None:
    placeholders = [
        set(re.findall(r"\{(\w+)\}", name)) for name in (*_tuple(rule.jax), *_tuple(rule.torch))
    ]
    if any(p != placeholders[0] for p in placeholders):
        raise ValueError(f"{rule}: all names of a rule need the same placeholders")
    if rule.op is None and len(_tuple(rule.jax)) != len(_tuple(rule.torch)):
        raise ValueError(
            f"{rule} pairs {len(_tuple(rule.jax))} names with {len(_tuple(rule.torch))} and has no "
            f"operation: add one, such as parity.fused(parity.permute(1, 0))"
        )
