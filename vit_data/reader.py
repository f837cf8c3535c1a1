"""Reads the examples of a batch: decode, fit, keep in memory, step over unreadable images. No twin.

Shapes: b examples in a batch, h height, w width in pixels, c channels.
"""

from typing import Any

import numpy as np

from vit_data.augment import Augmentation, augment, inception_crop
from vit_data.color import color_jitter
from vit_data.decode import decode_picture
from vit_data.erase import random_erasing
from vit_data.mix import draw_mix, mix_images, mix_labels
from vit_data.order import ERASE, ExampleRng, Slots, mix_rng
from vit_data.policies import Policy, policy_of
from vit_data.preprocess import channel_facts, check_size, fit, normalise
from vit_data.randaug_timm import Look, turning
from vit_data.resize import ResizeBy
from vit_data.sources import Source
from vit_spec.preprocessing import Preprocessing

Sizes = tuple[tuple[int, tuple[int, int]], ...]
"""Progressive resizing: (first step after it, (h, w)), by step."""

CACHE_LIMIT = 256 * 2**20  # bytes of decoded images that are kept without being asked to


class Reader:
    """The prepared images of a source by index, from memory where it pays.

    Prepared is a decoded picture, or with `fitted` one brought to `size`, uint8 (h, w, c).
    `cache` None keeps the images when all of them, if like the first, take less than `CACHE_LIMIT`
    bytes; `cached` tells.
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
        resize_by: ResizeBy = "pillow",
    ) -> None:
        if not len(source):
            raise ValueError(f"{source.name} has no images")
        self.source = source
        self._size, self._channels, self._preprocessing = size, channels, preprocessing
        self._fitted = fitted
        self._resize_by: ResizeBy = resize_by
        self._kept: dict[int, tuple[Any, int]] = {}
        self._unreadable: dict[int, str] = {}
        self.cached = False
        _, first = self.readable_from(0)
        size_in_memory = first[0].nbytes if fitted else 4 * first[0].width * first[0].height
        self.cached = size_in_memory * len(source) <= CACHE_LIMIT if cache is None else cache

    def read(self, index: int) -> tuple[Any, int] | None:
        """Prepared image and label of one example; None when it cannot be read."""
        kept = self._kept.get(index)
        if kept is not None or index in self._unreadable:
            return kept
        try:
            example = self.source[index]
            image = decode_picture(example["image"], channels=self._channels)
        except (OSError, ValueError) as error:
            self._unreadable[index] = str(error)
            return None
        if self._fitted:
            image = fit(image, self._size, self._preprocessing, self._resize_by)
        if self.cached:
            self._kept[index] = (image, example["label"])
        return image, example["label"]

    def readable_from(self, index: int) -> tuple[int, tuple[Any, int]]:
        """The first example at or after `index` that can be read, from the end on to the start:
        its index, and what `read` gives."""
        for step in range(len(self.source)):
            place = (index + step) % len(self.source)
            found = self.read(place)
            if found is not None:
                return place, found
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
        sizes: Sizes = (),
        resize_by: ResizeBy = "pillow",
    ) -> None:
        self._reader, self._seed, self._augmentation = reader, seed, augmentation
        self._size, self._sizes, self._preprocessing = size, sizes, preprocessing
        self._resize_by: ResizeBy = resize_by
        self._mean, self._std = channel_facts(preprocessing, channels)
        colour = np.minimum(np.rint(self._mean * 255), 255).astype(int).tolist()
        self._look = Look(tuple(colour), turning(preprocessing.interpolation))

    def __call__(self, slots: Slots) -> dict[str, Any]:
        size = self.size_at(slots.step)
        batch = _empty(len(slots.example), (*size, len(self._mean)))
        keys = list(
            zip(*(part.tolist() for part in (slots.epoch, slots.example, slots.copy)), strict=True)
        )
        batch["index"] = slots.example.copy()
        rngs = ExampleRng(self._seed)  # one for each call: threads must not share it
        policy = policy_of(self._augmentation.policy)
        for slot, key in enumerate(keys):
            index = key[1]
            found = self._reader.read(index)
            if found is None:
                batch["skipped"][slot] = index
                batch["index"][slot], found = self._reader.readable_from(index)
            image, batch["label"][slot] = found
            batch["image"][slot] = self._change(image, size, policy, rngs.at(*key))
        images = batch["image"] = normalise(batch["image"], self._mean, self._std)
        if self._augmentation.erasing:
            rngs = ExampleRng(self._seed, ERASE)
            choice = self._augmentation.erasing, self._augmentation.erasing_mode
            for slot, key in enumerate(keys):
                random_erasing(images[slot], rngs.at(*key), *choice)
        if self._augmentation.mixes:
            batch["label"] = self._mix(images, batch["label"], slots.step)
        return batch

    def size_at(self, step: int) -> tuple[int, int]:
        """The (h, w) of the images of a step."""
        return next((size for until, size in self._sizes if step < until), self._size)

    def _change(
        self,
        image: Any,
        size: tuple[int, int],
        policy: Policy | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        choice = self._augmentation
        if choice.crop_scale is not None:
            how = choice, self._preprocessing, self._resize_by
            image = inception_crop(image, rng, size, *how)
        elif self._sizes:
            image = fit(image, size, self._preprocessing, self._resize_by)
        image = augment(image, rng, choice)
        if policy is not None:
            image = policy(image, rng, self._look)
        return color_jitter(image, rng, choice.color_jitter)

    def _mix(self, images: np.ndarray, labels: np.ndarray, step: int) -> np.ndarray:
        choice = self._augmentation
        mix = draw_mix(
            mix_rng(self._seed, step),
            (images.shape[1], images.shape[2]),
            mixup=choice.mixup,
            cutmix=choice.cutmix,
            probability=choice.mix_probability,
            switch=choice.mix_switch,
        )
        mix_images(images, mix)
        return mix_labels(labels, self._reader.source.num_classes, mix)


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
