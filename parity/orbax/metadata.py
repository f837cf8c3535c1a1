"""What a step says of its arrays: Orbax's `_METADATA`, and zarr's `.zarray` of each array.

Taken is what Orbax writes for a run. Zarr 2: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.containers.files import broken, parsed, reading
from parity.containers.info import Info
from vit_spec.strict_json import LIMIT, shown

FILE, ZARRAY = "_METADATA", ".zarray"
ZSTD = {"id": "zstd", "level": 1}
MOST_ZARRAY, MOST_SIZE = 10_000, 1 << 40
NAME = re.compile(r"\w[\w.]{0,200}", re.ASCII)
KEY = re.compile(r"\w[\w.+ -]{0,200}(/\w[\w.+ -]{0,200})*", re.ASCII)
"""A key in the tree of anyone: what leads nowhere, though it is a part of a path."""
EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")  # leaves that hold nothing
KINDS = {"<f2": "float16", "<f4": "float32", "<f8": "float64", "|b1": "bool"} | {
    f"{order}{sign}{size}": f"{kind}{8 * size}"
    for sign, kind in (("i", "int"), ("u", "uint"))
    for order, size in (("|", 1), ("<", 2), ("<", 4), ("<", 8))
} | {"bfloat16": "bfloat16"}  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """An array, and how it is stored."""

    info: Info
    chunks: tuple[int, ...]
    packed: str  # by which program: zstd, gzip or ""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a piece; the last ones are as large as the others."""
        return math.prod(self.chunks) * (self.info.nbytes // math.prod(self.info.shape))


@dataclass(frozen=True)
class Saved:
    """What the tree of a step has."""

    part: str  # `ema` or `params`
    names: tuple[str, ...]  # of the arrays of that part
    others: tuple[str, ...]  # the other parts that hold something
    in_tree: bool  # of OCDBT


def read_metadata(folder: Path) -> Saved:
    """What the folder `state` says that it has. Raises `BrokenFile`."""
    path = folder / FILE
    leaves, in_tree = read_leaves(folder)
    parts = dict[str, list[tuple[str, ...]]]()
    for names, kind in leaves:
        if not all(map(NAME.fullmatch, names)):
            raise broken(path, f"{shown('.'.join(names))} is no leaf of the tree of a run")
        parts.setdefault(names[0], []).extend(
            [names] if len(names) > 1 or kind not in EMPTY else []
        )
    part = "ema" if parts.get("ema") else "params"
    if wrong := [names for names in parts.get(part, []) if len(names) != 2]:
        raise broken(path, f"{shown('.'.join(wrong[0]))} is no array of {part}")
    return Saved(
        part,
        tuple(names[1] for names in parts.get(part, [])),
        tuple(sorted(name for name, names in parts.items() if name != part and names)),
        in_tree,
    )


def read_leaves(folder: Path) -> tuple[list[tuple[tuple[str, ...], Any]], bool]:
    """The leaves of a tree of anyone: the keys on the way, and what it is; whether it is of OCDBT.

    Raises `BrokenFile`.
    """
    path = folder / FILE
    if not path.is_file():
        raise broken(path, "it is not there, and names the arrays of a step")
    with reading(path) as file:
        if file.size > LIMIT:
            raise file.broken(f"it has {file.size} bytes, more than the {LIMIT} allowed")
        said = parsed(path, file.read(0, file.size), "the file")
    if said.get("use_zarr3", False) is not False:
        raise broken(
            path, "its arrays are of zarr 3, which is not read",
            "restore them in JAX and save them with use_zarr3=False, or carry them by "
            "parity.transfer",
        )  # fmt: skip
    leaves = said.get("tree_metadata")
    found = leaves.values() if isinstance(leaves, dict) else [None]
    return [_leaf(path, leaf) for leaf in found], said.get("use_ocdbt") is True


def read_declared(file: Path, text: bytes, key: str) -> Declared:
    """What a `.zarray` says, whose text lies in `file` under `key`. Raises `BrokenFile`."""
    said = parsed(file, text, key, MOST_ZARRAY)
    packer, kind, separator = (
        said.get(name) for name in ("compressor", "dtype", "dimension_separator")
    )
    like = zarray(None, (), packed=False)
    wrong = [n for n in ("zarr_format", "order", "filters", "fill_value") if said.get(n) != like[n]]
    packed = packer.get("id") if isinstance(packer, dict) else packer
    wrong += [] if packed in (None, "zstd", "gzip") else ["compressor"]
    wrong += [] if separator in (None, ".") else ["dimension_separator"]
    wrong += [] if isinstance(kind, str) and kind in KINDS else ["dtype"]
    wrong += [name for name in ("shape", "chunks") if not _is_shape(said.get(name))]
    if wrong:
        some = ", ".join(f"{name} {shown(said.get(name))}" for name in wrong)
        raise broken(file, f"{key} says {some}, as no array of a run does")
    if len(said["shape"]) != len(said["chunks"]):
        raise broken(file, f"{key} has {said['shape']} in pieces of {said['chunks']}")
    return Declared(
        Info.of(KINDS[said["dtype"]], said["shape"]), tuple(said["chunks"]), packed or ""
    )


def zarray(dtype: str | None, shape: tuple[int, ...], *, packed: bool) -> dict[str, Any]:
    """The `.zarray` of an array in one piece; `dtype` by NumPy's name."""
    kinds = {kind: text for text, kind in KINDS.items()}
    return {
        "chunks": list(shape),
        "compressor": ZSTD if packed else None,
        "dimension_separator": ".",
        "dtype": kinds.get(dtype or ""),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": list(shape),
        "zarr_format": 2,
    }


def _leaf(path: Path, leaf: Any) -> tuple[tuple[str, ...], Any]:
    """The names on the way to a leaf of the tree, and what it is."""
    keys = leaf.get("key_metadata") if isinstance(leaf, dict) else None
    value = leaf.get("value_metadata") if isinstance(leaf, dict) else None
    keys = keys if isinstance(keys, list) else []
    names = [key.get("key") if isinstance(key, dict) else None for key in keys]
    fit = all(isinstance(name, str) and KEY.fullmatch(name) for name in names)
    if not (isinstance(value, dict) and names and fit):
        raise broken(path, f"{shown(leaf)} is no leaf of a tree")
    return tuple(str(name) for name in names), value.get("value_type")


def _is_shape(sizes: Any) -> bool:
    return isinstance(sizes, list) and len(sizes) <= 8 and all(
        isinstance(s, int) and not isinstance(s, bool) and 0 < s < MOST_SIZE for s in sizes
    )  # fmt: skip
