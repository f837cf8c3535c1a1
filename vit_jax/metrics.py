"""Numbers of a training run: looked at as they come, averaged, written."""

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vit_jax.run_folder import METRICS, TENSORBOARD, RunFolder
from vit_spec import Preprocessing

LAG = 2  # steps that the device has in hand while the host looks at an older one

Values = dict[str, float]


class Window:
    """The steps since the last line of metrics: `pending` are the values of each finite one.

    Every step is looked at, `LAG` steps later, so the device never waits for the host. A step that
    `guarded` marks as not finite is left out and told to `on_nonfinite(step, batch, values)`.
    """

    def __init__(self, pending: list[Values], on_nonfinite: Callable[[int, Any, Values], None]):
        self.pending, self._on_nonfinite = pending, on_nonfinite
        self._unseen: deque[tuple[int, Any, Any]] = deque()

    def add(self, step: int, batch: Any, metrics: Mapping[str, jax.Array]) -> None:
        """A step that has been dispatched, and its batch."""
        self._unseen.append((step, batch, metrics))
        if len(self._unseen) > LAG:
            self._look()

    def settle(self) -> None:
        """Waits for all steps and looks at them."""
        while self._unseen:
            self._look()

    def means(self) -> Values:
        """Means over the finite steps, of the rate the last; starts the next line."""
        self.settle()
        values, self.pending = self.pending, []
        if not values:
            return {}
        averages = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        return averages | {"lr": values[-1]["lr"]}

    def _look(self) -> None:
        step, batch, metrics = self._unseen.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        finite = values.pop("finite")
        if finite:
            del values["skipped"]
            self.pending.append(values)
        else:
            self._on_nonfinite(step, batch, values)


class MetricsWriter:
    """Writes numbers as JSON lines and for TensorBoard, after what they held at `position`."""

    def __init__(self, folder: RunFolder, *, position: int = 0, step: int = 0):
        self._lines = self._board = None
        if not folder.writes:
            return
        from tensorboardX import SummaryWriter

        path = folder.path / METRICS
        path.touch()
        self._lines = path.open("r+", buffering=1)
        self._lines.truncate(min(position, path.stat().st_size))
        self._lines.seek(0, os.SEEK_END)
        purge = step + 1 if step else None
        self._board = SummaryWriter(str(folder.path / TENSORBOARD), purge_step=purge)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Values after `step` updates; TensorBoard gets those that are numbers."""
        if self._lines is None or self._board is None:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, step)

    def images(self, name: str, images: np.ndarray, preprocessing: Preprocessing) -> None:
        """Images (b, h, w, c) as the model sees them, shown un-normalised side by side."""
        if self._board is None:
            return
        channels = images.shape[-1]
        mean, std = (np.resize(x, channels) for x in (preprocessing.mean, preprocessing.std))
        shown = np.clip(images * std + mean, 0, 1)
        self._board.add_images(name, shown, 0, dataformats="NHWC")

    @property
    def position(self) -> int:
        """Bytes of the lines so far, which are on the disk then."""
        if self._lines is None:
            return 0
        self._lines.flush()
        os.fsync(self._lines.fileno())
        return self._lines.tell()

    def close(self) -> None:
        """Flushes both files."""
        if self._lines is not None and self._board is not None:
            self._lines.close()
            self._board.close()
