"""Numbers of a training run: fetched from the device, checked, written as they come."""

import json
from collections.abc import Mapping

import jax
import numpy as np

from vit_jax.run_folder import METRICS, TENSORBOARD, RunFolder


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite."""


def means(metrics: list[dict[str, jax.Array]], *, first_step: int) -> dict[str, float]:
    """Means over steps, of the rate the last. Raises `NotFiniteError` naming the first bad step."""
    fetched = jax.device_get(metrics)
    for offset, values in enumerate(fetched):
        if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
            raise NotFiniteError(
                f"step {first_step + offset}: loss {values['loss']}, gradient norm "
                f"{values['grad_norm']}. Nothing "
                "was saved. Lower --optim.lr, lengthen --optim.warmup-steps or set "
                "--optim.clip-norm"
            )
    averages = {name: float(np.mean([values[name] for values in fetched])) for name in fetched[0]}
    return averages | {"lr": float(fetched[-1]["lr"])}


class MetricsWriter:
    """Writes numbers as JSON lines and for TensorBoard; without a folder it drops them."""

    def __init__(self, folder: RunFolder | None):
        self._folder = folder
        if folder is None:
            return
        from tensorboardX import SummaryWriter

        self._lines = (folder.path / METRICS).open("w", buffering=1)
        self._board = SummaryWriter(str(folder.path / TENSORBOARD))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values after `step` updates."""
        if self._folder is None:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes both files."""
        if self._folder is None:
            return
        self._lines.close()
        self._board.close()
