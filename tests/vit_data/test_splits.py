"""Names of splits."""

import pytest

from vit_data.splits import split_of, split_words


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("trainset", "train"), ("train2017", "train"),
        ("TrainImages", "train"), ("valid", "validation"), ("DEV", "validation"),
        ("val_images", "validation"), ("test_set", "test"), ("testing", "test"),
        ("cat", None), ("trainers", None), ("devices", None), ("seg_train", None),
        ("train_test", None), ("images", None), ("", None),
    ],
)  # fmt: skip
def test_a_name_is_a_split_if_it_says_nothing_else(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("name", "found"), [("seg_train", {"train"}), ("train_test", {"train", "test"}), ("cat", set())]
)
def test_the_splits_in_a_name_are_found(name, found):
    assert split_words(name) == found
