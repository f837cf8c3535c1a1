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
    """The structure of a model (static, hashable) and its parameters by dotted name.

    A ViT's `rngs` stay behind: in this form masks are arguments. Raises `ValueError` for a model
    that holds other state.
    """
    model = _without_rngs(model)
    check_no_other_state(model, "this form", nnx.Param)
    structure, params, _ = nnx.split(model, nnx.Param, ...)
    return structure, {dotted(path): variable[...] for path, variable in nnx.to_flat_state(params)}


def check_no_other_state(model: nnx.Module, what: str, *allowed: Any) -> None:
    """Raises `ValueError` if a model holds variables that are not `allowed`, which `what` lacks."""
    others = nnx.state(model, nnx.Not(nnx.Any(*allowed)))
    names = [f"{dotted(path)} ({type(v).__name__})" for path, v in nnx.to_flat_state(others)]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(
            f"{what} has parameters only, and the model holds {', '.join(names[:5])}{more} as "
            "well: models with such state are not supported"
        )


def _without_rngs(model: Any) -> Any:
    """A model as it is, or one of the same variables without `rngs`."""
    if getattr(model, "rngs", None) is None:
        return model
    model = nnx.merge(*nnx.split(model))
    model.rngs = None
    return model


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
