"""What a run saves of itself and how it is continued: state, place in the data, metrics so far."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from vit_jax.checkpoints import DAMAGED, Checkpoints, SaveError, abstract
from vit_jax.metrics import MetricsWriter
from vit_jax.processes import union
from vit_jax.progress import Progress
from vit_jax.run_folder import PREEMPTED, RunFolder
from vit_jax.training import TrainState
from vit_spec import Header
from vit_spec.names import printable


class Saver:
    """Saves and restores a run whose batches come from `batches` (`get_state`, `set_state`)."""

    def __init__(
        self,
        folder: RunFolder,
        checkpoints: Checkpoints,
        batches: Any,
        *,
        header: Header,
        seed: int,
        stop_on_failure: bool,
    ):
        self._folder, self._checkpoints, self._batches = folder, checkpoints, batches
        self._facts = {"header": json.loads(header.to_json()), "seed": seed}
        self._stop = stop_on_failure

    def restore(self, fresh: TrainState) -> tuple[TrainState, Progress, int]:
        """State, progress and bytes of metrics of the newest whole checkpoint, else of a new run.

        Frees the arrays of `fresh` if it is not needed. Raises `ValueError` as
        `Checkpoints.restore` does.
        """
        target = abstract(fresh)
        if self._checkpoints.steps():
            jax.tree.map(lambda array: array.delete(), fresh)
        found = self._checkpoints.restore(target)
        self._folder.begin()
        if found is None:
            return fresh, Progress(), 0
        for step, why in found.damaged.items():
            text = f"the checkpoint of step {step:,} is damaged and moved to {DAMAGED}/: {why}"
            print(printable(text))
        self._batches.set_state(found.run["data"])
        progress = Progress(**found.run["progress"])
        progress.resumes += 1
        print(f"resuming after step {found.step:,}")
        return found.state, progress, found.run["metrics_bytes"]

    def save(
        self,
        state: TrainState,
        progress: Progress,
        writer: MetricsWriter,
        *,
        accuracy: float | None = None,
    ) -> None:
        """Begins a save and returns. Raises `SaveError` only if a failure is to stop the run."""
        with self._tolerating():
            self._checkpoints.wait()
        data = self._batches.get_state()
        run = {
            **self._facts,
            "data": data | {"corrupt": union(data["corrupt"])},  # each process has met its own
            "progress": dataclasses.asdict(progress),
            "metrics_bytes": writer.position,
        }
        with self._tolerating():
            self._checkpoints.save(progress.step, state, run, accuracy=accuracy)

    def save_now(self, state: TrainState, progress: Progress, writer: MetricsWriter) -> None:
        """Saves, waits for it and leaves a marker. Raises `SaveError` for any failure."""
        self._stop = True
        self.save(state, progress, writer)
        self._checkpoints.wait()
        if self._folder.writes:
            (self._folder.path / PREEMPTED).write_text(f"step {progress.step}\n")

    def poll(self) -> None:
        """Tells of a save that has failed by now."""
        with self._tolerating():
            self._checkpoints.poll()

    def finish(self) -> list[int]:
        """Waits for the last save; the steps that can be restored."""
        with self._tolerating():
            self._checkpoints.wait()
        return self._checkpoints.steps()

    @contextlib.contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except SaveError as error:
            if self._stop:
                raise
            tqdm.write(f"train: {error}; training goes on", file=sys.stderr)
