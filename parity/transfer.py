"""Weights of one model into another of the other framework, by the law and a table of rules."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from parity.any_jax import flat
from parity.rules import Names, Rule
from parity.structures import is_float, numpy
from vit_spec.layout import State
from vit_torch.api import to_tensor


def transfer(source: Any, target: Any, *, rules: Iterable[Rule] = ()) -> Any:
    """Writes the weights of `source` into `target` and returns it.

    One is a PyTorch module, the other an NNX module or a pair of a function and its parameters,
    such as `(linen_model.apply, variables)`. Modules are changed in place; of a pair, a new one
    with the parameters of the source is returned. Batch statistics go along. Values take the
    target's dtype.

    Raises:
        ValueError: names or shapes that do not fit, all of them, and nothing has been changed.
    """
    names = Names(rules)
    if isinstance(target, nn.Module) and not isinstance(source, nn.Module):
        leaves, tensors = _jax_leaves(source), _tensors(target)
        _pair(names, leaves, tensors)
        arrays = names.to_torch({name: np.asarray(leaf) for name, leaf in leaves.items()})
        _fit(arrays, tensors, "PyTorch's model")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(to_tensor(np.array(arrays[name])))
        return target
    if isinstance(source, nn.Module) and not isinstance(target, nn.Module):
        leaves, tensors = _jax_leaves(target), _tensors(source)
        _pair(names, leaves, tensors)
        state = {name: numpy(tensor) for name, tensor in tensors.items()}
        arrays = names.to_jax(state, {name: leaf.ndim for name, leaf in leaves.items()})
        _fit(arrays, leaves, "JAX's model")
        return _written(target, {n: jnp.asarray(arrays[n], a.dtype) for n, a in leaves.items()})
    raise ValueError(
        f"one model must be a torch.nn.Module and the other must not be: source is a "
        f"{type(source).__name__}, target a {type(target).__name__}"
    )


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t for name, t in model.state_dict().items() if is_float(t)}


def _jax_leaves(model: Any) -> dict[str, Any]:
    if isinstance(model, nnx.Module):
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        return {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}
    if isinstance(model, tuple) and len(model) == 2:
        return flat(model[1])
    raise ValueError(
        f"{type(model).__name__} is neither an NNX module nor a pair (function, parameters)"
    )


def _pair(names: Names, leaves: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raises `ValueError` unless every name of either side has its partner."""
    wanted = names.torch_names({name: leaf.ndim for name, leaf in leaves.items()})
    alone = [ours for ours, theirs in wanted.items() if not tensors.keys() >= {*theirs}]
    taken = {name for theirs in wanted.values() for name in theirs}
    strangers = [name for name in tensors if name not in taken]
    if alone or strangers:
        raise ValueError(
            f"without a partner: {', '.join(alone) or 'nothing'} in JAX; "
            f"{', '.join(strangers) or 'nothing'} in PyTorch. Names that do not mirror are paired "
            f'by rules, such as parity.Rule("encoder.{{i}}.kernel", "layers.{{i}}.weight")'
        )


def _fit(arrays: State, like: Mapping[str, Any], whose: str) -> None:
    problems = [
        f"{name} would get shape {arrays[name].shape}, and has {tuple(value.shape)} in {whose}"
        for name, value in like.items()
        if arrays[name].shape != tuple(value.shape)
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _written(model: Any, leaves: dict[str, Any]) -> Any:
    if isinstance(model, nnx.Module):
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        for path, variable in nnx.to_flat_state(state):
            variable[...] = leaves[".".join(map(str, path))]
        nnx.update(model, state)
        return model
    function, tree = model
    return function, jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))
