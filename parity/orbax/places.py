"""Where the values of a step lie: files of zarr, or pieces of files that OCDBT's tree lists.

Every place is checked against its file before TensorStore reads it. TensorStore itself would follow
a path out of the folder. OCDBT: https://google.github.io/tensorstore/kvstore/ocdbt
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from parity.containers.files import BrokenFile, broken, reading
from parity.orbax.zstandard import HEAD, fits

MANIFEST = "manifest.ocdbt"
KIND, FOLDER, DATA = r"(btreenode|value)", r"((?:ocdbt\.process_\w+/)?)", r"(d/[0-9a-f]{32})"
LOCATION = re.compile(rf"{KIND}:{FOLDER}:{DATA}:(\d{{1,18}}):(\d{{1,18}})", re.ASCII)
MOST_NODE = 16_000_000
"""Bytes of a node. One value of a model takes about 40: names have much in common."""
PACKED = 13  # of a node: after magic, length and version, whether it is packed by Zstandard
MOST_NODES, MOST_HEIGHT = 10_000, 8
MOST_VALUES = 200_000
"""H/14 and its average, in the pieces of 256 devices, have 137,000."""


@dataclass(frozen=True)
class Place:
    """`size` bytes of a file, or bytes that the tree itself holds."""

    file: Path
    offset: int
    size: int
    inline: bytes | None = None

    def read(self, offset: int = 0, count: int | None = None) -> bytes:
        """`count` bytes from `offset` on, or as many as there are. Raises `BrokenFile`."""
        count = min(self.size if count is None else count, max(0, self.size - offset))
        if self.inline is not None:
            return self.inline[offset : offset + count]
        with reading(self.file) as file:
            return file.read(self.offset + offset, count)


def _store(folder: Path) -> dict[str, Any]:
    """A folder for TensorStore, which takes no path with '..'."""
    return {"driver": "file", "path": f"{os.path.realpath(folder)}/"}


class Files:
    """Values that are files below a folder, one each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store = _store(folder)

    def find(self, key: str) -> Place | None:
        """The place of a value; None if it is not there."""
        file = self._folder / key
        return Place(file, 0, file.stat().st_size) if file.is_file() else None


class Tree:
    """Values in a database of OCDBT: the newest version of all keys. Raises `BrokenFile`."""

    def __init__(self, folder: Path) -> None:
        base = _store(folder)
        self.store: dict[str, Any] = {"driver": "ocdbt", "base": base}
        self._folder, self._places, self._nodes = folder, dict[bytes, Place](), 0
        self._sizes: dict[Path, int] = {}
        self._dump, self._base = ts.ocdbt.dump, ts.KvStore.open(base).result()
        manifest = folder / MANIFEST
        self._check_node(Place(manifest, 0, manifest.stat().st_size))
        newest = self._dump(self._base).result()["versions"][-1]
        if newest["root"]["statistics"]["num_keys"]:
            self._walk(newest["root"]["location"], b"", newest["root_height"])

    def find(self, key: str) -> Place | None:
        """The place of a value; None if it is not there."""
        return self._places.get(key.encode())

    def _walk(self, location: str, prefix: bytes, height: int) -> None:
        """Notes the places below a node, whose keys lack the prefix."""
        self._check_node(self._place(location, "btreenode"))
        node = self._dump(self._base, location).result()
        if node.get("height", 0) != height or height > MOST_HEIGHT:
            raise self._broken("the tree of its values is no tree")
        for entry in node["entries"]:
            key = prefix + entry["key"]
            if height:
                below = prefix + entry["subtree_common_prefix"]
                self._walk(entry["location"], below, height - 1)
            elif (inline := entry.get("inline_value")) is not None:
                self._places[key] = Place(self._folder / MANIFEST, 0, len(inline), inline)
            else:
                self._places[key] = self._place(entry["indirect_value"], "value")
        if len(self._places) > MOST_VALUES:
            raise self._broken("it has too many values")

    def _check_node(self, place: Place) -> None:
        """Raises `BrokenFile` for a node that asks for much memory."""
        self._nodes += 1
        if place.size > MOST_NODE or self._nodes > MOST_NODES:
            raise self._broken("the tree of its values is too large")
        if place.read(PACKED, 1) == b"\1" and not fits(place.read(PACKED + 1, HEAD)):
            raise self._broken("a node of the tree of its values is packed in no usual way")

    def _place(self, location: str, kind: str) -> Place:
        found = LOCATION.fullmatch(location)
        if found is None or found[1] != kind:
            raise self._broken(f"a value lies at {location[:200]!r}, no place of Orbax")
        file, offset, size = self._folder / (found[2] + found[3]), int(found[4]), int(found[5])
        if file not in self._sizes:
            if not file.is_file():
                raise broken(file, "it is not there, and values are said to lie in it")
            self._sizes[file] = file.stat().st_size
        if offset + size > self._sizes[file]:
            raise broken(
                file, f"{size} bytes at {offset} are said to be a value, and it has "
                f"{self._sizes[file]} bytes in all",
            )  # fmt: skip
        return Place(file, offset, size)

    def _broken(self, what: str) -> BrokenFile:
        return broken(self._folder / MANIFEST, what)
