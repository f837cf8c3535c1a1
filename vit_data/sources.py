"""Data sets by name or folder, as random-access sources of encoded images. No twin.

Adding a data set: a TFDS builder in `vit_data/datasets/` and a line in `OWN`.
"""

import os
from pathlib import Path
from typing import Any, Protocol

from vit_data.folder import FolderSource, open_folder
from vit_data.records import open_records, record_files
from vit_data.tfds_sources import open_digits, open_fashion_mnist, open_tfds
from vit_spec import Header
from vit_spec.names import plain
from vit_spec.words import some

OWN = {"digits": open_digits, "fashion_mnist": open_fashion_mnist}


class Source(Protocol):
    """A labelled set of images; `source[i]` for `0 <= i < len(source)`, in any order, picklable."""

    name: str
    """How messages call it, with its split."""
    num_classes: int
    """Labels are 0 .. num_classes - 1."""
    label_names: tuple[str, ...]
    """One name a class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """`{"image": bytes, path or uint8 array, "label": int}`; see `vit_data.decode`."""
        ...

    def describe(self, index: int) -> str:
        """Where example `index` comes from: its file or its place in the set."""
        ...


def open_source(
    name: str | os.PathLike[str], *, split: str, data_dir: str | os.PathLike[str] | None = None
) -> Source:
    """The data set `name`, one split of it.

    `name` is one of
    - `digits`: scikit-learn's 1,797 digits, 360 of them held out; written on first use.
    - `fashion_mnist`: from idx files in `$VITWIN_FASHION_MNIST`, `data_dir` or Debian's package
      dataset-fashion-mnist, else as prepared by tensorflow-datasets in `data_dir`.
    - a folder of class folders, see `vit_data.folder`, or of array_record files, see
      `vit_data.records`; a path that exists or has a leading `.`, `/` or `~`.
    - any other data set of tensorflow-datasets that is prepared in `data_dir` as array_record.

    `split` is `train` or `test`; where a set has a validation split and no test split, `test`
    is the validation split. Folders also know `validation`, and TFDS names any split expression.
    `data_dir` is where our own sets are written (default: `$VITWIN_DATA`, else ~/.cache/vitwin)
    and where others are looked for (default: that of TFDS).

    Raises `ValueError` for unknown names and splits and for folders that are no data set,
    `FileNotFoundError` for data that must be installed first, `PermissionError` and `OSError`
    when `data_dir` cannot be written.
    """
    if isinstance(name, str) and name in OWN:
        return OWN[name](split=split, data_dir=data_dir)
    text = os.fspath(name)
    is_path = not isinstance(name, str) or text.startswith((".", "/", "~"))
    if is_path or Path(text).is_dir():
        root = Path(text).expanduser()
        return (open_records if record_files(root) else open_folder)(root, split=split)
    return open_tfds(text, split=split, data_dir=data_dir, own=tuple(OWN))


def describe_classes(train: Source, test: Source) -> str:
    """What a run says of its data first: how a folder is divided, the classes, their images.

    Classes without an image to train on, or to test on, are named.
    """
    names = [plain(name) for name in train.label_names]
    if not (isinstance(train, FolderSource) and isinstance(test, FolderSource)):
        return f"{len(names):,} classes: {some(names, 20)}"
    counts = list(zip(names, train.count_labels(), test.count_labels(), strict=True))
    listed = some([f"{name} {many:,}/{few:,}" for name, many, few in counts], 20)
    lines = [train.division, f"{len(names):,} classes (images to train/test): {listed}"]
    for number, what in ((1, "train"), (2, "test")):
        if without := [entry[0] for entry in counts if not entry[number]]:
            lines.append(f"warning: no image to {what} on: {some(without, 20)}")
    return "\n".join(lines)


def check_classes(source: Source, header: Header, *, where: str) -> None:
    """Raises `ValueError` unless the classes of a model `where` are those of `source`, in order."""
    theirs, count = tuple(source.label_names), header.config.num_classes
    if count != source.num_classes:
        problem = f"{where} knows {count} classes and {source.name} has {source.num_classes}"
    elif header.labels not in (None, theirs):
        wrong = [pair for pair in zip(header.labels or (), theirs, strict=True) if len({*pair}) > 1]
        problem = (
            f"{len(wrong)} of the {count} classes have other names, first {wrong[0][0]!r} in "
            f"{where} and {wrong[0][1]!r} in {source.name}"
        )
    else:
        return
    raise ValueError(f"{problem}: give the data that it was trained for, or its like")
