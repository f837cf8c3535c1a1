"""Where arrays live: a mesh of devices with one axis, `data`. One device is the special case."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Any = None) -> Mesh:
    """A mesh of all devices, or of those given."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device: parameters and optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices: batches."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `ValueError` unless the devices can share a batch evenly."""
    count = mesh.size
    if batch_size % count:
        near = max(count, batch_size // count * count)
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of the {count} devices: use {near} "
            f"or {near + count}"
        )
