"""A digest of each tensor, computed where the tensor lives: no copy to the host, any sharding."""

import contextlib
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vit_spec.run_step import MIXES, SALTS


def digests(tree: Any) -> dict[str, str]:
    """Path of each array to 16 hexadecimal digits of its shape, dtype, values and their places.

    The sum over the elements of a hash of (bits, index), in integers, so neither the order of the
    sum nor the number of devices matters. It finds damage; it is no protection from forgery.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    # One at a time: on CPUs, programs that wait for each other's devices take all threads.
    sums = [jax.block_until_ready(_sums(leaf)) for _, leaf in leaves]
    return {
        jax.tree_util.keystr(path): "{:08x}{:08x}".format(*np.asarray(found).tolist())
        for (path, _), found in zip(leaves, jax.device_get(sums), strict=True)
    }


def describe(tree: Any) -> dict[str, str]:
    """Path of each array to its dtype and shape."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape}" for path, leaf in leaves}


def _sums(leaf: Any) -> Any:
    """Both sums. JAX would halve NumPy's 64 bits before they are read, unless in x64 mode."""
    wide = isinstance(leaf, np.ndarray) and leaf.dtype.itemsize == 8
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        return _program(_target(leaf))(leaf)


def _target(leaf: Any) -> NamedSharding | None:
    """All devices of the array get the digest, so every process can read it."""
    sharding = getattr(leaf, "sharding", None)
    named = isinstance(sharding, NamedSharding)
    return NamedSharding(sharding.mesh, PartitionSpec()) if named else None


@cache
def _program(out: NamedSharding | None) -> Any:
    return jax.jit(_digest) if out is None else jax.jit(_digest, out_shardings=out)


def _digest(x: Array) -> Array:  # uint32 (2,)
    salt = sum(ord(c) * 31**i for i, c in enumerate(f"{x.dtype}{x.shape}")) % 2**32
    words = _words(x)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index, stride = index + place * jnp.uint32(stride % 2**32), stride * words.shape[axis]
    hashed = [_mix(words ^ _mix(index + jnp.uint32((s + salt) % 2**32))) for s in SALTS]
    return jnp.stack([jnp.sum(h, dtype=jnp.uint32) for h in hashed])


def _words(x: Array) -> Array:
    """The bits of an array as uint32, with one more axis for types of 64 bits."""
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's finalizer: every bit changes half of all."""
    for shift, factor in MIXES:
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
