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

Body = Callable[..., tuple[Array, None]]


def run_blocks(
    blocks: Sequence[nnx.Module], x: Array, masks: Mapping[str, Array] | None, options: Options
) -> Array:
    """`x` (b, t, d) through all blocks, as `options.scan` and `options.remat` say."""
    x = constrain(x, "batch")
    if not options.scan and options.remat == "none":
        for i, block in enumerate(blocks):
            x = constrain(block(x, of_block(masks, i)), "batch")
        return x
    structure = nnx.graphdef(blocks[0])
    states = [nnx.state(block) for block in blocks]
    of_blocks = [of_block(masks, i) for i in range(len(blocks))]

    def body(x: Array, inputs: tuple[Any, Mapping[str, Array] | None]) -> tuple[Array, None]:
        state, block_masks = inputs
        return constrain(nnx.merge(structure, state)(x, block_masks), "batch"), None

    body = _rematerialized(body, options.remat)
    if options.scan:
        stacked, stacked_masks = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *zip(states, of_blocks, strict=True)
        )
        return jax.lax.scan(body, x, (_divided(stacked), stacked_masks))[0]
    for inputs in zip(states, of_blocks, strict=True):
        x, _ = body(x, inputs)
    return x


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
