"""JAX's sums of half precision, with float32 accumulators as PyTorch's have them.

The gradient of a bias, scale or position is a sum over rows, which XLA on CPUs adds up in the type
of the gradient, up to 32 times 32 numbers in one accumulator: 6 % were lost in bfloat16. That is no
property of a model, so the backward passes of a check ask for float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

HALVES = (jnp.bfloat16, jnp.float16)
NOTE = (
    "sums over rows have float32 accumulators in JAX's backward pass here; XLA on CPUs would keep "
    "them in {dtype}"
)


def with_wide_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays in any structure, where each sum of half precision is one of float32,
    rounded once; also within loops, and in parts that are computed again. Of arguments that are all
    wider, it is called as it is."""

    def run(*args: Any) -> Any:
        if not any(leaf.dtype in HALVES for leaf in jax.tree.leaves(args)):
            return function(*args)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluated(closed.jaxpr, closed.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _evaluated(jaxpr: core.Jaxpr, consts: Any, *args: Any) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def of(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        given, primitive = [of(atom) for atom in equation.invars], equation.primitive
        called = equation.params.get("call_jaxpr")
        params = {name: _rewritten(value) for name, value in equation.params.items()}
        if called is not None:  # of functions with derivatives of their own, which are taken by now
            inner = called if isinstance(called, core.ClosedJaxpr) else core.ClosedJaxpr(called, ())
            outputs = _evaluated(inner.jaxpr, inner.consts, *given)
        elif primitive.name == "reduce_sum" and given[0].dtype in HALVES:
            wide = primitive.bind(given[0].astype(jnp.float32), **params)
            outputs = [wide.astype(given[0].dtype)]
        else:
            outputs = primitive.bind(*given, **params)
            outputs = outputs if primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _rewritten(value: Any) -> Any:
    """A parameter of an equation: programs are rewritten, all else is kept."""
    if type(value) is tuple:  # no named one, such as the dimension numbers of a gather
        return tuple(_rewritten(part) for part in value)
    if isinstance(value, core.ClosedJaxpr):
        return _program(value.jaxpr, value.consts)
    if isinstance(value, core.Jaxpr):
        return _program(value, []).jaxpr
    return value


def _program(jaxpr: core.Jaxpr, consts: Any) -> core.ClosedJaxpr:
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    return jax.make_jaxpr(lambda *args: _evaluated(jaxpr, consts, *args))(*shapes)
