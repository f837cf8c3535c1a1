"""A folder of class folders as a source: `root/[train|val|test/]CLASS/**/IMAGE`. No twin."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VALIDATION_NAMES = ("val", "validation")
SHARES = (("train", 0.8), ("validation", 0.1), ("test", 0.1))


class FolderSource:
    """Image files with the classes of their folders; see `Source`. Read when asked for."""

    def __init__(
        self,
        root: Path,
        split: str,
        label_names: tuple[str, ...],
        files: list[tuple[str, int]],
        division: str,
    ) -> None:
        self.name = f"{root}[{split}]"
        self.division = division  # in words: how the folder is divided into splits, and why
        self.label_names = label_names
        self.num_classes = len(label_names)
        self._root = root
        self._files = files  # (path relative to root, label)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {self.name} of {len(self)} images")
        path, label = self._files[index]
        return {"image": (self._root / path).read_bytes(), "label": label}

    def describe(self, index: int) -> str:
        return str(self._root / self._files[index][0])


def open_folder(root: Path, *, split: str) -> FolderSource:
    """The images of `root` in `split`: `train`, `validation` or `test`.

    With `root/train` and one of `root/val`, `root/validation`, `root/test`, each of them holds
    class folders; `test` is `val` where there is no `test`, and the reverse. Otherwise `root`
    holds the class folders and every file is in train (80 %), validation (10 %) or test (10 %)
    by a hash of its path within `root`: a file stays in its split when others come or go.
    Classes are numbered in the order of their names. Hidden files and other types are ignored.

    Raises `FileNotFoundError`, `NotADirectoryError` or `ValueError` for what is no such folder.
    """
    if not root.is_dir():
        kind = NotADirectoryError if root.exists() else FileNotFoundError
        raise kind(f"{root} is not a folder: give a folder of class folders or a data set's name")
    if split not in dict(SHARES):
        raise ValueError(f"a folder has no split {split!r}: it has train, validation, test")
    inner = {name: root / name for name in ("train", "test", *VALIDATION_NAMES)}
    inner = {name: path for name, path in inner.items() if path.is_dir()}
    if "train" in inner and len(inner) > 1:
        return _open_split_folder(root, inner, split)
    labels = _classes(root)
    files = _files(root, root, labels)
    _check_every_class(root, labels, files)
    splits = [hashed_split(path) for path, _ in files]
    chosen = [entry for entry, place in zip(files, splits, strict=True) if place == split]
    if not chosen:
        raise ValueError(
            f"split {split!r} of {root} is empty: its {len(files)} images are divided by a hash of "
            f"their names; add images, or make {root}/train and {root}/test"
        )
    return FolderSource(root, split, labels, chosen, _hashed_division(root, splits))


def hashed_split(path: str) -> str:
    """The split of a file by its `/`-separated path: SHA-256 as a number in [0, 1)."""
    place = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8])
    point = place / 2**64
    for name, share in SHARES[:-1]:
        if point < share:
            return name
        point -= share
    return SHARES[-1][0]


def _hashed_division(root: Path, splits: list[str]) -> str:
    counts = Counter(splits)
    shares = ", ".join(f"{counts[name]:,} {name} ({share:.0%})" for name, share in SHARES)
    return (
        f"{len(splits):,} images of {root}, divided by a hash of each path so that a file stays in "
        f"its split: {shares}. Training reads train and test, validation is left for you; to "
        f"divide them yourself make {root}/train and {root}/test"
    )


def _open_split_folder(root: Path, inner: dict[str, Path], split: str) -> FolderSource:
    order = {
        "train": ("train",),
        "test": ("test", *VALIDATION_NAMES),
        "validation": (*VALIDATION_NAMES, "test"),
    }
    found = {key: next(n for n in names if n in inner) for key, names in order.items()}
    folder = inner[found[split]]
    labels = _classes(inner["train"])
    if unknown := sorted(set(_subfolders(folder)) - set(labels)):
        raise ValueError(
            f"{folder} has classes that {inner['train']} lacks: {', '.join(unknown)}; "
            "every class needs images to train on"
        )
    files = _files(root, folder, labels)
    if folder == inner["train"]:
        _check_every_class(folder, labels, files)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    division = (
        f"{root} is divided into {', '.join(inner)}: training reads {found['train']} and tests on "
        f"{found['test']}"
    )
    return FolderSource(root, split, labels, files, division)


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted. Raises `ValueError` unless there are two or more."""
    names = _subfolders(folder)
    if not any(folder.iterdir()):
        raise ValueError(f"{folder} is empty: put a folder of images there for each class")
    if not names:
        raise ValueError(f"{folder} has no class folders: make one for each class in it")
    if len(names) == 1:
        raise ValueError(f"{folder} has the single class {names[0]!r}: two or more are needed")
    return tuple(names)


def _check_every_class(root: Path, labels: tuple[str, ...], files: list[tuple[str, int]]) -> None:
    present = {label for _, label in files}
    if bare := [name for i, name in enumerate(labels) if i not in present]:
        raise ValueError(
            f"{root} has class folders without images: {', '.join(bare)}; fill or remove them "
            f"(read are {', '.join(SUFFIXES)})"
        )


def _files(root: Path, folder: Path, labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every image below `folder`'s class folders: its path within `root` and its label, sorted."""
    found = []
    for label, name in enumerate(labels):
        for place, inner, names in os.walk(folder / name):
            inner[:] = [d for d in inner if not d.startswith(".")]
            here = Path(place).relative_to(root).as_posix()
            found += [(f"{here}/{n}", label) for n in names if _is_image(n)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))
    )
