"""Weights of one model into another of the other framework, by the law and a table of rules."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.core import meta
from torch import nn

from parity.gaps import wide
from parity.partners import Partners, jax_tensors, key_name
from parity.rules import Rule
from parity.structures import numpy
from vit_spec.layout import State
from vit_spec.words import some
from vit_torch.api import to_tensor


def transfer(source: Any, target: Any, *, rules: Iterable[Rule] = ()) -> Any:
    """Writes the weights of `source` into `target` and returns it.

    One is a PyTorch module, the other an NNX module or a pair of a function and its parameters,
    such as `(linen_model.apply, variables)`. Modules are changed in place; of a pair, a new one
    with the parameters of the source is returned. Batch statistics go along. Values take the
    target's dtype, with a `UserWarning` if that rounds them. What rules leave out stays as it is.

    Raises:
        ValueError: rules, names or shapes that do not fit, all of them, or two values for tensors
            that PyTorch ties. Nothing has been changed then.
    """
    if isinstance(target, nn.Module) and not isinstance(source, nn.Module):
        partners = _partners(rules, source, target)
        arrays = partners.names.to_torch({n: np.asarray(partners.jax[n]) for n in partners.ranks})
        tensors = {n: t for n, t in partners.torch.items() if n not in partners.only_torch}
        _check_tied(partners, arrays)
        _check_shapes(arrays, tensors, "PyTorch's model")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(to_tensor(np.array(arrays[name])))
        _warn_of_rounding(arrays, {name: numpy(tensor) for name, tensor in tensors.items()})
        return target
    if isinstance(source, nn.Module) and not isinstance(target, nn.Module):
        partners = _partners(rules, target, source)
        state = {name: numpy(tensor) for name, tensor in partners.torch.items()}
        state |= {name: state[first] for name, first in partners.tied.items()}
        arrays = partners.names.to_jax(state, partners.ranks)
        leaves = {name: partners.jax[name] for name in partners.ranks}
        _check_shapes(arrays, leaves, "JAX's model")
        values = {name: jnp.asarray(arrays[name], leaf.dtype) for name, leaf in leaves.items()}
        _warn_of_rounding(arrays, {name: np.asarray(value) for name, value in values.items()})
        return _written(target, values)
    raise ValueError(
        f"one model must be a torch.nn.Module and the other must not be: source is a "
        f"{type(source).__name__}, target a {type(target).__name__}"
    )


def _partners(rules: Iterable[Rule], jax_model: Any, torch_model: nn.Module) -> Partners:
    """Raises `ValueError` unless every name of either side has its partner."""
    partners = Partners(rules, jax_model, torch_model)
    if alone := partners.alone(most=20):
        raise ValueError(alone)
    return partners


def _check_tied(partners: Partners, arrays: State) -> None:
    """Raises `ValueError` if PyTorch's one tensor would get two values."""
    problems = [
        f"{name} and {first} are one tensor in PyTorch, and JAX has other values for each"
        for name, first in partners.twice.items()
        if not np.array_equal(arrays[name], arrays[first])
    ]
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}: give them the same values in JAX, or untie them in PyTorch"
        )


def _check_shapes(arrays: State, like: Mapping[str, Any], whose: str) -> None:
    problems = [
        f"{name} would get shape {arrays[name].shape}, and has {tuple(value.shape)} in {whose}"
        for name, value in like.items()
        if arrays[name].shape != tuple(value.shape)
    ]
    if problems:
        reshaped = any(
            arrays[n].shape != tuple(v.shape) and arrays[n].size == np.prod(v.shape)
            for n, v in like.items()
        )
        hint = "; a Rule with an operation, such as parity.heads(12), reshapes" if reshaped else ""
        raise ValueError("; ".join(problems) + hint)


def _warn_of_rounding(arrays: State, written: State) -> None:
    rounded = [
        name
        for name, value in written.items()
        if not np.array_equal(wide(arrays[name]), wide(value), equal_nan=True)
    ]
    if rounded:
        kinds = {f"{arrays[n].dtype} to {written[n].dtype}" for n in rounded}
        warnings.warn(
            f"parity.transfer rounded {some(rounded)} from {', '.join(sorted(kinds))}, the "
            f"target's dtype: the two models do not hold the same values",
            stacklevel=3,
        )


def _written(model: Any, leaves: dict[str, Any]) -> Any:
    if isinstance(model, nnx.Module):
        state = nnx.state(model)
        for path, variable in nnx.to_flat_state(state):
            if (name := ".".join(map(str, path))) in leaves:
                variable[...] = leaves[name]
        nnx.update(model, state)
        return model
    function, tree = model
    params, statistics, _ = jax_tensors(model)
    linen = isinstance(tree, Mapping) and "params" in tree

    def written(path: Any, leaf: Any) -> Any:
        kind, name = key_name(path[0]), ".".join(map(key_name, path[linen:]))
        if linen and kind not in ("params", "batch_stats") and name in {**params, **statistics}:
            return leaf  # another collection with a tensor of the same name
        return leaves.get(name, leaf)

    filled = jax.tree_util.tree_map_with_path(written, meta.unbox(tree))
    return function, jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(filled))
