"""What is done to arrays on their way from JAX's layout to PyTorch's, and back.

Every operation carries its inverse, and all of them are permutations of values, so gradients and
moments cross by the same table as parameters, and so do the outputs of a layer.

Shapes: i inputs, o outputs, h heads of k channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Op:
    """Arrays of the JAX side to arrays of the PyTorch side, and back.

    Both functions take and return tuples of NumPy arrays, one array for each name of the rule, and
    only move values: transpose, reshape, split, stack, concatenate. A kernel (i, o) that PyTorch
    keeps as (o, 1, i): `Op(lambda a: (a[0].T[:, None],), lambda a: (a[0][:, 0].T,))`.
    """

    to_torch: Callable[[Arrays], Arrays]
    to_jax: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class PartOp:
    """An operation made of another one, its part; without a part it takes the law of the leaf."""

    make: Callable[[Op], Op]
    part: "Op | PartOp | None" = None
    layers: int = 0  # PyTorch's modules in one array of JAX; 0: nothing is stacked

    def of(self, law: Op) -> Op:
        """The operation for a leaf that crosses by `law` where nothing else is said."""
        return self.make(law if self.part is None else resolved(self.part, law))


def resolved(op: Op | PartOp | None, law: Op) -> Op:
    """The operation for a leaf that crosses by `law` where nothing else is said."""
    if op is None:
        return law
    return op.of(law) if isinstance(op, PartOp) else op


def layers_of(op: Op | PartOp | None) -> int:
    """How many layers an operation takes out of one array; 0 if it stacks nothing."""
    return op.layers if isinstance(op, PartOp) else 0


def permute(*axes: int) -> Op:
    """PyTorch's axes, as indices of JAX's: `permute(1, 0)` transposes."""
    inverse = tuple(int(a) for a in np.argsort(axes))
    return Op(
        lambda arrays: tuple(a.transpose(axes) for a in arrays),
        lambda arrays: tuple(a.transpose(inverse) for a in arrays),
    )


same = Op(lambda arrays: arrays, lambda arrays: arrays)
"""The same layout on both sides."""


def dense_general(*, features: tuple[int, ...] = (-1,), inputs: tuple[int, ...] = (-1,)) -> Op:
    """Flax's `DenseGeneral` or `LinearGeneral` to a Linear: axes that PyTorch has as one.

    `features=(3, 12, 64)`: kernel (i, 3, 12, 64) to (2304, i) and bias (3, 12, 64) to (2304,).
    `inputs=(12, 64)`: kernel (12, 64, o) to (o, 768). One size of each may be -1.
    """
    count = len(features)

    def to_torch(array: np.ndarray) -> np.ndarray:
        before = array.shape[: array.ndim - count]
        outputs = int(np.prod(array.shape[len(before) :]))
        return array.reshape(-1, outputs).T if before else array.reshape(outputs)

    def to_jax(array: np.ndarray) -> np.ndarray:
        if array.ndim == 1:
            return array.reshape(features)
        outputs = np.empty(len(array)).reshape(features).shape
        return array.T.reshape(*inputs, *outputs)

    return Op(
        lambda arrays: tuple(map(to_torch, arrays)), lambda arrays: tuple(map(to_jax, arrays))
    )


def heads(num_heads: int, *, output: bool = False) -> Op:
    """Flax's attention: kernel (i, h, k) or bias (h, k) of query, key and value to (h k, i) or
    (h k,). With `output=True` the kernel (h, k, o) of the projection after it, to (o, h k)."""
    if output:
        return dense_general(inputs=(num_heads, -1))
    return dense_general(features=(num_heads, -1))


@overload
def fused(part: Op, count: int = 3) -> Op: ...
@overload
def fused(part: None = None, count: int = 3) -> PartOp: ...
def fused(part: Op | None = None, count: int = 3) -> Op | PartOp:
    """`count` JAX arrays, each carried by `part`, to one PyTorch array, row after row.

    Without `part` each follows the law of its name.
    """

    def make(part: Op) -> Op:
        return Op(
            lambda arrays: (np.concatenate(part.to_torch(arrays), axis=0),),
            lambda arrays: part.to_jax(_rows(arrays[0], count)),
        )

    return _made(make, part)


@overload
def split(part: Op, count: int = 3) -> Op: ...
@overload
def split(part: None = None, count: int = 3) -> PartOp: ...
def split(part: Op | None = None, count: int = 3) -> Op | PartOp:
    """One JAX array, carried by `part`, to `count` PyTorch arrays, row after row: a fused `qkv` to
    `query`, `key` and `value`. Without `part` it follows the law of its name."""

    def make(part: Op) -> Op:
        return Op(
            lambda arrays: _rows(part.to_torch(arrays)[0], count),
            lambda arrays: part.to_jax((np.concatenate(arrays, axis=0),)),
        )

    return _made(make, part)


def stacked(layers: int, part: Op | PartOp | None = None, *, axis: int = 0) -> PartOp:
    """Layers that JAX scans or maps over and keeps in one array, (layers, ...) along `axis`.

    PyTorch has a module for each; a placeholder that only PyTorch's name has stands for its number:
    `Rule("layers", "blocks.{i}", stacked(12))`. Each layer is carried by `part`, or by the law.
    """

    def make(part: Op) -> Op:
        def to_torch(arrays: Arrays) -> Arrays:
            for array in arrays:
                if array.shape[axis : axis + 1] != (layers,):
                    raise ValueError(f"axis {axis} of {array.shape} is not {layers} layers")
            moved = [np.moveaxis(a, axis, 0) for a in arrays]
            each = (part.to_torch(tuple(a[i] for a in moved)) for i in range(layers))
            return tuple(array for layer in each for array in layer)

        def to_jax(arrays: Arrays) -> Arrays:
            size = len(arrays) // layers
            each = [part.to_jax(arrays[i * size : (i + 1) * size]) for i in range(layers)]
            return tuple(np.stack(layer, axis) for layer in zip(*each, strict=True))

        return Op(to_torch, to_jax)

    return PartOp(make, part, layers)


def _made(make: Callable[[Op], Op], part: Op | None) -> Op | PartOp:
    return PartOp(make) if part is None else make(part)


def _rows(array: np.ndarray, count: int) -> Arrays:
    return tuple(np.split(array, count, axis=0))
