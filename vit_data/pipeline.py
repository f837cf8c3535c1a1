"""Grain pipelines from a source to NumPy batches. Serves both twins: NHWC, float32.

One element of the Grain data set is a whole batch. Grain's cost for each element is some 30 us on
one core, which for 128 small images would be 4 ms of a step; and a batch that is made in one place
is the same for every number of workers and hosts.
Shapes: b examples in a batch of this host, h height, w width in pixels, c channels.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from vit_data.augment import Augmentation
from vit_data.order import EvalOrder, TrainOrder
from vit_data.preprocess import channel_facts, check_size
from vit_data.reader import EvalBatch, Reader, TrainBatch
from vit_data.resize import ResizeBy, check_resizer
from vit_data.sources import Source
from vit_spec.names import printable
from vit_spec.preprocessing import Preprocessing

Batch = dict[str, np.ndarray]

logger = logging.getLogger("vit_data")


class Batches(Iterator[Batch]):
    """An iterator of batches that reads ahead. Starts over when iterated again after its end.

    `len()` is the number of batches in all (`sys.maxsize` without an end), `corrupt` maps the
    index of every unreadable image met so far to the reason, and `get_state` / `set_state` save
    and restore the place, for resuming a run. The state counts batches of all hosts together, so
    it holds for another number of workers, or of hosts with the same images in a step.
    """

    def __init__(
        self, open_at: Callable[[int], Any], length: int, images: int, reader: Reader
    ) -> None:
        self.corrupt: dict[int, str] = {}
        self._open_at, self._length, self._reader = open_at, length, reader
        self._images = images  # in a batch, on all hosts together
        self._iterator: Any = None
        self._place, self._ended = 0, False

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> "Batches":
        if self._ended:
            self.close()
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._open_at(self._place))
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._ended = True
            self._check_any_readable()
            raise
        self._place += 1
        skipped = batch.pop("skipped")
        for index in skipped[skipped >= 0].tolist():
            self._note_corrupt(index)
        return batch

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch and what was unreadable before it, as JSON values."""
        corrupt = {str(index): reason for index, reason in self.corrupt.items()}
        return {"batches": self._place, "images_in_a_batch": self._images, "corrupt": corrupt}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a place that `get_state` of an equal iterator returned.

        Raises `ValueError` when that iterator had another number of images in a batch.
        """
        if state["images_in_a_batch"] != self._images:
            raise ValueError(
                f"the saved place is in batches of {state['images_in_a_batch']} images and these "
                f"have {self._images}, on all hosts together: keep the batch size, or start anew"
            )
        self.close()
        self._place = state["batches"]
        self.corrupt = {int(index): reason for index, reason in state["corrupt"].items()}

    def describe_corrupt(self) -> dict[str, str]:
        """Every unreadable image met so far, by where it comes from, and the reason."""
        return {self._reader.source.describe(i): why for i, why in sorted(self.corrupt.items())}

    def close(self) -> None:
        """Stops the threads or processes that read ahead; iterating again starts over."""
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator, self._place, self._ended = None, 0, False

    def _note_corrupt(self, index: int) -> None:
        if index in self.corrupt:
            return
        self.corrupt[index] = self._reader.reason(index) or "unreadable"
        if len(self.corrupt) == 1:
            logger.warning(
                "skipped %s, which cannot be read: %s. Others are named at the end",
                printable(self._reader.source.describe(index)),
                printable(self.corrupt[index]),
            )

    def _check_any_readable(self) -> None:
        if len(self.corrupt) == len(self._reader.source):
            self._reader.readable_from(0)  # raises with the reason


def train_batches(
    source: Source,
    *,
    batch_size: int,
    size: tuple[int, int] | int,
    channels: int,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    epochs: int | None = None,
    sizes: Sequence[tuple[int, int]] = (),
    resize_by: ResizeBy = "pillow",
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    cache: bool | None = None,
) -> Batches:
    """Shuffled, augmented batches: `{"image": float32 (b, h, w, c), "label": int32 (b,)}`, and
    `"index": int64 (b,)`, the place of each example in the source.

    With Mixup or CutMix the labels are shares of the k classes instead, float32 (b, k), without
    label smoothing. `sizes` are of progressive resizing: (first step after it, side in pixels), in
    order of the steps; `size` is that of all later steps.

    `batch_size` is b, the share of this host: all `shard_count` hosts together read
    `b * shard_count` examples a step, in the order in which one host would. Batches run on across
    epochs, so every epoch has every example once; with `epochs`, at most the last incomplete batch
    is left out. Order and augmentation follow from `seed`, epoch and example alone. An unreadable
    image is replaced by the next readable one of the source and noted in `corrupt`.
    `workers` 0 reads in threads of this process; with more, processes are spawned, hence the
    program's main module must be importable (`if __name__ == "__main__":`). `cache` True keeps the
    decoded images in memory, None does so for small sets (256 MiB). `resize_by` is `"pillow"`, or
    `"torch"` for PyTorch's kernel: faster, and other pixels (`vit_data.resize`).

    Raises `ValueError` for a batch larger than the source, when no image can be read, and without
    PyTorch for `resize_by` `"torch"`.
    """
    size = check_size(size)
    _check_counts(batch_size, workers, shard_index, shard_count)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside [0, 2**63)")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs {epochs} must be 1 or more, or None for no end")
    if batch_size * shard_count > len(source):
        raise ValueError(
            f"batch_size {batch_size} x {shard_count} hosts is more than the {len(source)} images "
            f"of {source.name}: use a batch_size of at most {len(source) // shard_count}"
        )
    if augmentation.mixes and batch_size % 2:
        raise ValueError(f"batch_size {batch_size} of a host is odd and mixing pairs images: add 1")
    channel_facts(preprocessing, channels)
    check_resizer(resize_by, preprocessing.interpolation)
    fitted = augmentation.crop_scale is None and not sizes
    facts: Any = {"size": size, "channels": channels, "preprocessing": preprocessing}
    facts["resize_by"] = resize_by
    reader = Reader(source, **facts, fitted=fitted, cache=cache)
    schedule = tuple((until, check_size(side)) for until, side in sizes)
    load = TrainBatch(reader, **facts, augmentation=augmentation, seed=seed, sizes=schedule)
    order = TrainOrder(
        len(source),
        batch_size,
        seed=seed,
        epochs=epochs,
        repeats=augmentation.repeats,
        shard_index=shard_index,
        shard_count=shard_count,
    )
    return _batches(order, load, reader, workers, batch_size * shard_count)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    size: tuple[int, int] | int,
    channels: int,
    preprocessing: Preprocessing,
    resize_by: ResizeBy = "pillow",
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    cache: bool | None = None,
) -> Batches:
    """Every example once, in order: as `train_batches`, with `"mask": float32 (b,)`.

    The mask is 1 for an example and 0 for padding, which fills the last batches so that all have
    b examples and all hosts as many batches; and 0 for an image that cannot be read. Where it is
    0, image and label are zeros.

    Raises `ValueError` when no image can be read.
    """
    size = check_size(size)
    _check_counts(batch_size, workers, shard_index, shard_count)
    channel_facts(preprocessing, channels)
    check_resizer(resize_by, preprocessing.interpolation)
    facts: Any = {"size": size, "channels": channels, "preprocessing": preprocessing}
    reader = Reader(source, **facts, fitted=True, cache=cache, resize_by=resize_by)
    order = EvalOrder(len(source), batch_size, shard_index=shard_index, shard_count=shard_count)
    load = EvalBatch(reader, **facts)
    return _batches(order, load, reader, workers, batch_size * shard_count)


def _batches(order: Any, load: Any, reader: Reader, workers: int, images: int) -> Batches:
    return Batches(partial(_open_at, order, load, reader, workers), len(order), images, reader)


def _open_at(order: Any, load: Any, reader: Reader, workers: int, place: int) -> Any:
    """The Grain data set of the batches from `place` on."""
    import grain

    # Reading files and decoding large images run beside each other; copying from memory does not.
    threads = 1 if reader.cached else min(4, _cores())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    dataset = grain.MapDataset.source(order)[place:].map(load).to_iter_dataset(options)
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's processes read its flags, even without absl's app
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return dataset


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_counts(batch_size: int, workers: int, shard_index: int, shard_count: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be 1 or more")
    if workers < 0:
        raise ValueError(f"workers {workers} must be 0 (this process) or more")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index {shard_index} must be in [0, shard_count {shard_count})")
