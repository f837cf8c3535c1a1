"""Which JAX parameter is which PyTorch parameter, where the law of mirrored names does not say it.

A table of rules is read both ways; `parity.operations` has what is done to the arrays.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parity.operations import Arrays, Op, PartOp, layers_of, resolved, same
from vit_spec.layout import State, torch_name


@dataclass(frozen=True)
class Rule:
    """One line of a table: names of the JAX side, names of the PyTorch side.

    A name is that of a parameter, or of a module, which covers everything below it:
    `Rule("blocks", "layers")`. The empty name is the whole model: `Rule("", "model")` takes off
    PyTorch's prefix. Of several rules that fit a name the one with the longest fitting part counts,
    and of equals the first. `{i}` stands for a number, any other `{word}` for one part of a dotted
    name; both sides use the same ones. Paths of Linen parameters are written with dots. `op` None:
    the law of `vit_spec.layout` by the JAX leaf's name. A rule between modules also says that their
    outputs are to be compared.
    """

    jax: str | tuple[str, ...]
    torch: str | tuple[str, ...]
    op: Op | PartOp | None = None


def only_jax(name: str) -> Rule:
    """A rule: PyTorch has no such parameter, or nothing of that module, on purpose.

    It is not compared and keeps its value, in training as well. Placeholders as in `Rule`.
    """
    return Rule(name, ())


def only_torch(name: str) -> Rule:
    """A rule: JAX has no such parameter or buffer, or nothing of that module, on purpose.

    It is not compared and keeps its value, in training as well. Placeholders as in `Rule`.
    """
    return Rule((), name)


class Group(NamedTuple):
    """JAX names and the PyTorch names that hold the same values."""

    jax: tuple[str, ...]
    torch: tuple[str, ...]  # () if only JAX has them
    op: Op
    rule: Rule | None = None  # None: the law
    rest: str = ""  # of the names, below a rule between modules


class Names:
    """A table of rules, with the law for every name that no rule matches."""

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        known: Collection[str] = (),
        aliases: Mapping[str, str] | None = None,
    ):
        self.rules = tuple(rules)
        self.known = known  # names of PyTorch: one that it has and the law would change is kept
        self.aliases = aliases or {}  # other names of PyTorch's tensors
        for rule in self.rules:
            _check(rule)

    def groups(self, ranks: Mapping[str, int]) -> list[Group]:
        """Which names belong together, each of `ranks`, JAX's names with their ranks, once.

        Raises `ValueError` if a rule finds only some of its names.
        """
        chosen = {name: self._chosen(name) for name in ranks}
        found: list[Group] = []
        done: set[str] = set()
        for name, place in chosen.items():
            if name in done:
                continue
            if place is None:
                theirs, op = torch_name(name, ranks[name])[0], law((name,), (ranks[name],))
                kept = theirs not in self.known and name in self.known
                found.append(Group((name,), (name if kept else theirs,), same if kept else op))
                continue
            rule, match, rest = place
            ours = tuple(_join(_fill(n, match), rest) for n in _tuple(rule.jax))
            absent = [n for n in ours if n not in ranks]
            if absent:
                raise ValueError(f"{rule} matches {name}, but there is no {', '.join(absent)}")
            taken = [n for n in ours if (chosen[n] or (None,))[0] is not rule]
            if taken:
                raise ValueError(f"{rule} matches {name}, but another rule takes {taken[0]}")
            done.update(ours)
            found.append(_group(rule, match, rest, ours, ranks))
        return [
            group._replace(torch=tuple(self.aliases.get(name, name) for name in group.torch))
            for group in found
        ]

    def to_torch(self, state: State) -> State:
        """A JAX state in PyTorch's names and layout, without what only JAX has."""
        converted: State = {}
        for ours, theirs, op, *_ in self.groups({name: a.ndim for name, a in state.items()}):
            if not theirs:
                continue
            twice = [name for name in theirs if name in converted]
            if twice:
                raise ValueError(f"{', '.join(ours)} becomes {twice[0]}, as another name does")
            arrays = _applied(op.to_torch, ours, tuple(state[n] for n in ours), theirs)
            converted.update(zip(theirs, arrays, strict=True))
        return converted

    def to_jax(self, state: State, jax: Mapping[str, int]) -> State:
        """A PyTorch state in JAX's names and layout, without what only JAX has; `jax` gives names
        and ranks of that side.

        Raises `KeyError` for a name that `state` lacks.
        """
        converted: State = {}
        for ours, theirs, op, *_ in self.groups(jax):
            if theirs:
                arrays = _applied(op.to_jax, theirs, tuple(state[n] for n in theirs), ours)
                converted.update(zip(ours, arrays, strict=True))
        return converted

    def torch_names(self, jax: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """The PyTorch names of each JAX name; none for what only JAX has."""
        return {name: group.torch for group in self.groups(jax) for name in group.jax}

    def is_only_torch(self, name: str) -> bool:
        """Whether a rule says that JAX lacks this name of PyTorch."""
        return any(_matches(rule.torch, name) for rule in self.rules if rule.jax == ())

    def unused(self, jax: Iterable[str], torch: Iterable[str]) -> list[tuple[Rule, bool]]:
        """Rules that pair nothing, and whether they match names that other rules take."""
        ours, theirs = list(jax), list(torch)
        counting = {id(place[0]) for name in ours if (place := self._chosen(name)) is not None}
        found = []
        for rule in self.rules:
            alone = rule.jax == ()
            pattern = rule.torch if alone else rule.jax
            matched = [name for name in (theirs if alone else ours) if _matches(pattern, name)]
            idle = not alone and id(rule) not in counting
            if not matched or (idle and all(self._ties(rule, name) for name in matched)):
                found.append((rule, bool(matched)))
        return found

    def points(self, jax_path: str) -> list[tuple[str, bool]]:
        """PyTorch's modules that a JAX module may be, likeliest first, and whether a rule names
        just these two, which needs no further reason."""
        found: list[tuple[int, str, bool]] = []
        for rule in self.rules:
            pairs = list(zip(_tuple(rule.jax), _tuple(rule.torch), strict=False))
            if len(_tuple(rule.jax)) != 1 or len(pairs) != 1:
                continue
            ours, theirs = pairs[0]
            match, rest = _match(ours, jax_path) or (None, "")
            if match and _placeholders(theirs) <= match.groupdict().keys():
                path = _join(_fill(theirs, match), rest)
                found.append((len(rest), path, not rest and bool(ours)))
                continue
            above, leaf, their_leaf = _parent(ours), _leaf(ours), _leaf(theirs)
            match, rest = (above and _match(above, jax_path)) or (None, "")
            if match and not rest and leaf and their_leaf:
                found.append((0, _fill(_parent(theirs), match), False))
        found.sort(key=lambda each: (not each[2], each[0]))
        return list(dict.fromkeys([*((path, sure) for _, path, sure in found), (jax_path, False)]))

    def _ties(self, rule: Rule, name: str) -> bool:
        """Whether a rule fits a JAX name as well as the one before it that takes the name does."""
        place, own = self._chosen(name), Names([rule])._chosen(name)
        return place is None or own is None or len(place[2]) == len(own[2])

    def _chosen(self, name: str) -> "tuple[Rule, re.Match[str], str] | None":
        """The rule for a JAX name, how it matches, and the rest of the name below the match."""
        places = [
            (rule, *place)
            for rule in self.rules
            for pattern in _tuple(rule.jax)
            if (place := _match(pattern, name)) is not None
        ]
        return min(places, key=lambda place: len(place[2]), default=None)


def law(names: Iterable[str], ranks: Iterable[int]) -> Op:
    """How leaves of these names and ranks cross where no rule says it."""
    axes = [torch_name(n, rank)[1] for n, rank in zip(names, ranks, strict=True)]
    return Op(
        lambda arrays: tuple(a.transpose(x) for a, x in zip(arrays, axes, strict=True)),
        lambda arrays: tuple(a.transpose(np.argsort(x)) for a, x in zip(arrays, axes, strict=True)),
    )


def _group(
    rule: Rule, match: re.Match[str], rest: str, ours: tuple[str, ...], ranks: Mapping[str, int]
) -> Group:
    layers = layers_of(rule.op)
    each = [ranks[name] - bool(layers) for name in ours]
    below = _torch_leaf(rest, each[0], rule.op) if rest else ""
    known = match.groupdict()
    counted = _placeholders(rule.torch) - known.keys()  # the layers of a stack
    fills = [{**known, **dict.fromkeys(counted, str(i))} for i in range(layers or 1)]
    theirs = tuple(_join(n.format(**fill), below) for fill in fills for n in _tuple(rule.torch))
    return Group(ours, theirs, resolved(rule.op, law(ours, each)), rule, rest)


def _torch_leaf(rest: str, rank: int, op: Op | PartOp | None) -> str:
    """The rest of a name below a rule, in PyTorch's words."""
    path, dot, leaf = rest.rpartition(".")
    if op is not None and leaf == "kernel":  # of any rank: the operation knows its layout
        return f"{path}{dot}weight"
    return torch_name(rest, rank)[0]


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


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _join(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path and rest else path or rest


def _match(template: str, name: str) -> tuple[re.Match[str], str] | None:
    """How a name, or a module around it, matches; and the rest of the name below that."""
    found = _pattern(template).fullmatch(name)
    return None if found is None else (found, found[found.re.groups] or "")


def _matches(template: str | tuple[str, ...], name: str) -> bool:
    return any(_match(each, name) for each in _tuple(template))


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
    return re.compile(text + (r"(?:\.(.+))?" if template else "(.*)"))


def _fill(template: str, found: re.Match[str]) -> str:
    return template.format(**found.groupdict())


def _placeholders(names: str | tuple[str, ...]) -> set[str]:
    return {found for name in _tuple(names) for found in re.findall(r"\{(\w+)\}", name)}


def _check(rule: Rule) -> None:
    if not isinstance(rule, Rule) or not isinstance(rule.op, Op | PartOp | None):
        what = rule.op if isinstance(rule, Rule) else rule
        raise ValueError(
            f"rules must be a list of parity.Rule, each with an operation of parity or none: got "
            f"{what!r}"
        )
    ours, theirs = _tuple(rule.jax), _tuple(rule.torch)
    if odd := [n for n in sorted(_placeholders((*ours, *theirs))) if not n.isidentifier()]:
        raise ValueError(f"{rule}: a placeholder is a word, such as {{i}}: got {', '.join(odd)}")
    if not ours or not theirs:  # of one side only
        if "" in (*ours, *theirs):
            raise ValueError(f"{rule} leaves out the whole model: name what one side lacks")
        return
    shared = _placeholders(ours)
    stack = layers_of(rule.op) > 0
    counted = _placeholders(theirs) - shared if stack else set()
    if any(_placeholders(name) - counted != shared for name in (*ours, *theirs)):
        raise ValueError(f"{rule}: all names of a rule need the same placeholders")
    if stack and (len(counted) != 1 or any(not counted <= _placeholders(n) for n in theirs)):
        raise ValueError(
            f"{rule}: PyTorch's name needs one placeholder that JAX's has not, for the number of "
            f'the layer, such as Rule("layers", "blocks.{{i}}", parity.stacked(12))'
        )
    if rule.op is None and len(ours) != len(theirs):
        raise ValueError(
            f"{rule} pairs {len(ours)} names with {len(theirs)} and has no "
            f"operation: add one, such as parity.fused(parity.permute(1, 0))"
        )
