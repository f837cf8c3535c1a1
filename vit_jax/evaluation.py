"""Accuracy on a test set: every image exactly once, padding masked out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax.functional import Params, merge
from vit_jax.sharding import over_data, replicated


class Evaluation:
    """Counts right predictions over `batches` of `image`, `label` and `mask`, each time anew."""

    def __init__(self, structure: Any, batches: Any, mesh: Mesh):
        self.batches, self.shared, whole = batches, over_data(mesh), replicated(mesh)

        def count(params: Params, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Any:
            right = merge(structure, params)(images).argmax(-1) == labels
            return jnp.stack([jnp.sum(right * mask), jnp.sum(mask)])

        shared = (self.shared,) * 3
        self.count = jax.jit(count, in_shardings=(whole, *shared), out_shardings=whole)

    def __call__(self, params: Params) -> float:
        """Share of the images that `params` classify correctly."""
        counts = []
        for batch in self.batches:
            with jax.transfer_guard("disallow"):
                arrays = (batch["image"], batch["label"], batch["mask"])
                counts.append(self.count(params, *jax.device_put(arrays, self.shared)))
        right, seen = np.asarray(jax.device_get(counts), np.float64).sum(axis=0)
        return float(right / seen)

    @property
    def corrupt(self) -> int:
        """Images that could not be read."""
        return len(self.batches.corrupt)
