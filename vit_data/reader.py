"""Reads the examples of a batch: decode, fit, keep in memory, step over unreadable images. No twin.

Shapes: b examples in a batch, h height, w width in pixels, c channels.
"""

from typing import Any

import numpy as np

from vit_data.augment import Augmentation, augment, inception_crop
from vit_data.decode import decode
from vit_data.order import ExampleRng, Slots
from vit_data.preprocess import channel_facts, check_size, fit, normalise
from vit_data.sources import Source
from vit_spec.preprocessing import Preprocessing

CACHE_LIMIT = 256 * 2**20  # bytes of decoded images that are kept without being asked to


class Reader:
    """The prepared images of a source by index, from memory where it pays.

    Prepared is decoded and, with `fitted`, brought to `size`. `cache` None keeps the images when
    all of them, if like the first, take less than `CACHE_LIMIT` bytes; `cached` tells.
    Raises `ValueError` when the source is empty or no image of it can be read.
    """

    def __init__(
        self,
        source: Source,
        *,
        size: tuple[int, int],
        channels: int,
        preprocessing: Preprocessing,
        fitted: bool,
        cache: bool | None,
    ) -> None:
        if not len(source):
            raise ValueError(f"{source.name} has no images")
        self.source = source
        self._size, self._channels, self._preprocessing = size, channels, preprocessing
        self._fitted = fitted
        self._kept: dict[int, tuple[np.ndarray, int]] = {}
        self._unreadable: dict[int, str] = {}
        self.cached = False
        first = self.readable_from(0)
        self.cached = first[0].nbytes * len(source) <= CACHE_LIMIT if cache is None else cache

    def read(self, index: int) -> tuple[np.ndarray, int] | None:
        """Image uint8 (h, w, c) and label of one example; None when it cannot be read."""
        kept = self._kept.get(index)
        if kept is not None or index in self._unreadable:
            return kept
        try:
            example = self.source[index]
            image = decode(example["image"], channels=self._channels)
        except (OSError, ValueError) as error:
            self._unreadable[index] = str(error)
            return None
        if self._fitted:
            image = fit(image, self._size, self._preprocessing)
        if self.cached:
            self._kept[index] = (image, example["label"])
        return image, example["label"]

    def readable_from(self, index: int) -> tuple[np.ndarray, int]:
        """The first example at or after `index` that can be read, from the end on to the start."""
        for step in range(len(self.source)):
            found = self.read((index + step) % len(self.source))
            if found is not None:
                return found
        raise ValueError(
            f"none of the {len(self.source)} images of {self.source.name} can be read; "
            f"{self.source.describe(0)}: {self.reason(0)}"
        )

    def reason(self, index: int) -> str:
        """Why example `index` cannot be read; empty when it can."""
        self.read(index)
        return self._unreadable.get(index, "")


class TrainBatch:
    """Slots to an augmented batch; see `vit_data.pipeline` for what it holds. Picklable."""

    def __init__(
        self,
        reader: Reader,
        *,
        size: tuple[int, int],
        channels: int,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._reader, self._seed, self._augmentation = reader, seed, augmentation
        self._shape, self._preprocessing = (*check_size(size), channels), preprocessing
        self._mean, self._std = channel_facts(preprocessing, channels)

    def __call__(self, slots: Slots) -> dict[str, Any]:
        batch = _empty(len(slots.example), self._shape)
        rngs = ExampleRng(self._seed)  # one for each call: threads must not share it
        pairs = zip(slots.epoch.tolist(), slots.example.tolist(), strict=True)
        for slot, (epoch, index) in enumerate(pairs):
            found = self._reader.read(index)
            if found is None:
                batch["skipped"][slot] = index
                found = self._reader.readable_from(index)
            image, batch["label"][slot] = found
            batch["image"][slot] = self._change(image, rngs.at(epoch, index))
        batch["index"] = slots.example
        batch["image"] = normalise(batch["image"], self._mean, self._std)
        return batch

    def _change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._augmentation.crop_scale is not None:
            size = (self._shape[0], self._shape[1])
            image = inception_crop(image, rng, size, self._augmentation, self._preprocessing)
        return augment(image, rng, self._augmentation)


class EvalBatch:
    """Slots to a batch with a mask: 0 for padding and for images that cannot be read. Picklable."""

    def __init__(
        self,
        reader: Reader,
        *,
        size: tuple[int, int],
        channels: int,
        preprocessing: Preprocessing,
    ) -> None:
        self._reader, self._shape = reader, (*check_size(size), channels)
        self._mean, self._std = channel_facts(preprocessing, channels)

    def __call__(self, slots: Slots) -> dict[str, Any]:
        batch = _empty(len(slots.example), self._shape)
        mask = slots.valid.astype(np.float32)
        for slot in np.flatnonzero(slots.valid):
            index = int(slots.example[slot])
            found = self._reader.read(index)
            if found is None:
                batch["skipped"][slot], mask[slot] = index, 0
            else:
                batch["image"][slot], batch["label"][slot] = found
        image = normalise(batch["image"], self._mean, self._std)
        image[mask == 0] = 0
        return {**batch, "image": image, "mask": mask}


def _empty(count: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {
        "image": np.zeros((count, *shape), np.uint8),  # (b, h, w, c)
        "label": np.zeros(count, np.int32),  # (b,)
        "skipped": np.full(count, -1, np.int64),  # (b,) index of an unreadable example, else -1
    }
