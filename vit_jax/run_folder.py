"""The folder of a training run: which run it holds, how far that is, and who works in it."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vit_jax.checkpoints import DAMAGED
from vit_spec.checkpoint import CONFIG, WEIGHTS, replacing

RECIPE, SUMMARY, PROOF = "recipe.json", "summary.json", "proof.json"
METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
CHECKPOINTS, PROFILE, PREEMPTED, LOCK = "checkpoints", "profile", "PREEMPTED", ".lock"
BAD_BATCH = "bad_batch_step{}.npz"
OURS = (
    *(RECIPE, SUMMARY, PROOF, METRICS, TENSORBOARD, WEIGHTS, CONFIG),
    *(CHECKPOINTS, DAMAGED, PROFILE, PREEMPTED, BAD_BATCH.format("*")),
)


FREE = ("model.num_classes", "proof")
"""Fields of a recipe that may differ: the data decides the first, the second no result."""


class InUseError(OSError):
    """Another program works in the folder."""


class RunFolder:
    """One run in one folder. Of several processes of a run only the first one `writes`."""

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = True):
        self.path, self.writes = Path(path), writes
        self._recipe: Mapping[str, Any] | None = None  # of the run that goes on
        self.before: Mapping[str, Any] | None = None  # what it had, if that is another

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    @property
    def has_checkpoints(self) -> bool:
        """A run can be continued from here."""
        return any(found.name.isdigit() for found in self.checkpoints.glob("*"))

    def finished(self, recipe: Mapping[str, Any]) -> bool:
        """The folder holds a complete run of exactly this recipe."""
        if not (self.path / SUMMARY).is_file() or not (self.path / RECIPE).is_file():
            return False
        return not differences(self.read_json(RECIPE), recipe)

    @contextlib.contextmanager
    def claimed(
        self, recipe: Mapping[str, Any], *, overwrite: bool, resume: bool, allow_change: bool
    ) -> Iterator[None]:
        """The folder is this program's within the block, and holds a run of `recipe`.

        `overwrite` removes what was there, else `resume` keeps it, and the old recipe too until
        `begin`. Raises `InUseError`, naming the
        program that works in it; `FileExistsError` if it holds another run, or one and neither is
        asked for; `ValueError` if the run to resume has another recipe.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(
                f"{self.path} is a file; a run needs a folder: give another --out"
            )
        self._check_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if (self.path / RECIPE).exists() and not overwrite:
                self._check_resumable(recipe, resume=resume, allow_change=allow_change)
                self._recipe = recipe
            else:
                self._clear()
                self.write_json(RECIPE, recipe)
            yield

    def begin(self) -> None:
        """Training begins: the folder's run, if it goes on, has the new recipe from here on."""
        if not self.writes:
            return
        for name in (SUMMARY, PROOF, PREEMPTED):
            (self.path / name).unlink(missing_ok=True)
        if self._recipe is not None:
            self.write_json(RECIPE, self._recipe)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, complete or not there at all."""
        if not self.writes:
            return
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file."""
        return json.loads((self.path / name).read_text())

    def _check_ours(self) -> None:
        """Raises `FileExistsError` for a folder of something else."""
        found = self.path.is_dir() and {entry.name for entry in self.path.iterdir()} - {LOCK}
        if found and RECIPE not in found:
            raise FileExistsError(
                f"{self.path} already holds other files: give another folder with --out"
            )

    def _check_resumable(
        self, recipe: Mapping[str, Any], *, resume: bool, allow_change: bool
    ) -> None:
        changed = differences(self.read_json(RECIPE), recipe)
        state = "a finished run" if (self.path / SUMMARY).exists() else "an unfinished run"
        if not resume:
            which = "of another recipe" if changed else "of this recipe"
            hint = "" if changed else "--resume continues it; "
            raise FileExistsError(
                f"{self.path} already holds {state} {which}: {hint}give another folder with --out, "
                f"or --overwrite to replace it"
            )
        if changed and not allow_change:
            raise ValueError(
                f"the recipe is not the one that the run in {self.path} was started with:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nSet these back, or accept them with --allow-change. Without a recipe and its "
                f"fields, --resume --out {self.path} continues the run as it was started"
            )
        if changed:
            self.before = self.read_json(RECIPE)
            print("the recipe has changed:\n" + "\n".join(f"  {line}" for line in changed))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock; the system takes it back when the process ends, however it does."""
        with (self.path / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise InUseError(
                    f"{self.path} is in use by {file.read().strip() or 'another program'}: wait "
                    f"for it, or give another folder with --out"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def _clear(self) -> None:
        """Removes what runs write, and nothing else."""
        for target in [found for name in OURS for found in self.path.glob(name)]:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """`field: old -> new` for each field of two nested dicts of JSON values that differs.

    A field that an older version did not know is None or empty there.
    """
    if name == "":
        new = json.loads(json.dumps(new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        same = old == new or (old is ... and new in (None, []))
        return [] if same else [f"{name}: {_shown(old)} -> {_shown(new)}"]
    return [
        line
        for key in {**old, **new}
        if (full := f"{name}.{key}".removeprefix(".")) not in FREE
        for line in differences(old.get(key, ...), new.get(key, ...), full)
    ]


def _shown(value: Any) -> str:
    return "absent" if value is ... else repr(value)
