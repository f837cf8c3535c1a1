"""Folders of class folders as data sets."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.vit_data.samples import write_images
from vit_data import decode, open_source
from vit_data.folder import hashed_split
from vit_data.sources import describe_classes


def names(source):
    return {source.describe(i) for i in range(len(source))}


@pytest.fixture
def flat(tmp_path):
    write_images(tmp_path / "cat", 40)
    write_images(tmp_path / "dog", 40)
    return tmp_path


def test_the_splits_of_a_flat_folder_divide_its_images(flat):
    parts = [names(open_source(flat, split=s)) for s in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80
    assert len(parts[0]) > 50


def test_the_division_is_said_with_every_count(flat):
    sizes = {s: len(open_source(flat, split=s)) for s in ("train", "validation", "test")}
    said = open_source(flat, split="train").division
    assert said.startswith("80 images") and "by a hash of each path" in said
    assert all(f"{size} {split} (" in said for split, size in sizes.items())


def test_the_folders_that_training_reads_are_said(flat):
    for split in ("train", "val"):
        shutil.copytree(flat / "cat", flat / "own" / split / "cat")
        shutil.copytree(flat / "dog", flat / "own" / split / "dog")
    said = open_source(flat / "own", split="train").division
    assert said.endswith("is divided into train, val: training reads train and tests on val")


def test_labels_follow_the_names_of_the_class_folders(flat):
    source = open_source(flat, split="train")
    assert source.label_names == ("cat", "dog")
    for i in range(len(source)):
        assert source[i]["label"] == ("/dog/" in source.describe(i))


def test_an_image_stays_in_its_split_when_others_come(flat):
    before = names(open_source(flat, split="test"))
    write_images(flat / "cat", 40, start=40)
    write_images(flat / "ant", 10)
    assert before <= names(open_source(flat, split="test"))


def test_the_hash_of_a_name_never_changes():
    held = {i: hashed_split(f"cat/{i}.png") for i in range(12)}
    assert {i: s for i, s in held.items() if s != "train"} == {
        4: "test",
        6: "validation",
        11: "validation",
    }


def test_the_same_folder_elsewhere_has_the_same_split(flat, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "moved"
    shutil.copytree(flat, other)
    moved = names(open_source(str(other), split="test"))
    assert {n.removeprefix(str(other)) for n in moved} == {
        n.removeprefix(str(flat)) for n in names(open_source(str(flat), split="test"))
    }


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("train", "val"), ("train", "validation"), ("train", "test"), ("train", "valid"),
        ("train", "dev"), ("Train", "Val"), ("TRAINING", "Testing"), ("train_images", "testSet"),
        ("training_data", "eval"),
    ],
)  # fmt: skip
def test_split_folders_are_used_as_they_are(tmp_path, train, held):
    for split, count in ((train, 3), (held, 2)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count)
    assert open_source(tmp_path, split="train").label_names == ("cat", "dog")
    assert len(open_source(tmp_path, split="train")) == 6
    assert len(open_source(tmp_path, split="test")) == 4
    assert len(open_source(tmp_path, split="validation")) == 4


def test_folders_that_are_not_read_are_said(tmp_path):
    for split in ("train", "valid", "test", "unlabelled"):
        write_images(tmp_path / split / "cat", 3)
        write_images(tmp_path / split / "dog", 3)
    said = open_source(tmp_path, split="train").division
    assert said.endswith("tests on test; valid, unlabelled are left alone")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "test"):
        write_images(tmp_path / name, 20)
    assert open_source(tmp_path, split="train").label_names == ("bus", "test", "train")


def test_classes_whose_names_hold_a_split_are_classes(tmp_path):
    for name in ("bullet_train", "steam_train"):
        write_images(tmp_path / name, 20)
    assert open_source(tmp_path, split="train").num_classes == 2


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog"),
            "cannot be told: call",
        ),
        (("train/cat", "train/dog"), "split folder train and no other: give .*train itself"),
        (("val/cat", "test/cat"), "no folder to train on"),
        (("train/cat", "val/cat", "valid/cat"), "several folders of one split, train, val, valid"),
        (("train/cat", "train/dog", "val"), "val holds images but no class folders"),
        (("train", "test"), "no class folders in them: put each image in a folder of its class"),
        (("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"), "fold1, fold2 .* look like the cl"),
        (
            [f"{a}/{b}/{c}" for a in ("train", "val") for b in ("train", "val") for c in "xy"],
            "train is divided into train, val again: give one folder of splits, such as .*train",
        ),
        (("inner/cat", "inner/dog"), "the single class 'inner'.*give .*inner"),
    ],
)
def test_folders_that_look_like_splits_are_never_taken_for_classes(tmp_path, folders, message):
    for name in folders:
        write_images(tmp_path / name, 20)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, split="train")


@pytest.mark.parametrize("suffix", ["gif", "tif", "tiff", "ppm", "jfif", "JPE", "avif", "jp2", ""])
def test_every_type_that_pillow_reads_is_an_image(flat, suffix):
    target = flat / "cat" / f"other.{suffix}".rstrip(".")
    kind = {"": "png", "jfif": "jpeg", "JPE": "jpeg", "jp2": "jpeg2000"}.get(suffix, suffix)
    Image.new("RGB", (8, 8), (250, 20, 30)).save(target, format={"tif": "tiff"}.get(kind, kind))
    sources = [open_source(flat, split=s) for s in ("train", "validation", "test")]
    (found,) = [s[i] for s in sources for i in range(len(s)) if s.describe(i) == str(target)]
    assert np.abs(decode(found["image"], channels=3).astype(int) - (250, 20, 30)).max() <= 8


def test_files_that_are_no_images_are_counted_and_named(flat):
    for name in ("notes.txt", "labels.txt", "scan.pdf", "Thumbs.db", ".DS_Store", "README"):
        (flat / "cat" / name).write_bytes(b"x")
    write_images(flat, 1)
    said = open_source(flat, split="train").division
    assert "; not read: 2 .txt, 1 no suffix, 1 .pdf, such as 'cat/README'" in said
    assert said.endswith("; in no class folder: 1 image, such as '0.png'")


def test_a_large_folder_is_divided_without_a_look_at_each_of_its_files(flat, monkeypatch):
    looked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: looked.append(path) or stat(path, **how))
    open_source(flat, split="train")
    assert len(looked) < 20  # there are 80 files


def test_classes_and_their_images_are_told_before_training(flat):
    write_images(flat / "eel", 2)
    write_images(flat / "fox", 1)  # fox/0.png and both of eel are in train by their hash
    said = describe_classes(*(open_source(flat, split=s) for s in ("train", "test")))
    assert "4 classes (images to train/test): cat " in said and "eel 2/0, fox 1/0" in said
    assert said.endswith("warning: no image to test on: eel, fox")


def test_images_are_found_in_inner_folders_and_other_files_ignored(flat):
    only_in = flat / "cat" / "2024" / "may"
    write_images(only_in, 20, start=100)
    (flat / "cat" / ".hidden.png").write_bytes(b"")
    (flat / "cat" / "notes.txt").write_text("")
    found = [names(open_source(flat, split=s)) for s in ("train", "validation", "test")]
    assert len(set.union(*found)) == 100


def test_a_pipe_that_is_called_an_image_is_not_waited_for(flat):
    pipes = [f"{number}.png" for number in range(40, 44)]  # some are in train by their hash
    for name in pipes:
        os.mkfifo(flat / "cat" / name)
    source = open_source(flat, split="train")
    pipe = next(i for i in range(len(source)) if os.path.basename(source.describe(i)) in pipes)
    with pytest.raises(ValueError, match="a pipe or a device"):
        source[pipe]


def test_an_upper_case_suffix_is_an_image_too(flat):
    (flat / "cat" / "0.png").rename(flat / "cat" / "0.PNG")
    found = [names(open_source(flat, split=s)) for s in ("train", "validation", "test")]
    assert len(set.union(*found)) == 80


def make_nothing(root):
    pass


def make_files_only(root):
    write_images(root, 3)


def make_one_class(root):
    write_images(root / "cat", 3)


def make_bare_class(root):
    write_images(root / "cat", 3)
    (root / "dog").mkdir()


def make_few(root):
    write_images(root / "cat", 1)
    write_images(root / "dog", 1)


def make_tfrecords(root):
    (root / "old-train.tfrecord-00000-of-00001").write_bytes(b"")


def make_prepared(root):
    (root / "1.0.0").mkdir()
    (root / "1.0.0" / "dataset_info.json").write_text("{}")


def make_new_class_in_test(root):
    for name in ("train/cat", "train/dog", "test/cat", "test/eel"):
        write_images(root / name, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "is empty: put a folder of images"),
        (make_files_only, "has no class folders"),
        (make_one_class, "has the single class 'cat': two or more"),
        (make_bare_class, "class folders without images: dog"),
        (make_few, "split 'test' of .* is empty"),
        (make_tfrecords, "tfds build NAME --file_format=array_record"),
        (make_prepared, "holds a prepared data set: give .*1.0.0"),
        (make_new_class_in_test, "has classes that .*train lacks: eel"),
    ],
)
def test_a_folder_that_is_no_data_set_says_why(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, split="test")


def test_a_path_that_does_not_exist_is_not_taken_for_a_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_source(str(tmp_path / "nowhere"), split="train")


def test_an_unknown_split_of_a_folder_lists_the_known(flat):
    with pytest.raises(ValueError, match="it has train, validation, test"):
        open_source(flat, split="dev")
