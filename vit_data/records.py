"""A folder of array_record files as a source, with nothing else of tensorflow-datasets. No twin.

`root/labels.txt` names the classes, one a line. `root/train.array_record` and so on hold the
examples, or several files a split: a name begins with its split or has it after a `-`, as in
`train-00000-of-00004.array_record` and `pets-train.array_record-00000-of-00004`. A record is a
`tf.train.Example` with `image`, the bytes of an image file, and `label`, an int64 from 0 on.
"""

import re
from pathlib import Path
from typing import Any

from vit_data.splits import FALLBACKS, SPLIT_NAMES, split_of

NAMES = ("labels.txt", "label.labels.txt")  # the second as tensorflow-datasets writes it
_SPLIT_WORD = re.compile(
    rf"(?:^|-)({'|'.join(w for words in SPLIT_NAMES.values() for w in words)})(?=[-.])",
    re.IGNORECASE,
)


class RecordSource:
    """Array_record files with the names of their classes; see `Source`. Read when asked for."""

    def __init__(self, files: list[Path], label_names: tuple[str, ...], name: str) -> None:
        from grain.sources import ArrayRecordDataSource

        self.name = name
        self.label_names, self.num_classes = label_names, len(label_names)
        try:
            self._records: Any = ArrayRecordDataSource([str(file) for file in files])
            if len(self):
                self[0]
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {self.name} of {len(self)} images")
        try:
            image, label = parse(self._records[index])
        except RuntimeError as error:  # of array_record: the file is damaged
            raise ValueError(f"damaged record ({error})") from error
        if not 0 <= label < self.num_classes:
            raise ValueError(f"label {label} is none of the {self.num_classes} classes, from 0 on")
        return {"image": image, "label": label}

    def describe(self, index: int) -> str:
        return f"record {index} of {self.name}"


def record_files(root: Path) -> dict[str, list[Path]]:
    """The array_record files in `root` by the split that their names tell, in order; "": none."""
    found: dict[str, list[Path]] = {}
    for file in sorted(root.glob("*.array_record*")) if root.is_dir() else ():
        told = _SPLIT_WORD.search(file.name)
        found.setdefault((told and split_of(told[1])) or "", []).append(file)
    return found


def open_records(root: Path, *, split: str) -> RecordSource:
    """The examples of `root` in `split`: `train`, `validation` or `test`.

    `test` is the validation split where there is no other, and the reverse. Raises `ValueError`
    for files of no split, for what are no such records, and without the names of the classes.
    """
    if split not in FALLBACKS:
        raise ValueError(f"a folder has no split {split!r}: it has {', '.join(FALLBACKS)}")
    files = record_files(root)
    if "" in files:
        raise ValueError(
            f"{files[''][0]} does not say its split: call it train.array_record, val.array_record, "
            f"test.array_record or train-00000-of-00004.array_record"
        )
    chosen = next((files[name] for name in FALLBACKS[split] if name in files), None)
    if chosen is None:
        raise ValueError(f"{root} has no {split}*.array_record, only files of {', '.join(files)}")
    labels = next((root / name for name in NAMES if (root / name).is_file()), None)
    if labels is None:
        raise ValueError(f"{root} has no {NAMES[0]}: write the names of the classes, one a line")
    return RecordSource(chosen, tuple(labels.read_text().splitlines()), f"{root}[{split}]")


def parse(record: bytes) -> tuple[bytes, int]:
    """Image and label of a `tf.train.Example`. Raises `ValueError` for what is none."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"a record of {len(record)} bytes is no tf.train.Example") from error
    names = sorted(features)
    image, label = features["image"].bytes_list.value, features["label"].int64_list.value
    if len(image) != 1 or len(label) != 1:
        raise ValueError(f"a record has {names}: one `image` of bytes, one int64 `label` is needed")
    return image[0], label[0]
