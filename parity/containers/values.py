"""The values that a writer asks for, one tensor at a time, checked against what was declared."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from parity.containers.blocks import Rooms, contiguous, panels
from parity.containers.files import PIECE
from parity.containers.info import Info

AHEAD = 8  # pieces that are made before they are asked for


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

    @contextlib.contextmanager
    def stream(self, names: Iterable[str]) -> Iterator[Iterator[tuple[str, memoryview]]]:
        """Names, each with its bytes in C order, in pieces: at least one, of some megabytes.

        A thread makes the next few meanwhile. Use each before the next one: its memory comes again.
        """
        made, waiting = self._pieces(names, Rooms(AHEAD)), deque[Future[Any]]()
        thread = ThreadPoolExecutor(1)

        def pieces() -> Iterator[tuple[str, memoryview]]:
            while True:
                while len(waiting) < AHEAD:
                    waiting.append(thread.submit(next, made, None))
                if (found := waiting.popleft().result()) is None:
                    return
                yield found

        try:
            yield pieces()
        finally:
            thread.shutdown(cancel_futures=True)

    def _pieces(self, names: Iterable[str], rooms: Rooms) -> Iterator[tuple[str, memoryview]]:
        for name in names:
            for panel in panels(self._checked(name), rooms):
                for piece in pieces(panel.reshape(-1).view(np.uint8).data):
                    yield name, piece


def pieces(flat: memoryview) -> Iterator[memoryview]:
    """The bytes in pieces of some megabytes, one at least."""
    for start in range(0, len(flat) or 1, PIECE):
        yield flat[start : start + PIECE]
