"""Checkpoints of a run: Orbax writes them beside the training, and damage is found on reading.

One folder a step, with two items: `state`, all arrays, and `run`, JSON of what else a run needs
and a digest of each array. A folder has its name only when it is complete.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from vit_jax.digests import describe, digests
from vit_spec.checkpoint import replacing
from vit_spec.run_step import DamageError, sealed, unsealed

METRIC = "test_accuracy"
DAMAGED = "damaged"  # folder beside the checkpoints
PARTIAL = ".orbax-checkpoint-tmp"  # how the name of an unfinished save ends
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SaveError(OSError):
    """A checkpoint could not be written; the ones before it are as they were."""


@dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found: `run` is as given to `save`."""

    step: int
    state: Any
    run: dict[str, Any]
    damaged: dict[int, str]  # newer steps that could not be used, and why


class Checkpoints:
    """The checkpoints in a folder: the newest `keep`, and the one of the highest test accuracy."""

    def __init__(self, path: str | os.PathLike[str], *, keep: int, best: bool):
        self.path = Path(path).absolute()
        self._keep, self._best, self._writing = keep, best, None
        self._manager = self._open()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, the oldest first."""
        return sorted(step for step in self._manager.all_steps() if step != self._writing)

    def save(
        self, step: int, state: Any, run: Mapping[str, Any], *, accuracy: float | None = None
    ) -> None:
        """Copies the state to the host and returns; a thread writes it.

        `run` are JSON values. Call `wait` first. Of a step that is there only `run` and accuracy
        are replaced, and without an accuracy nothing. Raises `SaveError`.
        """
        import orbax.checkpoint as ocp

        there = step in self.steps()
        if there and accuracy is None:
            return
        content = sealed({**run, "arrays": describe(state), "digests": digests(state)})
        metrics = None if accuracy is None else {METRIC: accuracy}
        if there:
            self._note(step, {"metrics/metrics": metrics, "run/metadata": content})
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(content)
        )
        self._writing = step
        try:
            self._manager.save(step, args=items, metrics=metrics, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the last save is complete. Raises `SaveError`."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from error
        self._writing = None

    def poll(self) -> None:
        """Raises `SaveError` if the last save has failed already; waits for nothing."""
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def restore(self, target: Any) -> Restored | None:
        """The newest state that is whole, placed as `target` says; None if there is none.

        `target` has a `jax.ShapeDtypeStruct` with a sharding for each array. Damaged checkpoints
        are passed over and moved to `damaged/` beside the others. Raises `ValueError` if all are
        damaged, or if the arrays are of another model.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                run = self._read_run(step)
                _check_arrays(run["arrays"], describe(target), self.path / str(step))
                state = self._read_state(step, target, run["digests"])
            except DamageError as error:
                damaged[step] = str(error)
                continue
            self._put_aside(list(damaged))
            return Restored(step, state, run, damaged)
        if damaged:
            reasons = "\n".join(f"  step {step}: {why}" for step, why in damaged.items())
            raise ValueError(f"no checkpoint in {self.path} is whole:\n{reasons}")
        return None

    def close(self) -> None:
        """Ends the thread. Call `wait` before to learn of errors."""
        self._manager.close()

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        quiet()
        managers = ocp.checkpoint_managers
        kept: list[Any] = [managers.LatestN(self._keep)]
        if self._best:
            kept.append(
                managers.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            best_fn=_accuracy,
            preservation_policy=managers.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self.path, options=options, item_names=("state", "run"))

    def _read_run(self, step: int) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        with naming_damage("run"):
            return unsealed(self._manager.restore(step, args=args).run)

    def _read_state(self, step: int, target: Any, expected: Mapping[str, str]) -> Any:
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        with naming_damage("state"):
            state = self._manager.restore(step, args=args).state
        check_digests(state, expected)
        return state

    def _note(self, step: int, files: Mapping[str, Any]) -> None:
        """Replaces JSON files of a step that is there one by one, each as a whole.

        The names are Orbax's. A program that ends in between leaves a checkpoint of a run that has
        not been evaluated, and its resume does that again.
        """
        error = None
        if jax.process_index() == 0:
            try:
                for name, content in files.items():
                    (file := self.path / str(step) / name).parent.mkdir(exist_ok=True)
                    with replacing(file) as temporary:
                        temporary.write_text(json.dumps(content))
            except OSError as found:
                error = found
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("an accuracy is noted")
        if error is not None:
            raise SaveError(f"the accuracy of step {step} was not noted: {error}") from error
        self._manager.reload()

    def _failed(self, error: Exception) -> SaveError:
        """Removes what a failed save left, which may fill the disk, and says what happened."""
        step, self._writing = self._writing, None
        for partial in self.path.glob(f"*{PARTIAL}"):
            shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(map(str, self.steps())) or "none"
        free = shutil.disk_usage(self.path).free
        return SaveError(
            f"the checkpoint of step {step} was not saved: {reason(error)} "
            f"({free / 1e6:,.0f} MB free in {self.path}). Checkpoints before it are whole: {kept}"
        )

    def _put_aside(self, steps: list[int]) -> None:
        """Moves damaged checkpoints out of the way of new ones of the same step."""
        if not steps:
            return
        aside = self.path.parent / DAMAGED
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in steps:
                shutil.rmtree(aside / str(step), ignore_errors=True)
                (self.path / str(step)).rename(aside / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are aside")
        self._manager.reload()


def abstract(state: Any) -> Any:
    """Shapes, dtypes and places of the arrays, as `Checkpoints.restore` takes them."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def check_digests(state: Any, expected: Mapping[str, str]) -> None:
    """Raises `DamageError` unless the digests are those `expected`."""
    found = digests(state)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        raise DamageError(f"{len(wrong)} tensors are not as saved, first {wrong[0]}")


def quiet() -> None:
    """Only errors of Orbax, which otherwise tells every step of a save, and none that it raises."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_raised)


def reason(error: Exception) -> str:
    """Why a save failed: in the system's words where there is no room."""
    number = getattr(error, "errno", None) or _errno_in(str(error))
    return os.strerror(number) if number in FULL else f"{type(error).__name__}: {error}"


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Whether a record is not of a thread or task of Orbax whose error the caller gets, too."""
    text = str(record.msg)
    of_task = text.startswith("Task ") and "/orbax/checkpoint/" in text
    return not of_task and "_SignalingThread.run() raised an exception" not in text


def _accuracy(metrics: Any) -> float:
    return metrics[METRIC]


def _check_arrays(saved: Mapping[str, str], wanted: Mapping[str, str], where: Path) -> None:
    """Raises `ValueError` naming every array that is missing, extra or of another shape."""
    wrong = [f"  {n}: {saved.get(n, 'absent')}, must be {w}" for n, w in wanted.items()
             if saved.get(n) != w]  # fmt: skip
    wrong += [f"  {n}: {found}, must be absent" for n, found in saved.items() if n not in wanted]
    if wrong:
        more = [f"  ... and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise ValueError(
            f"{where} is of another model or optimizer:\n" + "\n".join(wrong[:20] + more)
            + "\nGive the recipe that it was trained with, or --overwrite to start anew"
        )  # fmt: skip


@contextlib.contextmanager
def naming_damage(item: str) -> Iterator[None]:
    """Whatever reading raises, from Orbax or below, is damage; but not the lack of permission."""
    try:
        yield
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0][:300]
        raise DamageError(f"{item}: {type(error).__name__}: {text}") from error


def _errno_in(text: str) -> int | None:
    """The system's number of an error in a message of TensorStore."""
    found = re.search(r"os_error_code='(\d+)'", text)
    return int(found[1]) if found else None
