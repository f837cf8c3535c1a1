"""A model as a pure function of a flat dict of parameters, the form that transformations like.

Only the JAX side needs this: `torch.nn.Module` keeps its parameters itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.options import Options

Params = dict[str, Array]


def split(model: nnx.Module) -> tuple[Any, Params]:
    """The structure of a model (static, hashable) and its parameters by dotted name."""
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    if jax.tree.leaves(rest):
        kinds = sorted(
            {
                type(v).__name__
                for v in jax.tree.leaves(rest, is_leaf=lambda x: isinstance(x, nnx.Variable))
            }
        )
        raise ValueError(
            f"the model holds state that is not a parameter ({', '.join(kinds)}), which is "
            f"not supported"
        )
    return structure, {dotted(path): variable[...] for path, variable in nnx.to_flat_state(params)}


def merge(structure: Any, params: Params) -> Any:
    """The inverse of `split`. Use it inside a jitted function."""
    flat = [(undotted(name), nnx.Param(value)) for name, value in params.items()]
    return nnx.merge(structure, nnx.from_flat_state(flat))


def cast(model: Any, dtype: Any) -> Any:
    """A copy of any NNX model that stores and computes in `dtype`; float64 needs x64 mode."""
    structure, state = nnx.split(model)

    def convert(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    copy = nnx.merge(structure, jax.tree.map(convert, state))
    for _, node in nnx.iter_graph(copy):
        if not isinstance(node, nnx.Module):
            continue
        if getattr(node, "dtype", None) is not None:
            node.dtype = jnp.dtype(dtype)
        if hasattr(node, "param_dtype"):
            node.param_dtype = jnp.dtype(dtype)
        if isinstance(getattr(node, "options", None), Options):
            node.options = dataclasses.replace(node.options, dtype=None, param_dtype=dtype)
    return copy


def dotted(path: tuple[Any, ...]) -> str:
    """`("blocks", 0, "norm1", "scale")` as `blocks.0.norm1.scale`."""
    return ".".join(map(str, path))


def undotted(name: str) -> tuple[Any, ...]:
    """The inverse of `dotted`."""
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
