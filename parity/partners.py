"""The tensors of any two models, and whether a table of rules pairs them: the same for `check`,
`diagnose`, `transfer` and the pytest fixture."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.core import meta
from torch import nn

from parity.rules import Group, Names, Rule
from parity.structures import is_float
from vit_spec.layout import torch_name
from vit_spec.names import unknown_name
from vit_spec.words import some


def flat(tree: Any) -> dict[str, Any]:
    """A tree of arrays by dotted name."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(meta.unbox(tree))[0]:
        name = ".".join(map(key_name, path))
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"parameters must be arrays, but {name or 'the tree'} is of type "
                f"{type(leaf).__name__}: keep such settings in the function "
                f"(functools.partial(model.apply, train=False))"
            )
        leaves[name] = leaf
    return leaves


def key_name(key: Any) -> str:
    """One step of a path in a tree."""
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def jax_tensors(model: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters, batch statistics, and what else an NNX module or a pair of a function and its
    parameters keeps in floating point: the last has a partner only if PyTorch keeps it, too."""
    if isinstance(model, nnx.Module):
        params, statistics, others = {}, {}, {}
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            is_param, is_statistic = (isinstance(variable, k) for k in (nnx.Param, nnx.BatchStat))
            kind = params if is_param else statistics if is_statistic else others
            kind[".".join(map(str, path))] = variable[...]
    elif isinstance(model, tuple) and len(model) == 2:
        tree: Any = meta.unbox(model[1])
        linen = isinstance(tree, Mapping) and "params" in tree
        flat(tree)  # raises unless all leaves are arrays
        params = flat(tree["params"] if linen else tree)
        rest = {k: flat(part) for k, part in tree.items() if k != "params"} if linen else {}
        statistics = rest.pop("batch_stats", {})
        others = {name: leaf for part in rest.values() for name, leaf in part.items()}
    elif callable(model):
        return {}, {}, {}
    else:
        raise ValueError(
            f"{type(model).__name__} is neither an NNX module nor a pair (function, parameters)"
        )
    known = params.keys() | statistics.keys()
    others = {
        n: leaf for n, leaf in others.items()
        if n not in known and jnp.issubdtype(leaf.dtype, jnp.floating)
    }  # fmt: skip
    return params, statistics, others


def torch_tensors(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Parameters and saved buffers in floating point by name, and the other names of those that
    have several: tied weights."""
    if not isinstance(model, nn.Module):
        return {}, {}
    saved = model.state_dict().keys()  # without the buffers that are computed anew
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if name not in saved or not is_float(tensor):
                continue
            known = first.setdefault(id(tensor), name)
            if known == name:
                tensors[name] = tensor
            else:
                tied[name] = known
    return tensors, tied


class Partners:
    """Two models' tensors under one table of rules.

    Raises `ValueError` for a rule that matches nothing or leads to no tensor.
    """

    def __init__(self, rules: Iterable[Rule], jax_model: Any, torch_model: Any):
        params, statistics, others = jax_tensors(jax_model)
        self.torch, self.tied = torch_tensors(torch_model)
        known = self.torch.keys() | self.tied.keys()
        names = Names(rules, known)
        _check_used(names, {**params, **statistics, **others}, known)
        targets = names.torch_names({n: a.ndim for n, a in others.items()})
        others = {n: a for n, a in others.items() if targets[n] and known >= {*targets[n]}}
        self.jax = {**params, **statistics, **others}
        ranks = {name: leaf.ndim for name, leaf in self.jax.items()}
        wanted = {name for theirs in names.torch_names(ranks).values() for name in theirs}
        # a tied tensor goes by the name that JAX's partner has; by two if it has two
        renamed = {a: c for a, c in self.tied.items() if a in wanted and c not in wanted}
        self.twice = {a: c for a, c in self.tied.items() if a in wanted and c in wanted}
        self.names = Names(names.rules, known, renamed)
        groups = self.names.groups(ranks)
        _check_targets(groups, known)
        self.only_jax = frozenset(n for g in groups if not g.torch for n in g.jax)
        self.only_torch = frozenset(n for n in self.torch if names.is_only_torch(n))
        self.ranks = {n: rank for n, rank in ranks.items() if n not in self.only_jax}
        self.groups = [g for g in groups if g.torch]
        taken = {self.tied.get(n, n) for g in groups for n in g.torch}
        self.alone_in_jax = [n for g in groups if not known >= {*g.torch} for n in g.jax]
        self.alone_in_torch = [n for n in self.torch if n not in taken | self.only_torch]

    def alone(self, most: int = 3) -> str:
        """The names without a partner, and what to do; empty if there are none."""
        ours, theirs = self.alone_in_jax, self.alone_in_torch
        if not ours and not theirs:
            return ""
        ways = []
        if ours and theirs:
            rule = self._rule(ours, theirs) or 'parity.Rule("blocks", "layers")'
            ways.append(f"names that do not mirror are paired by rules, such as {rule}")
        left = [f'parity.only_jax("{ours[0]}")'] if ours else []
        left += [f'parity.only_torch("{theirs[0]}")'] if theirs else []
        ways.append(f"what one side has on purpose is left out by {' or '.join(left)}")
        return (
            f"without a partner: {some(ours, most) or 'nothing'} in JAX; "
            f"{some(theirs, most) or 'nothing'} in PyTorch: "
            f"{'; '.join(ways)}"
        )

    def _rule(self, ours: list[str], theirs: list[str]) -> str | None:
        """A rule between modules that would pair some of these names, as text."""
        found: list[tuple[bool, str]] = []
        for name in ours[:20]:
            for other in theirs[:20]:
                above, (their, _, leaf) = name.rpartition(".")[0], other.rpartition(".")
                size, shape = np.size(self.jax[name]), tuple(self.torch[other].shape)
                count = max(1, size // max(1, math.prod(shape)))
                by_law, axes = torch_name(name, self.ranks[name] - (count > 1))
                each = np.shape(self.jax[name])[count > 1 :]
                if not above or not their or leaf != by_law.rpartition(".")[2]:
                    continue
                if tuple(each[axis] for axis in axes) != shape or size != count * math.prod(shape):
                    continue
                if count > 1:
                    their = re.sub(r"(^|\.)0(?=\.|$)", r"\1{i}", their)
                    if f"{their}.{leaf}".replace("{i}", str(count - 1)) not in theirs:
                        continue
                ours_above, theirs_above = above.split("."), their.split(".")
                same = ours_above[-1] == theirs_above[-1]
                while ours_above and theirs_above and ours_above[-1] == theirs_above[-1]:
                    ours_above.pop()  # the rule covers what is below
                    theirs_above.pop()
                pair = f'"{".".join(ours_above)}", "{".".join(theirs_above)}"'
                stack = f", parity.stacked({count})" if count > 1 else ""
                found.append((not same, f"parity.Rule({pair}{stack})"))
        return min(found, default=(False, None), key=lambda each: each[0])[1]

    def notes(self) -> tuple[str, ...]:
        """What is compared in a special way, or not at all."""
        found = []
        left = [f"{some(sorted(names))} in {side}" for names, side in (
            (self.only_jax, "JAX"), (self.only_torch, "PyTorch")) if names]  # fmt: skip
        if left:
            found.append(f"left out by the rules: {'; '.join(left)}")
        found += [
            f"{name} and {first} are one tensor in PyTorch and two in JAX: they train differently"
            for name, first in self.twice.items()
        ]
        return tuple(found)


def _check_used(names: Names, ours: Collection[str], theirs: Collection[str]) -> None:
    """Raises `ValueError` for rules that match nothing."""
    problems = []
    for rule, taken in names.unused(ours, theirs):
        if taken:
            problems.append(f"{rule} pairs nothing: a rule before it takes all of its names")
            continue
        side, look = ("PyTorch", theirs) if rule.jax == () else ("JAX", ours)
        some = f"they look like {', '.join([*look][:5])}" if look else "its model has none"
        if rule.jax and rule.torch:
            here, there = Rule(rule.torch, rule.torch), Rule(rule.jax, rule.jax)
            if not Names([here]).unused(ours, ()) and not Names([there]).unused(theirs, ()):
                some = "its sides are exchanged: the name of JAX comes first"
        problems.append(f"{rule} matches no {side} name; {some}")
    if problems:
        raise ValueError("; ".join(problems))


def _check_targets(groups: list[Group], known: Collection[str]) -> None:
    """Raises `ValueError` if a rule leads to a name that PyTorch's model does not have; a rule
    between modules, if none of its names is there."""
    by_rule: dict[int, list[Group]] = {}
    for group in groups:
        if group.rule is not None and group.torch:
            by_rule.setdefault(id(group.rule), []).append(group)
    problems = []
    for members in by_rule.values():
        lost = [(g, n) for g in members for n in g.torch if n not in known]
        whole = [(g, n) for g, n in lost if not g.rest]
        nothing = len(lost) == sum(len(g.torch) for g in members)
        for group, name in whole or (lost[:1] if nothing else []):
            unknown = unknown_name("PyTorch name", name, known)
            problems.append(f"a rule takes {group.jax[0]} to an {unknown}")
    if problems:
        raise ValueError("; ".join(problems))
