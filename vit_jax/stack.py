"""A stack of equal blocks: one after the other or as one loop, with or without remat.

Only the JAX side has this: PyTorch runs the blocks as they stand.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.functional import dotted
from vit_jax.masks import of_block
from vit_jax.options import Options, Remat
from vit_jax.sharding import constrain, logical_axes
from vit_spec.groups import depth_of

BLOCKS = "blocks."
"""How the names of blocks' parameters begin."""
STACKED = "blocks.stacked."
"""The same where one array has those of all blocks."""

Body = Callable[..., tuple[Array, None]]


class Stack(nnx.Module):
    """Equal blocks as one, whose parameters have an axis in front for the number of the block."""

    def __init__(self, stacked: nnx.Module):
        self.stacked = stacked


def each_block(name: str, depth: int) -> list[str]:
    """Names that the parts of a parameter have in each block; itself if it is not stacked."""
    if not name.startswith(STACKED):
        return [name]
    return [f"{BLOCKS}{i}.{name.removeprefix(STACKED)}" for i in range(depth)]


def depth_in(params: Mapping[str, Any]) -> int:
    """Number of blocks of a model with these parameters."""
    stacked = (p.shape[0] for name, p in params.items() if name.startswith(STACKED))
    return next(stacked, 0) or depth_of(params)


def rank_of(name: str, value: Any) -> int:
    """Number of axes of a parameter as its layer has it."""
    return value.ndim - name.startswith(STACKED)


def run_blocks(
    blocks: Sequence[nnx.Module] | Stack,
    x: Array,
    masks: Mapping[str, Array] | None,
    options: Options,
    *,
    depth: int,
) -> Array:
    """`x` (b, t, d) through all blocks, as `options.scan` and `options.remat` say."""
    x, of_blocks = constrain(x, "batch"), [of_block(masks, i) for i in range(depth)]
    if not (isinstance(blocks, Stack) or options.scan or options.remat != "none"):
        for block, block_masks in zip(blocks, of_blocks, strict=True):
            x = constrain(block(x, block_masks), "batch")
        return x
    structure = nnx.graphdef(blocks.stacked if isinstance(blocks, Stack) else blocks[0])

    def body(x: Array, inputs: tuple[Any, Mapping[str, Array] | None]) -> tuple[Array, None]:
        state, block_masks = inputs
        return constrain(nnx.merge(structure, state)(x, block_masks), "batch"), None

    body = _rematerialized(body, options.remat)
    if isinstance(blocks, Stack):
        stacked = nnx.state(blocks.stacked)
    elif options.scan:
        stacked = _stacked([nnx.state(block) for block in blocks])
    else:
        for block, block_masks in zip(blocks, of_blocks, strict=True):
            x, _ = body(x, (nnx.state(block), block_masks))
        return x
    return jax.lax.scan(body, x, (_divided(stacked), _stacked(of_blocks)))[0]


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _divided(stacked: Any) -> Any:
    """Stacked parameters divided as those of one block are."""
    flat = [
        (path, v.replace(constrain(v[...], *logical_axes(dotted(path), v.ndim))))
        for path, v in nnx.to_flat_state(stacked)
    ]
    return nnx.from_flat_state(flat)


def _rematerialized(body: Body, remat: Remat) -> Body:
    if remat == "none":
        return body
    policy = jax.checkpoint_policies.dots_saveable if remat == "dots" else None
    return jax.checkpoint(body, policy=policy)
