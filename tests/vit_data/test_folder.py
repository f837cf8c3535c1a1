"""Folders of class folders as data sets."""

import shutil

import pytest

from tests.vit_data.samples import write_images
from vit_data import open_source
from vit_data.folder import hashed_split


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


@pytest.mark.parametrize("held", ["val", "validation", "test"])
def test_split_folders_are_used_as_they_are(tmp_path, held):
    for split, count in (("train", 3), (held, 2)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count)
    assert len(open_source(tmp_path, split="train")) == 6
    assert len(open_source(tmp_path, split="test")) == 4
    assert len(open_source(tmp_path, split="validation")) == 4


def test_images_are_found_in_inner_folders_and_other_files_ignored(flat):
    only_in = flat / "cat" / "2024" / "may"
    write_images(only_in, 20, start=100)
    (flat / "cat" / ".hidden.png").write_bytes(b"")
    (flat / "cat" / "notes.txt").write_text("")
    found = [names(open_source(flat, split=s)) for s in ("train", "validation", "test")]
    assert len(set.union(*found)) == 100


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
