"""What both sides of a pair are fed: inputs, cotangents and training batches, all from a seed.

Everything is float64 NumPy in JAX's layout, rounded to values that the checked dtype can hold, so
that every side, dtype and machine sees the same numbers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity import inputs
from parity.structures import Image, named, replaced
from vit_spec import ViTConfig

Shapes = Mapping[str, tuple[int, ...]]


class TwinFeed:
    """Random images for a ViT, of the native size and of another one."""

    def __init__(self, config: ViTConfig, batch_size: int, seed: int, *, raw: bool = False):
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.raw = raw  # 8-bit values for models with a preprocessing, instead of normalised ones

    def sets(self, dtype: str) -> dict[str, np.ndarray]:
        """Images (b, H, W, c) by label."""
        sets = inputs.image_sets(self.config, self.batch_size, self.seed)
        return {label: self._images(images, dtype) for label, images in sets.items()}

    def cotangent(self, shapes: Shapes, dtype: str) -> np.ndarray:
        """A random gradient of the logits."""
        return rounded(inputs.cotangent(self.config, self.batch_size, self.seed), dtype)

    def batches(self, shapes: Shapes, steps: int, dtype: str) -> Iterator[inputs.Batch]:
        """Training batches with the masks of dropout and stochastic depth."""
        for batch in inputs.batches(self.config, self.batch_size, steps, self.seed):
            masks = {site: rounded(mask, dtype) for site, mask in batch.masks.items()}
            images = self._images(batch.images, dtype)
            yield inputs.Batch(images, batch.labels, masks, batch.teacher)

    def _images(self, images: np.ndarray, dtype: str) -> np.ndarray:
        if self.raw:
            return np.clip(np.round(128 + 64 * images), 0, 255)
        return rounded(images, dtype)


@dataclass(frozen=True)
class AnyBatch:
    """Inputs of one training step, and what each output should be."""

    inputs: Any
    targets: dict[str, np.ndarray]  # by output; integers: classes, otherwise values


@dataclass(frozen=True)
class AnyFeed:
    """The inputs that the user gave, and random ones like them for training."""

    given: Any
    seed: int

    def __post_init__(self) -> None:
        leaves = list(named(self.given, "inputs"))
        wrong = [
            f"{place} is of type {type(v).__module__}.{type(v).__name__}"
            for place, v in leaves
            if not isinstance(v, np.ndarray | np.generic | Image)
        ]
        if wrong:
            raise ValueError(f"inputs= takes NumPy arrays and parity.Image, but {', '.join(wrong)}")
        for place, value in leaves:
            if not np.size(getattr(value, "array", value)):
                raise ValueError(f"{place} is empty: nothing would be compared")
            if isinstance(value, Image) and len(value.array) < 2:
                raise ValueError(
                    f"{place} has {len(value.array)} image(s): one hides mixed-up axes, give 2"
                )

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first input."""
        lengths: list[int] = []
        replaced(self.given, lambda v: lengths.extend(np.shape(getattr(v, "array", v))[:1]))
        return lengths[0] if lengths else 1

    def sets(self, dtype: str) -> dict[str, Any]:
        """The inputs as they were given."""
        return {"": self._each(lambda array: array, dtype)}

    def cotangent(self, shapes: Shapes, dtype: str) -> dict[str, np.ndarray]:
        """A random gradient of every output, in PyTorch's layout."""
        rng = np.random.default_rng((self.seed, 1))
        return {name: rounded(rng.normal(size=shape), dtype) for name, shape in shapes.items()}

    def batches(self, shapes: Shapes, steps: int, dtype: str) -> Iterator[AnyBatch]:
        """Inputs of the given mean and spread; integers are shuffled along the first axis.

        One output of rank 2 is taken for logits and gets random classes, any other a random value.
        """
        classes = len(shapes) == 1 and all(len(shape) == 2 for shape in shapes.values())
        for step in range(steps):
            rng = np.random.default_rng((self.seed, 2, step))

            def redrawn(array: np.ndarray, rng: Any = rng) -> np.ndarray:
                if array.dtype.kind in "iub":
                    return rng.permutation(array, axis=0)
                with np.errstate(invalid="ignore"):  # NaN and infinity stay
                    return rng.normal(array.mean(), array.std() or 1.0, array.shape)

            targets = {
                name: rng.integers(0, shape[1], shape[0]) if classes else rng.normal(size=shape)
                for name, shape in shapes.items()
            }
            yield AnyBatch(self._each(redrawn, dtype), targets)

    def _each(self, change: Callable[[np.ndarray], np.ndarray], dtype: str) -> Any:
        def leaf(value: Any) -> Any:
            array = change(value.array if isinstance(value, Image) else value)
            array = array if array.dtype.kind in "iub" else rounded(array, dtype)
            return dataclasses.replace(value, array=array) if isinstance(value, Image) else array

        return replaced(self.given, leaf)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Float64 values that `dtype` can hold, so that every precision sees the same numbers."""
    with np.errstate(over="ignore"):  # an infinity is named where it first appears
        return array.astype(np.dtype(dtype)).astype(np.float64)
