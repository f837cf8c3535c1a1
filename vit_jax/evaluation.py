"""Accuracy on a test set: every image exactly once, padding masked out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax.functional import Params, merge
from vit_jax.parallel import to_devices
from vit_jax.preemption import Preempted, Preemption
from vit_jax.sharding import replicated


class Evaluation:
    """Counts right predictions over `batches` of `image`, `label` and `mask`, each time anew.

    `batches` are this process's share; all processes have as many, and all get the same answer.
    """

    def __init__(self, structure: Any, batches: Any, mesh: Mesh):
        self.seen = 0  # images of the last evaluation
        self.batches, self.mesh = batches, mesh

        def count(params: Params, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                right = merge(structure, params)(images).argmax(-1) == labels
            return jnp.stack([jnp.sum(right * mask), jnp.sum(mask)])

        self.count = jax.jit(count, out_shardings=replicated(mesh))

    def __call__(self, params: Params, *, stop: Preemption | None = None) -> float:
        """Share of the images that `params` classify correctly.

        Raises `Preempted` as soon as `stop` has a notice.
        """
        counts = []
        for batch in self.batches:
            if stop is not None and stop.noticed:
                self.batches.close()
                raise Preempted
            with jax.transfer_guard("disallow"):
                arrays = (batch["image"], batch["label"], batch["mask"])
                counts.append(self.count(params, *to_devices(arrays, self.mesh)))
        right, seen = np.asarray(jax.device_get(counts), np.float64).sum(axis=0)
        self.seen = int(seen)
        return float(right / seen)
