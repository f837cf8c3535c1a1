"""The law between the twins: one name, leaf by leaf. No table, because the twins mirror each other.

A state is a flat `dict[str, np.ndarray]` of dotted names. The JAX side stores kernels as
(in, out) and (height, width, in, out), the PyTorch side as (out, in) and (out, in, height, width).
"""

from collections.abc import Iterable

import numpy as np

State = dict[str, np.ndarray]

# (JAX leaf, rank): (PyTorch leaf, axes of the JAX array in PyTorch's order)
LEAVES: dict[tuple[str, int], tuple[str, tuple[int, ...]]] = {
    ("kernel", 2): ("weight", (1, 0)),
    ("kernel", 3): ("weight", (2, 1, 0)),
    ("kernel", 4): ("weight", (3, 2, 0, 1)),
    ("scale", 1): ("weight", (0,)),
    ("embedding", 2): ("weight", (0, 1)),
    ("mean", 1): ("running_mean", (0,)),
    ("var", 1): ("running_var", (0,)),
}

LINEAR = ("proj", "qkv", "fc1", "fc1_g", "fc1_x", "fc2", "q", "kv", "fc", "head", "head_dist")
"""Modules of the twins that have a kernel."""


def torch_name(jax_name: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """The PyTorch name of a JAX parameter, and the axes that permute it to PyTorch's layout."""
    path, dot, leaf = jax_name.rpartition(".")
    new_leaf, axes = LEAVES.get((leaf, rank), (leaf, tuple(range(rank))))
    return f"{path}{dot}{new_leaf}", axes


def jax_name(torch_name: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """The JAX name of a twin's PyTorch parameter, and the axes that permute it to JAX's layout.

    Raises `ValueError` for a weight of several axes in another model's module: it may be a kernel
    or an embedding, which is not transposed.
    """
    path, dot, leaf = torch_name.rpartition(".")
    if leaf == "weight" and rank > 1 and path.rpartition(".")[2] not in LINEAR:
        raise ValueError(
            f"the name {torch_name} does not tell whether it is a kernel or an embedding: only the "
            f"kernels of {', '.join(LINEAR)} are known"
        )
    name = next((new for (new, n), (old, _) in LEAVES.items() if (old, n) == (leaf, rank)), leaf)
    axes = LEAVES.get((name, rank), (leaf, tuple(range(rank))))[1]
    return f"{path}{dot}{name}", tuple(sorted(range(rank), key=axes.__getitem__))


def to_torch_layout(state: State) -> State:
    """A JAX state in PyTorch's names and layout. Views, not copies."""
    converted = {}
    for name, array in state.items():
        new_name, axes = torch_name(name, array.ndim)
        converted[new_name] = array.transpose(axes)
    return converted


def to_jax_layout(state: State, jax_names: Iterable[tuple[str, int]]) -> State:
    """A PyTorch state in JAX's names and layout. Views, not copies.

    `jax_names` are the names and ranks of the JAX side, because `weight` alone does not say
    whether it is a kernel, a scale or an embedding. Names must match exactly: see `check_shapes`.
    """
    converted = {}
    for name, rank in jax_names:
        source, axes = torch_name(name, rank)
        converted[name] = state[source].transpose(np.argsort(axes))
    return converted
