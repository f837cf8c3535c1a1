"""The folder of a training run: which run it holds, and whether that is finished."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_spec.checkpoint import CONFIG, WEIGHTS, replacing

RECIPE, SUMMARY, METRICS, TENSORBOARD = (
    "recipe.json",
    "summary.json",
    "metrics.jsonl",
    "tensorboard",
)
OURS = (RECIPE, SUMMARY, METRICS, TENSORBOARD, WEIGHTS, CONFIG)


class RunFolder:
    """One run in one folder."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def finished(self, recipe: Mapping[str, Any]) -> bool:
        """The folder holds a complete run of exactly this recipe."""
        saved = self.path / RECIPE
        if not (self.path / SUMMARY).is_file() or not saved.is_file():
            return False
        return json.loads(saved.read_text()) == json.loads(json.dumps(recipe))

    def claim(self, recipe: Mapping[str, Any], *, overwrite: bool) -> None:
        """Starts a run here. Raises `FileExistsError` if the folder holds another one."""
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(
                f"{self.path} is a file; a run needs a folder: give another --out"
            )
        if self.path.is_dir() and any(self.path.iterdir()):
            if not overwrite:
                state = (
                    "a finished run of another recipe"
                    if (self.path / SUMMARY).exists()
                    else "an unfinished run"
                )
                if not (self.path / RECIPE).exists():
                    state = "other files"
                raise FileExistsError(
                    f"{self.path} already holds {state}: give another folder with --out, "
                    f"or --overwrite to replace it"
                )
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json(RECIPE, recipe)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, complete or not there at all."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file."""
        return json.loads((self.path / name).read_text())

    def _clear(self) -> None:
        """Removes what runs write, and nothing else."""
        for name in OURS:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
