"""How a run with `scan` holds its blocks from step to step: each parameter of all of them as one
array (depth, ...), which the loop over blocks takes as it is.

    blocks = Stacking(structure, state.params, optim)
    state = blocks.stack(state)
    step = jit_train_step(blocks.structure, optim, state, mesh)
    ...
    state = blocks.unstack(state)  # to save it, or to see its parameters by name

So nothing is stacked in a step, and what an optimizer does is compiled once for all blocks. Only
the JAX side has this: PyTorch runs the blocks as they stand.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.functional import Params, merge
from vit_jax.optimizers import trainable
from vit_jax.stack import BLOCKS, STACKED, Stack, each_block
from vit_spec import OptimConfig


class Stacking:
    """Brings states of a model of `structure` into the form that its steps are fast in, and back.

    Where the model has no `scan`, or `optim.freeze` holds a parameter of some blocks only, that
    form is the model's own, and nothing is moved. `params` may be shapes. `structure` becomes
    that of the model whose blocks are stacked.
    """

    def __init__(self, structure: Any, params: Params, optim: OptimConfig):
        self.structure = structure
        model = merge(structure, params)
        self.depth = len(model.blocks)
        self._used = model.options.scan and _alike(params, optim)
        if self._used:
            model.blocks = Stack(model.blocks[0])
            self.structure = nnx.graphdef(model)

    def stack(self, tree: Any) -> Any:
        """A state, or parameters or their shapes, with stacked blocks; frees the blocks' arrays."""
        return self._by_name(_stacked, tree)

    def unstack(self, tree: Any) -> Any:
        """The inverse of `stack` for arrays: the same bits. It frees the stacked ones."""
        return self._by_name(partial(_unstacked, depth=self.depth), tree)

    def _by_name(self, change: Callable[[Any], Any], tree: Any) -> Any:
        """`change` for the parameters and all that is kept by their names."""
        if not self._used:
            return tree
        return jax.tree.map(lambda x: change(x) if _is_by_name(x) else x, tree, is_leaf=_is_by_name)


def _alike(params: Params, optim: OptimConfig) -> bool:
    """Every parameter is trained in all blocks or in none."""
    trained = trainable(params, optim)
    found: dict[str, set[bool]] = {}
    for name in params:
        if name.startswith(BLOCKS):
            found.setdefault(_in_block(name)[1], set()).add(name in trained)
    return all(len(kinds) == 1 for kinds in found.values())


def _in_block(name: str) -> tuple[int, str]:
    """Number of the block of a parameter, and its name there."""
    number, _, rest = name.removeprefix(BLOCKS).partition(".")
    return int(number), rest


def _is_by_name(tree: Any) -> bool:
    """A dict of parameters, or of what an optimizer keeps of each."""
    return isinstance(tree, dict) and any(name.startswith(BLOCKS) for name in tree)


def _stacked(tree: dict[str, Any]) -> dict[str, Any]:
    found, blocks = {}, {}
    for name, value in tree.items():
        if name.startswith(BLOCKS):
            number, rest = _in_block(name)
            blocks.setdefault(rest, {})[number] = value
        else:
            found[name] = value
    for rest, values in blocks.items():
        found[STACKED + rest] = _joined([values[number] for number in sorted(values)])
    return found


def _unstacked(tree: dict[str, Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        parts = _parted(value, depth) if name.startswith(STACKED) else [value]
        found |= zip(each_block(name, depth), parts, strict=True)
    return found


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, optax.MaskedNode):  # an optimizer has nothing of these
        return first
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(values), *first.shape), first.dtype)
    joined = _join(_with_axis(first.sharding))(values)
    for value in values:
        value.delete()
    return joined


def _parted(value: Any, depth: int) -> list[Any]:
    if isinstance(value, optax.MaskedNode):
        return [value] * depth
    take = _take(_without_axis(value.sharding))
    parts = [take(value, number) for number in range(depth)]
    value.delete()
    return parts


@cache
def _join(out: Any) -> Callable[[list[Array]], Array]:
    return jax.jit(jnp.stack, out_shardings=out)


@cache
def _take(out: Any) -> Callable[[Array, int], Array]:
    """One program for all blocks: the number is an argument."""

    def take(x: Array, number: Any) -> Array:
        return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)

    return jax.jit(take, out_shardings=out)


def _with_axis(sharding: Any) -> Any:
    """How a stack of arrays lies that lie so."""
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _without_axis(sharding: Any) -> Any:
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
