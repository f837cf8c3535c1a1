"""Trees of arrays that other programs wrote: by Orbax, or by big_vision array for array.

Source: `tssave` in `big_vision/utils.py`: a folder for each array, its name with '~' for '/'.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.container import CONFIG, Container, left_out
from parity.containers.files import BrokenFile, beside, broken
from parity.containers.info import MOST_TENSORS
from parity.orbax import needed
from parity.orbax.metadata import EMPTY, FILE, ZARRAY, read_leaves
from vit_spec.run_step import DamageError, check_files
from vit_spec.strict_json import shown

STEP = re.compile(r"(?:[\w.-]*[_-])?(\d{1,18})", re.ASCII)
ARRAYS = ("jax.Array", "np.ndarray", "scalar")


def is_tree(path: Path) -> bool:
    """Whether a folder has a tree of arrays: itself, or in the items of one of its steps."""
    return path.is_dir() and (_is_of_big_vision(path) or bool(_items(path) or _steps(path)))


class OrbaxTree(Container):
    """The arrays of a folder, their names joined by '/'. Raises `BrokenFile`, `ValueError`.

    Of a folder of steps the newest one is taken; a step with several items has their names in
    front. TensorStore reads one array at a time.
    """

    kind = "orbax"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        steps = {} if _is_of_big_vision(path) or _items(path) else _steps(path)
        step = steps[max(steps)] if steps else path
        try:
            check_files(step)
        except DamageError as error:
            raise BrokenFile(str(error)) from error
        with needed(path):
            from parity.orbax.arrays import Stored
        if len(steps) > 1:
            numbers = ", ".join(map(str, sorted(steps)[-4:]))
            self.notes = (f"the newest of {len(steps)} steps is taken, {step.name} ({numbers})",)
        others: list[str] = []
        self._owners: dict[str, tuple[Any, str]] = {}  # name -> arrays, name there
        for item, folder in (_items(step) or {"": step}).items():
            keys, left, in_tree = _keys(folder)
            front = f"{item}/" if item else ""
            others += [front + name for name in left]
            stored = Stored(folder, keys, in_tree=in_tree)
            stored.check()
            for name, array in stored.declared.items():
                self._owners[front + name] = stored, name
                self.tensors[front + name] = array.info
        self.metadata = left_out(others)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The `config.json` in the folder, if there is one. Raises `BrokenFile`."""
        return beside(self.path / CONFIG)

    def _read(self, name: str) -> np.ndarray:
        stored, own = self._owners[name]
        return stored.values(own)

    def _close(self) -> None:
        self._owners = {}


def _is_of_big_vision(path: Path) -> bool:
    return not (path / FILE).exists() and any(
        "~" in place.parent.name for place in path.glob(f"*~*/{ZARRAY}")
    )


def _items(path: Path) -> dict[str, Path]:
    """The folders with trees of Orbax of one step, by the names of their items."""
    if (path / FILE).is_file():
        return {"": path}
    found = {place.parent.name: place.parent for place in sorted(path.glob(f"*/{FILE}"))}
    if any(STEP.fullmatch(name) for name in found):
        return {}  # steps, each with a tree of its own
    return {"": next(iter(found.values()))} if len(found) == 1 else found


def _steps(path: Path) -> dict[int, Path]:
    """The steps that a `CheckpointManager` wrote, by number."""
    steps = (place for place in path.iterdir() if place.is_dir())
    found = ((STEP.fullmatch(step.name), step) for step in steps)
    return {int(match[1]): step for match, step in found if match and _items(step)}


def _keys(folder: Path) -> tuple[dict[str, str], list[str], bool]:
    """Places of the arrays below a folder by their names, what is no array, and whether in a tree.

    Raises `BrokenFile`.
    """
    if _is_of_big_vision(folder):
        places = sorted(place.parent.name for place in folder.glob(f"*/{ZARRAY}"))
        return {name.replace("~", "/"): name for name in places}, [], False
    leaves, in_tree = read_leaves(folder)
    if len(leaves) > MOST_TENSORS:
        raise broken(folder, f"it has {len(leaves)} leaves; at most {MOST_TENSORS} are read")
    keys: dict[str, str] = {}
    others = []
    for names, kind in leaves:
        name = "/".join(names)
        if kind in EMPTY:
            continue
        if kind not in ARRAYS:
            others.append(name)
            continue
        if name in keys:
            raise broken(folder, f"two arrays are named {shown(name)}")
        keys[name] = ".".join(names)
    return keys, others, in_tree
