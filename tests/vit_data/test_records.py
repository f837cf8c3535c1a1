"""Folders of array_record files without metadata."""

import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.vit_data.samples import png
from vit_data import Augmentation, open_source, train_batches
from vit_spec import Preprocessing


def field(number, content):
    """A field of protobuf's wire format that has a length."""
    assert len(content) < 2**14
    length = bytes([len(content)]) if len(content) < 128 else bytes(
        [len(content) & 127 | 128, len(content) >> 7]
    )  # fmt: skip
    return bytes([number << 3 | 2]) + length + content


def example(image, label, name=b"image"):
    """A `tf.train.Example` byte by byte: a map of features, each a list in a oneof."""
    entries = {
        name: field(1, field(1, image)),  # bytes_list
        b"label": field(3, field(1, bytes([label]))),  # int64_list, packed
    }
    features = [field(1, field(1, key) + field(2, value)) for key, value in entries.items()]
    return field(1, b"".join(features))


def write(path, *records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def pixels(value):
    return png(np.full((4, 4), value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    for part in range(2):
        records = [example(pixels(10 * part + i), i % 3) for i in range(3)]
        write(tmp_path / f"train-0000{part}-of-00002.array_record", *records)
    write(tmp_path / "pets-val.array_record-00000-of-00001", example(pixels(99), 2))
    return tmp_path


def test_records_of_all_files_of_a_split_come_in_order(folder):
    source = open_source(folder, split="train")
    assert (len(source), source.num_classes, source.label_names[2]) == (6, 3, "owl")
    assert [source[i]["label"] for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert source[4]["image"] == pixels(11)
    assert pickle.loads(pickle.dumps(source))[4] == source[4]
    assert open_source(folder, split="test")[0] == {"image": pixels(99), "label": 2}


def test_batches_come_from_records_and_what_is_no_image_or_class_is_skipped(folder):
    bad = example(b"no image", 0), example(pixels(77), 3), b"\xff" * 9
    write(folder / "train-00002-of-00003.array_record", *bad)
    batches = train_batches(
        open_source(folder, split="train"), batch_size=9, size=4, channels=1, seed=0,
        preprocessing=Preprocessing(mean=(0.0,), std=(1 / 255,), crop_fraction=1.0),
        augmentation=Augmentation(),
    )  # fmt: skip
    assert set(np.unique(next(batches)["image"]).astype(int)) == {0, 1, 2, 10, 11, 12}
    reasons = [batches.corrupt[index] for index in (6, 7, 8)]
    assert "no known format" in reasons[0] and "label 3 is none of the 3 classes" in reasons[1]
    assert "no tf.train.Example" in reasons[2]


def test_files_that_tensorflow_datasets_wrote_are_read_the_same(digits_dir, tmp_path):
    theirs = open_source("digits", split="test", data_dir=digits_dir)
    for file in digits_dir.rglob("*.array_record*"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "label.labels.txt").write_text("\n".join(theirs.label_names))
    ours = open_source(tmp_path, split="test")
    assert (len(ours), ours.label_names) == (len(theirs), theirs.label_names)
    assert [ours[i] for i in range(20)] == [theirs[i] for i in range(20)]


def test_what_is_missing_is_said(folder):
    with pytest.raises(ValueError, match="a folder has no split 'dev'"):
        open_source(folder, split="dev")
    (folder / "pets-val.array_record-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"has no test\*.array_record, only files of train"):
        open_source(folder, split="test")
    (folder / "labels.txt").unlink()
    with pytest.raises(ValueError, match="has no labels.txt: write the names"):
        open_source(folder, split="train")
    write(folder / "more.array_record", example(pixels(1), 0))
    with pytest.raises(ValueError, match=r"more.array_record does not say its split"):
        open_source(folder, split="train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (example(b"x", 0, name=b"jpeg"), r"a record has \['jpeg', 'label'\]: one `image`"),
        (None, "cannot be read"),
    ],
    ids=["features", "file"],
)
def test_files_of_something_else_are_refused_when_they_are_opened(folder, content, message):
    file = folder / "train-00000-of-00002.array_record"
    file.write_bytes(b"something else") if content is None else write(file, content)
    with pytest.raises(ValueError, match=message):
        open_source(folder, split="train")
