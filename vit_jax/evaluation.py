"""Measures on a test set: every image exactly once, padding masked out."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax.functional import Params, merge
from vit_jax.parallel import to_devices
from vit_jax.preemption import Preempted, Preemption
from vit_jax.sharding import replicated

TOP = 5


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What a model does on a test set."""

    __test__ = False  # for pytest, which takes the name for a test's

    images: int
    accuracy: float
    """Share of the images whose class has the largest logit."""
    loss: float
    """Mean cross-entropy, without label smoothing, in float32."""
    top5: float | None
    """Share of the images whose class is among the five largest logits; None of up to 5 classes."""
    right: tuple[int, ...]
    """For each class, the images of it that were classified correctly."""
    of_class: tuple[int, ...]
    """For each class, the images of it."""

    @property
    def by_class(self) -> list[float | None]:
        """The accuracy of each class; None of one without an image."""
        return [r / n if n else None for r, n in zip(self.right, self.of_class, strict=True)]

    def values(self) -> dict[str, Any]:
        """For a line of metrics."""
        top5 = {} if self.top5 is None else {"test_top5": self.top5}
        return {
            "test_accuracy": self.accuracy,
            "test_loss": self.loss,
            **top5,
            "test_accuracy_by_class": self.by_class,
        }

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.2%}"
        return f"test accuracy {self.accuracy:.2%}{top5}, loss {self.loss:.4f}"


class Evaluation:
    """Measures a model over `batches` of `image`, `label` and `mask`, each time anew.

    `batches` are this process's share; all processes have as many, and all get the same answer.
    """

    def __init__(self, structure: Any, batches: Any, mesh: Mesh):
        self.batches, self.mesh = batches, mesh

        def sums(params: Params, images: jax.Array, labels: jax.Array, mask: jax.Array) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                logits = merge(structure, params)(images).astype(jnp.float32)
            classes = logits.shape[-1]
            right = (logits.argmax(-1) == labels) * mask
            loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
            found = {
                "loss": jnp.sum(jnp.where(mask > 0, loss, 0)),
                "right": jnp.zeros(classes, jnp.int32).at[labels].add(right.astype(jnp.int32)),
                "of_class": jnp.zeros(classes, jnp.int32).at[labels].add(mask.astype(jnp.int32)),
            }
            if classes > TOP:
                near = jax.lax.top_k(logits, TOP)[1] == labels[:, None]
                found["top5"] = jnp.sum(near.any(-1) * mask)
            return found

        self.sums = jax.jit(sums, out_shardings=replicated(mesh))

    def __call__(self, params: Params, *, stop: Preemption | None = None) -> TestResult:
        """What `params` do. Raises `Preempted` as soon as `stop` has a notice."""
        parts = []
        for batch in self.batches:
            if stop is not None and stop.noticed:
                self.batches.close()
                raise Preempted
            with jax.transfer_guard("disallow"):
                arrays = (batch["image"], batch["label"], batch["mask"])
                parts.append(self.sums(params, *to_devices(arrays, self.mesh)))
        parts = jax.device_get(parts)
        total: dict[str, Any] = {
            n: np.sum([part[n] for part in parts], axis=0, dtype=np.float64) for n in parts[0]
        }
        images = int(total["of_class"].sum())
        return TestResult(
            images=images,
            accuracy=float(total["right"].sum() / images),
            loss=float(total["loss"] / images),
            top5=float(total["top5"] / images) if "top5" in total else None,
            right=tuple(map(int, total["right"])),
            of_class=tuple(map(int, total["of_class"])),
        )
