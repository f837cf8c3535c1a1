"""A folder of class folders as a source: `root/[train|val|test/]CLASS/**/IMAGE`. No twin."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_data.decode import is_image_file
from vit_data.splits import FALLBACKS, SPLIT_NAMES, split_of, split_words
from vit_spec.names import plain
from vit_spec.words import counted, some

SHARES = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
JUNK = ("thumbs.db", "desktop.ini")  # what Windows leaves in folders; what macOS leaves is hidden


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
        self.division = division  # in words: how the folder is divided, and what is not read
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
        if not stat.S_ISREG((self._root / path).stat().st_mode):  # a pipe would never end
            raise ValueError("it is no file, but a pipe or a device")
        return {"image": (self._root / path).read_bytes(), "label": label}

    def describe(self, index: int) -> str:
        return str(self._root / self._files[index][0])

    def count_labels(self) -> list[int]:
        """The number of images of each class."""
        counts = Counter(label for _, label in self._files)
        return [counts[label] for label in range(self.num_classes)]


def open_folder(root: Path, *, split: str) -> FolderSource:
    """The images of `root` in `split`: `train`, `validation` or `test`.

    With a training folder and one for validation or test, each of them holds class folders; `test`
    is the validation folder where there is no other, and the reverse. They go by any usual name
    (`vit_data.splits`), in any case: `train`, `Training`, `valid`, `dev`, `test_images`.
    Otherwise `root` holds the class folders and every file is in train (80 %), validation (10 %)
    or test (10 %) by a hash of its path within `root`: a file stays in its split when others come
    or go. Classes are numbered in the order of their names. Every file that Pillow reads is an
    image; others are counted and named in `division`, but for hidden ones.

    Raises `FileNotFoundError`, `NotADirectoryError` or `ValueError` for what is no such folder,
    and for folders that look like splits and cannot be told apart.
    """
    if not root.is_dir():
        kind = NotADirectoryError if root.exists() else FileNotFoundError
        raise kind(f"{root} is not a folder: give a folder of class folders or a data set's name")
    if split not in dict(SHARES):
        raise ValueError(f"a folder has no split {split!r}: it has train, validation, test")
    if parts := _split_folders(root):
        return _open_split_folder(root, parts, split)
    labels = _classes(root)
    found = _find_files(root, root, labels)
    _check_every_class(root, labels, found)
    splits = [hashed_split(path) for path, _ in found.images]
    chosen = [entry for entry, place in zip(found.images, splits, strict=True) if place == split]
    if not chosen:
        raise ValueError(
            f"split {split!r} of {root} is empty: a hash of each path put the "
            f"{counted(len(splits), 'image')} into the others; add images, or make {root}/train "
            f"and {root}/test"
        )
    division = _hashed_division(root, splits) + found.say_unread()
    return FolderSource(root, split, labels, chosen, division)


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
        f"{counted(len(splits), 'image')} of {root}, divided by a hash of each path so that a "
        f"file stays in its split: {shares}. Training reads train and test, validation is left "
        f"for you; to divide them yourself make {root}/train and {root}/test"
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder in `root`; empty where `root` holds class folders itself.

    Raises `ValueError` for folders that look like splits but leave open which is which.
    """
    inner = {name: root / name for name in _subfolders(root)}
    marked = {
        name: look for name, path in inner.items() if split_words(name) and (look := _look(path))
    }
    others = [name for name in inner if name not in marked]
    holding = [name for name, look in marked.items() if look == "folders"]
    if not holding:
        if len(marked) > 1 and not others and len(set.union(*map(split_words, marked))) > 1:
            raise ValueError(
                f"{root} looks divided into {_names(marked)}, but there are no class folders in "
                "them: put each image in a folder of its class, such as "
                f"{inner[next(iter(marked))] / 'CLASS' / 'IMAGE'}"
            )
        _check_no_unknown_splits(root, inner)
        return {}
    ways = (
        f"call them {root}/train and {root}/test (or val), with a folder for each class in each, "
        "or give one folder of class folders to have it divided"
    )
    if unknown := [name for name in marked if split_of(name) is None]:
        raise ValueError(
            f"{root} looks divided into splits, and which of them {_names(unknown)} is cannot be "
            f"told: {ways}"
        )
    if flat := [name for name, look in marked.items() if look == "images"]:
        raise ValueError(
            f"{_names(str(inner[name]) for name in flat)} holds images but no class folders, "
            f"unlike {_names(holding)}: put each image in a folder of its class"
        )
    empty = {s: path for name, path in inner.items() if (s := split_of(name)) and name in others}
    parts = {str(split_of(name)): inner[name] for name in marked}
    if len(parts) < len(marked):
        raise ValueError(f"{root} has several folders of one split, {_names(marked)}: {ways}")
    parts = empty | parts
    if len(parts) == 1:
        raise ValueError(
            f"{root} has the split folder {_names(marked)} and no other: give "
            f"{inner[next(iter(marked))]} itself to have its images divided, or add a second one"
        )
    if "train" not in parts:
        raise ValueError(f"{root} has {_names(marked)}, but no folder to train on: {ways}")
    below = [n for n in _subfolders(parts["train"]) if _look(parts["train"] / n) == "folders"]
    if len({split_of(name) for name in below} - {None}) > 1:
        raise ValueError(
            f"{parts['train']} is divided into {_names(below)} again: give one folder of splits, "
            f"such as {parts['train']} itself"
        )
    return {name: parts[name] for name in SPLIT_NAMES if name in parts}


def _check_no_unknown_splits(root: Path, inner: dict[str, Path]) -> None:
    """Raises `ValueError` if each folder holds the same folders, as splits of any name would."""
    paths = list(inner.values())
    below = _subfolders(paths[0]) if len(paths) > 1 else []
    if len(below) < 2 or any(_subfolders(path) != below for path in paths[1:]):
        return
    if not any(_has_images(path) for path in paths):
        raise ValueError(
            f"each of {_names(inner)} in {root} holds the folders {_names(below)}, so these "
            f"look like the classes: give one of {_names(inner)}, such as {paths[0]}, or "
            f"call them train and test (or val). If {_names(inner)} are the classes, put the "
            "images directly in them"
        )


def _look(folder: Path) -> str:
    """`folders` as in a split, `images` as in a class, or nothing: what a folder holds."""
    count, has_images = len(_subfolders(folder)), _has_images(folder)
    return "folders" if count > 1 or (count and not has_images) else "images" * has_images


def _has_images(folder: Path) -> bool:
    """Whether images lie directly in a folder."""
    with os.scandir(folder) as entries:
        return any(is_image_file(entry.path) for entry in entries if not entry.is_dir())


def _open_split_folder(root: Path, parts: dict[str, Path], split: str) -> FolderSource:
    read = {key: next(n for n in FALLBACKS[key] if n in parts) for key in ("train", "test")}
    folder = parts[next(n for n in FALLBACKS[split] if n in parts)]
    labels = _classes(parts["train"])
    if unknown := sorted(set(_subfolders(folder)) - set(labels)):
        raise ValueError(
            f"{folder} has classes that {parts['train']} lacks: {_names(unknown)}; "
            "every class needs images to train on"
        )
    found = _find_files(root, folder, labels)
    if folder == parts["train"]:
        _check_every_class(folder, labels, found)
    if not found.images:
        raise ValueError(f"{folder} holds no images in class folders{found.say_unread()}")
    names = {key: parts[name].name for key, name in read.items()}
    unread = [path.name for key, path in parts.items() if key not in read.values()]
    unread += [name for name in _subfolders(root) if root / name not in parts.values()]
    division = (
        f"{root} is divided into {_names(p.name for p in parts.values())}: training reads "
        f"{names['train']} and tests on {names['test']}"
        + (f"; {_names(unread)} {'is' if len(unread) == 1 else 'are'} left alone" if unread else "")
        + found.say_unread()
    )
    return FolderSource(root, split, labels, found.images, division)


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted. Raises `ValueError` unless there are two or more."""
    names = _subfolders(folder)
    if not any(folder.iterdir()):
        raise ValueError(f"{folder} is empty: put a folder of images there for each class")
    if any(".tfrecord" in path.name for path in folder.iterdir()):
        raise ValueError(
            f"{folder} holds tfrecord files, which cannot be read in any order: write them as "
            "array_record, with `tfds build NAME --file_format=array_record` for a data set of "
            "tensorflow-datasets"
        )
    if not names:
        raise ValueError(f"{folder} has no class folders: make one for each class in it")
    if len(names) == 1:
        inner = folder / names[0]
        if (inner / "dataset_info.json").is_file():
            raise ValueError(f"{folder} holds a prepared data set: give {inner}")
        hint = f"; to divide what is in it give {inner}" if _look(inner) == "folders" else ""
        raise ValueError(
            f"{folder} has the single class {names[0]!r}: two or more are needed{hint}"
        )
    return tuple(names)


@dataclass
class _Found:
    """The files below class folders."""

    images: list[tuple[str, int]] = field(default_factory=list)  # (path within root, label)
    loose: list[str] = field(default_factory=list)  # images beside the class folders
    unread: list[str] = field(default_factory=list)  # files of other types

    def say_unread(self) -> str:
        """What lies there and is not read: how many files of each kind, and one of them."""
        kinds = Counter(os.path.splitext(n)[1].lower() or "no suffix" for n in sorted(self.unread))
        listed = [f"{number:,} {plain(kind)}" for kind, number in kinds.most_common(8)]
        listed += [f"{len(kinds) - 8} other types"] if len(kinds) > 8 else []
        said = f"; not read: {', '.join(listed)}, such as {min(self.unread)!r}" if listed else ""
        if self.loose:
            number = counted(len(self.loose), "image")
            said += f"; in no class folder: {number}, such as {self.loose[0]!r}"
        return said


def _check_every_class(root: Path, labels: tuple[str, ...], found: _Found) -> None:
    present = {label for _, label in found.images}
    if bare := [name for i, name in enumerate(labels) if i not in present]:
        raise ValueError(
            f"{root} has class folders without images: {_names(bare)}; fill or remove them"
            f"{found.say_unread()}"
        )


def _find_files(root: Path, folder: Path, labels: tuple[str, ...]) -> _Found:
    """Every file below `folder`'s class folders, images sorted."""
    found = _Found(
        loose=sorted(f.name for f in folder.iterdir() if is_image_file(f) and f.is_file())
    )
    for label, name in enumerate(labels):
        for place, inner, names in os.walk(folder / name):
            inner[:] = [d for d in inner if not d.startswith(".")]
            here = Path(place).relative_to(root).as_posix()
            for n in names:
                if is_image_file(os.path.join(place, n)):
                    found.images.append((f"{here}/{n}", label))
                elif not n.startswith(".") and n.lower() not in JUNK:
                    found.unread.append(f"{here}/{n}")
    found.images.sort()
    return found


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:  # which need no look at each file of a class
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def _names(names: Iterable[str]) -> str:
    """Names of files in a message: printable, at most ten."""
    return some([plain(name) for name in names], 10)
