"""Sources that tensorflow_datasets reads, ours and others; never needs TensorFlow. No twin."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

from vit_data import idx
from vit_data.prepare import data_root, prepared

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

DataDir = str | os.PathLike[str] | None


class TfdsSource:
    """One split of a prepared TFDS data set, images as encoded bytes; see `Source`."""

    def __init__(self, builder: Any, split: str, *, name: str) -> None:
        import tensorflow_datasets as tfds

        features = builder.info.features
        missing = {"image", "label"} - set(features)
        if missing or not isinstance(features["label"], tfds.features.ClassLabel):
            raise ValueError(
                f"{name} has the features {sorted(features)}: an `image` and a `label` that is one "
                "class are needed"
            )
        self.name = f"{name}[{split}]"
        self.num_classes = int(features["label"].num_classes)
        self.label_names = tuple(features["label"].names)
        self._data = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        if len(self._data) and not 0 <= self[0]["label"] < self.num_classes:
            raise ValueError(f"{self.name} has no labels: use another split, such as validation")

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {self.name} of {len(self)} images")
        example = self._data[index]
        return {"image": example["image"], "label": int(example["label"])}

    def describe(self, index: int) -> str:
        return f"example {index} of {self.name}"


def open_digits(*, split: str, data_dir: DataDir = None) -> TfdsSource:
    """scikit-learn's digits, prepared under `data_root(data_dir)`."""
    _check_split("digits", split)
    from vit_data.datasets.digits import Builder

    return _open(prepared(Builder, data_root(data_dir)), split, "digits")


def open_fashion_mnist(*, split: str, data_dir: DataDir = None) -> TfdsSource:
    """Fashion-MNIST from idx files, prepared under `data_root(data_dir)`, or as TFDS has it.

    Each set of idx files has a folder of its own, named by their content.
    """
    _check_split("fashion_mnist", split)
    folder = _fashion_mnist_folder(data_dir)
    if folder is None:
        try:
            return open_tfds("fashion_mnist", split=split, data_dir=data_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"fashion_mnist: no idx files in {DEBIAN_FASHION_MNIST}"
                + (f" or {data_dir}" if data_dir else "")
                + ". Install the Debian package dataset-fashion-mnist (apt install "
                "dataset-fashion-mnist), or set VITWIN_FASHION_MNIST to a folder that holds "
                + ", ".join(f"{name}.gz" for name in idx.FILES)
            ) from error
    from vit_data.datasets.fashion_mnist_idx import Builder

    root = data_root(data_dir) / f"fashion_mnist-{idx.fingerprint(folder)}"
    return _open(prepared(Builder, root, folder=folder), split, "fashion_mnist")


def open_tfds(
    name: str, *, split: str, data_dir: DataDir = None, own: tuple[str, ...] = ()
) -> TfdsSource:
    """A data set of tensorflow-datasets that has been prepared in `data_dir` as array_record."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except DatasetNotFoundError as error:
        known = [*own, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        raise ValueError(
            f"unknown data set {name!r}: near names are {', '.join(near) or 'none'}; own sets are "
            f"{', '.join(own)}; for a folder of images give its path"
        ) from error
    except Exception as error:  # also AssertionError (versions) and what other namespaces raise
        raise ValueError(_cannot_open(name, error)) from error
    splits = builder.info.splits
    if split == "test" and "test" not in splits and "validation" in splits:
        split = "validation"
    try:
        return _open(builder, split, name)
    except (AssertionError, NotImplementedError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"data set {name!r} is not prepared as array_record in {builder.data_dir}: run `tfds "
            f"build {name} --file_format=array_record --data_dir={builder.data_dir_root}` where "
            "there is a network, or give the data_dir that has it"
        ) from error


def _cannot_open(name: str, error: Exception) -> str:
    """A message of one line; TFDS puts its own call before the reason, and lists after it."""
    lines = re.sub(r'^Failed to construct dataset .*?\}": ', "", str(error)).splitlines()
    reason = (lines or [type(error).__name__])[0].rstrip(" :.")
    if isinstance(error, OSError) and error.filename:  # of files here
        return f"data set {name!r} cannot be opened: {reason}"
    if isinstance(error, ImportError):
        way = "install what it needs, or write it as a folder of array_record files"
    elif isinstance(error, AssertionError | ValueError):
        way = f"give the name alone, {re.split('[:/]', name)[0]!r}, or what `tfds build` prepared"
    else:
        way = "its list is on a network that does not answer; give the folder of prepared data"
    return f"data set {name!r} cannot be opened: {reason}: {way}"


def _open(builder: Any, split: str, name: str) -> TfdsSource:
    splits = builder.info.splits
    if splits and split.isidentifier() and split not in splits:
        raise ValueError(f"{name} has no split {split!r}: it has {', '.join(splits)}")
    return TfdsSource(builder, split, name=name)


def _check_split(name: str, split: str) -> None:
    if split.isidentifier() and split not in ("train", "test"):
        raise ValueError(f"{name} has no split {split!r}: it has train, test")


def _fashion_mnist_folder(data_dir: DataDir) -> Path | None:
    """The folder of the idx files. Raises when one was named and it lacks any of them."""
    named = os.environ.get("VITWIN_FASHION_MNIST")
    if named:
        folder = Path(named).expanduser()
        if missing := idx.missing_files(folder):
            raise FileNotFoundError(
                f"VITWIN_FASHION_MNIST={named} lacks {', '.join(missing)} (.gz or plain): copy "
                "them there or unset it"
            )
        return folder
    places = [Path(data_dir)] if data_dir else []
    return next((p for p in [*places, DEBIAN_FASHION_MNIST] if not idx.missing_files(p)), None)
