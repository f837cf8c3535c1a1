"""A model in several files: an index names the file of each tensor, all in one folder."""

import contextlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from parity.containers.container import Container
from parity.containers.files import File, broken, parsed, reading
from parity.containers.info import MOST_TENSORS
from parity.containers.names import INDEX
from vit_spec.links import root_of
from vit_spec.strict_json import LIMIT, shown

MOST_SHARDS = 512
COMPLETE = "download all files of the model again"


class Shards(Container):
    """The files that an index names, read as one. Raises `BrokenFile`."""

    def __init__(self, index: File, open_file: Callable[[Path], Container]) -> None:
        super().__init__(index.path)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            stack.callback(index.close)
            places, self.metadata = places_of(index)
            opened: dict[str, Container] = {}
            for shard in sorted(set(places.values())):
                path = inside(index.path, shard)
                if not path.exists():
                    raise index.broken(f"it names {shown(shard)}, which is missing", COMPLETE)
                opened[shard] = open_file(path)
                stack.callback(opened[shard].close)
            self._check(index, places, opened)
            self._owners = {name: opened[shard] for name, shard in places.items()}
            self._stack = stack.pop_all()
        self.tensors = {name: owner.tensors[name] for name, owner in self._owners.items()}

    def _check(self, index: File, places: dict[str, str], opened: dict[str, Container]) -> None:
        kinds = {shard.kind for shard in opened.values()}
        if len(kinds) != 1:
            raise index.broken(f"its files are of several kinds: {sorted(kinds)}", COMPLETE)
        self.kind = kinds.pop()
        for name, shard in places.items():
            if name not in opened[shard].tensors:
                raise index.broken(f"{shown(name)} is not in {shown(shard)}", COMPLETE)
        for shard, container in opened.items():
            if extra := container.tensors.keys() - places.keys():
                raise index.broken(
                    f"{shown(shard)} has {shown(min(extra))}, which the index lacks", COMPLETE
                )

    def _read(self, name: str) -> np.ndarray:
        return self._owners[name].read(name)

    def _close(self) -> None:
        self._stack.close()


def places_of(index: File) -> tuple[dict[str, str], dict[str, str]]:
    """Tensor -> file, and the texts of an index. Raises `BrokenFile`."""
    if index.size > LIMIT:
        raise index.broken(f"it has {index.size} bytes, more than the {LIMIT} allowed")
    content = parsed(index.path, index.read(0, index.size), "the index")
    places, texts = content.get("weight_map"), content.get("metadata") or {}
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise index.broken("it has no weight_map from tensors to files")
    if len(places) > MOST_TENSORS:
        raise index.broken(f"it names {len(places)} tensors; at most {MOST_TENSORS} are read")
    if not places or len(set(places.values())) > MOST_SHARDS:
        raise index.broken(f"it names no file or more than {MOST_SHARDS}")
    if not isinstance(texts, dict):
        raise index.broken("its metadata is no object")
    return places, {key: v if isinstance(v, str) else str(v) for key, v in texts.items()}


def shard_names(path: Path) -> list[str]:
    """The files that an index names; none for any other file. Raises `BrokenFile`."""
    if not path.name.endswith(INDEX):
        return []
    with reading(path) as index:
        return sorted(set(places_of(index)[0].values()))


def inside(index: Path, shard: str) -> Path:
    """The path of a shard. Raises `BrokenFile` if it or its link leads out of the folder."""
    parts = {*PurePosixPath(shard).parts, *PureWindowsPath(shard).parts}
    out = ".." in parts or PurePosixPath(shard).is_absolute() or PureWindowsPath(shard).anchor
    path = index.parent / shard
    try:
        target = path.resolve()
        path.exists()  # raises for a name that no disk can hold
    except (ValueError, OSError, RuntimeError):  # a NUL, a name too long, a loop of links
        out = True
    else:
        out = out or not target.is_relative_to(root_of(index.parent))
    if out or not shard:
        raise broken(
            index, f"it names the file {shown(shard)}, outside its folder",
            "do not use it; or put the file itself into the folder",
        )  # fmt: skip
    return path
