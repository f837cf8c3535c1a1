"""The values that a writer asks for, one tensor at a time, checked against what was declared."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from parity.containers.blocks import contiguous, panels
from parity.containers.files import PIECE
from parity.containers.info import Info


class Values:
    """Asks for a tensor when it is written. Raises `ValueError` if it is not as declared."""

    def __init__(self, tensors: Mapping[str, Info], values: Callable[[str], np.ndarray]) -> None:
        self._tensors, self._values = tensors, values

    def array(self, name: str) -> np.ndarray:
        """The values of `name`, contiguous and in native order of bytes."""
        return contiguous(self._checked(name))

    def _checked(self, name: str) -> np.ndarray:
        info, array = self._tensors[name], np.asarray(self._values(name))
        if array.dtype.name != info.dtype or array.shape != info.shape:
            raise ValueError(
                f"{name!r} was declared {info.dtype} {info.shape} and its values are "
                f"{array.dtype} {array.shape}: declare what the values are"
            )
        return array

    def flat(self, name: str) -> memoryview:
        """The bytes of `name` in C order."""
        return self.array(name).reshape(-1).view(np.uint8).data

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The bytes of `name` in C order, in pieces of some megabytes, as `panels` gives them."""
        for panel in panels(self._checked(name)):
            yield from pieces(panel.reshape(-1).view(np.uint8).data)


def in_turns(write: Callable[[Any], Any], pieces: Iterable[Any], thread: Executor) -> None:
    """Writes all pieces, each by the thread while this one makes the next."""
    waiting: Future[Any] | None = None
    for piece in pieces:
        if waiting is not None:
            waiting.result()
        waiting = thread.submit(write, piece)
    if waiting is not None:
        waiting.result()


def pieces(flat: memoryview) -> Iterator[memoryview]:
    """The bytes in pieces of some megabytes."""
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]
