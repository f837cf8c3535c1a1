"""Which example stands where: the order of a data set over epochs, hosts and batches. No twin.

All randomness is Philox (Salmon et al., 2011) addressed by counter, so that it depends on
(seed, epoch, example) alone and never on the number of workers, hosts or earlier draws. NumPy
keeps the raw stream of a bit generator fixed between versions; its `shuffle` is not.
Shapes: b examples in a batch of this host.
"""

import sys
from typing import Any, NamedTuple

import numpy as np

# Second word of the Philox key: one stream for each purpose.
_ORDER, AUGMENT, ERASE, _MIX, _SPREAD = range(5)


class Slots(NamedTuple):
    """The examples of one batch: int64 (b,) each, `valid` bool (b,)."""

    step: int  # number of the batch
    epoch: np.ndarray
    example: np.ndarray
    copy: np.ndarray  # which of the differently augmented copies of the example in this epoch
    valid: np.ndarray  # False where there is no example left to evaluate


class TrainOrder:
    """Batches over `length` examples, shuffled anew in every epoch; a random-access sequence.

    The epochs are joined before they are cut into batches, so an example is lost only at the end
    of the last epoch (fewer than one batch). Host `shard_index` reads its own stretch of every
    global batch: the hosts' batches, joined in order, are what one host alone would read.

    With `repeats` r every example has r copies in an epoch, in one batch (a few of them in two when
    r does not divide it): all first copies, then all second ones and so on, each in random order.
    So with r hosts or more they are augmented on different hosts, as with DeiT's `RASampler`.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        epochs: int | None = None,
        repeats: int = 1,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._start, self._stride = shard_index * batch_size, shard_count * batch_size
        self._repeats = repeats
        examples = sys.maxsize if epochs is None else length * epochs * repeats
        self._steps = examples // self._stride
        self._permutations: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Slots:
        positions, copy = self._positions(step)
        epoch, place = np.divmod(positions, self._length)
        index = np.empty_like(place)
        for e in np.unique(epoch):
            index[epoch == e] = self._permutation(int(e))[place[epoch == e]]
        return Slots(step, epoch, index, copy, np.ones(self._batch_size, bool))

    def _positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the examples of a batch stand in the joined epochs, and which copies they are."""
        first = step * self._stride
        if self._repeats > 1:
            positions = np.arange(first, first + self._stride)
            raw = _philox(self._seed, _SPREAD, step, 0).random_raw(self._stride)
            positions = positions[np.lexsort((raw, positions % self._repeats))]
            mine = positions[self._start : self._start + self._batch_size]
            return mine // self._repeats, mine % self._repeats
        first += self._start
        return np.arange(first, first + self._batch_size), np.zeros(self._batch_size, np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        order = self._permutations.get(epoch)
        if order is None:
            raw = _philox(self._seed, _ORDER, epoch, 0).random_raw(self._length)
            order = np.argsort(raw, kind="stable")
            kept = {e: p for e, p in tuple(self._permutations.items()) if abs(e - epoch) <= 1}
            self._permutations = {**kept, epoch: order}  # replaced whole: threads share this
        return order

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_permutations": {}}


class EvalOrder:
    """Batches over `length` examples, each once and in their order; a random-access sequence.

    Every host has the same number of batches. What is missing in the last is marked invalid.
    """

    def __init__(
        self, length: int, batch_size: int, *, shard_index: int = 0, shard_count: int = 1
    ) -> None:
        self._length, self._batch_size = length, batch_size
        self._start, self._stride = shard_index * batch_size, shard_count * batch_size

    def __len__(self) -> int:
        return -(-self._length // self._stride)

    def __getitem__(self, step: int) -> Slots:
        first = step * self._stride + self._start
        index = np.arange(first, first + self._batch_size)
        valid = index < self._length
        zeros = np.zeros_like(index)
        return Slots(step, zeros, np.where(valid, index, 0), zeros, valid)


class ExampleRng:
    """One NumPy generator that is set to the stream of (seed, epoch, index, copy) on request.

    Setting the state costs a third of making a generator. Not for use by two threads at once.
    """

    def __init__(self, seed: int, purpose: int = AUGMENT) -> None:
        self._generator = np.random.Generator(_philox(seed, purpose, 0, 0))
        self._state: Any = self._generator.bit_generator.state

    def at(self, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
        """The generator at the start of its stream for a copy of example `index` in `epoch`."""
        self._state["state"]["counter"][1:] = (copy, epoch, index)
        self._generator.bit_generator.state = self._state
        return self._generator


def mix_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of what a whole batch shares, the same on all hosts."""
    return np.random.Generator(_philox(seed, _MIX, step, 0))


def _philox(seed: int, purpose: int, epoch: int, index: int) -> np.random.Philox:
    key = np.array([seed, purpose], np.uint64)
    return np.random.Philox(counter=np.array([0, 0, epoch, index], np.uint64), key=key)
