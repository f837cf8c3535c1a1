"""Teachers: what gives a batch of images its logits, and batches that carry them.

A teacher is called with this process's share of a batch, `image` (b, H, W, c) as the student sees
it and, where the data says so, `index` (b,), and returns logits (b, k); or as a `jax.Array` those
of all shares. What they cost is in `vit_jax.losses`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.functional import merge, split
from vit_jax.parallel import place, to_devices
from vit_jax.sharding import check_model, over_batch, state_shardings
from vit_jax.vit import ViT
from vit_spec import Preprocessing

Teacher = Callable[[Mapping[str, np.ndarray]], Any]


class ModelTeacher:
    """A ViT of this project, divided over the mesh by the rules that divide the student."""

    def __init__(self, model: ViT, mesh: Mesh, *, theirs: Preprocessing, ours: Preprocessing):
        """`theirs` is what the teacher was trained with, `ours` what the batches come with.

        Raises `ValueError` if the mesh cannot divide the model.
        """
        try:
            check_model(model.config, mesh)
        except ValueError as error:
            raise ValueError(f"the teacher's {error}") from error
        structure, params = split(model)
        shapes = {name: p.shape for name, p in params.items()}
        self.params, self.mesh = place(params, state_shardings(params, shapes, mesh)), mesh
        scale, shift = renormalisation(ours, theirs, model.config.in_channels)

        def apply(params: Any, images: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return merge(structure, params)(images * scale + shift)

        self.apply = jax.jit(apply, out_shardings=over_batch(mesh))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> jax.Array:
        return self.apply(self.params, to_devices(batch["image"], self.mesh))


class Precomputed:
    """Logits (images of the data set, k) from a `.npy` file, or the only array of an `.npz`."""

    def __init__(self, path: Path):
        found = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        if path.suffix == ".npz":
            if len(found.files) != 1:
                raise ValueError(f"{path} holds {found.files}: a teacher's file has one array")
            found = found[found.files[0]]
        if found.ndim != 2:
            raise ValueError(f"{path} is {found.shape}: logits are (images, classes)")
        self.logits = found

    def __call__(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        if "index" not in batch:
            raise ValueError("the batches have no index, so precomputed logits cannot be looked up")
        last = int(batch["index"].max())
        if last >= len(self.logits):
            raise ValueError(
                f"the data has an image {last}, and the teacher's file {len(self.logits)} rows: "
                f"compute it for the same data, in its order"
            )
        return np.asarray(self.logits[batch["index"]], np.float32)


class Taught(Iterator[dict[str, Any]]):
    """Batches with `teacher`, the logits (b, k); the rest is that of `batches`."""

    def __init__(self, batches: Any, teacher: Teacher, num_classes: int):
        self.batches, self.teacher, self.num_classes = batches, teacher, num_classes

    def __next__(self) -> dict[str, Any]:
        batch = next(self.batches)
        logits = self.teacher(batch)
        count = len(logits if isinstance(logits, jax.Array) else batch["image"])
        expected = (count, self.num_classes)
        if logits.shape != expected:
            raise ValueError(f"the teacher gave logits {logits.shape}, not {expected}")
        return {**batch, "teacher": logits}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


def renormalisation(
    before: Preprocessing, after: Preprocessing, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset (c,) that take images normalised by `before` to those by `after`."""
    (mean, std), (new_mean, new_std) = (_of_channels(p, channels) for p in (before, after))
    return std / new_std, (mean - new_mean) / new_std


def _of_channels(preprocessing: Preprocessing, channels: int) -> np.ndarray:
    facts = np.array([preprocessing.mean, preprocessing.std], np.float32)
    same = facts.shape[1] == channels
    return facts if same else np.repeat(facts.mean(axis=1, keepdims=True), channels, axis=1)
