"""The digits as a TFDS data set that is written once."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vit_data import decode, open_source
from vit_data.datasets.digits import held_out


@pytest.fixture(scope="module")
def splits(digits_dir):
    return {s: open_source("digits", split=s, data_dir=digits_dir) for s in ("train", "test")}


def test_what_was_written_equals_the_arrays_of_sklearn(splits):
    values, labels = load_digits(return_X_y=True)
    is_test = held_out(labels)
    for split, chosen in (("train", ~is_test), ("test", is_test)):
        source = splits[split]
        examples = [source[i] for i in range(len(source))]
        stored = np.stack([decode(e["image"], channels=1) for e in examples])
        np.testing.assert_array_equal(np.rint(stored / 255 * 16).reshape(-1, 64), values[chosen])
        assert [e["label"] for e in examples] == labels[chosen].tolist()


def test_images_are_kept_as_png_files(splits):
    assert splits["train"][0]["image"].startswith(b"\x89PNG")


def test_the_test_split_never_changes():
    chosen = np.flatnonzero(held_out(load_digits().target))
    assert len(chosen) == 360
    digest = hashlib.sha256(",".join(map(str, chosen)).encode()).hexdigest()
    assert digest[:16] == "c9a056aa3ab6bcc7"


def test_the_test_split_is_stratified():
    labels = load_digits().target
    share = np.bincount(labels[held_out(labels)]) - np.bincount(labels) * 360 / 1797
    assert np.abs(share).max() < 1


def test_the_source_knows_its_classes(splits):
    assert splits["train"].num_classes == 10
    assert splits["train"].label_names == tuple("0123456789")
    assert (len(splits["train"]), len(splits["test"])) == (1437, 360)


def test_an_index_out_of_range_is_refused(splits):
    with pytest.raises(IndexError, match="360"):
        splits["test"][360]


def test_a_second_opening_writes_nothing(digits_dir):
    before = {p: p.stat().st_mtime_ns for p in digits_dir.rglob("*")}
    open_source("digits", split="test", data_dir=digits_dir)
    assert {p: p.stat().st_mtime_ns for p in digits_dir.rglob("*")} == before


def test_an_unknown_split_lists_the_known():
    with pytest.raises(ValueError, match="no split 'dev': it has train, test"):
        open_source("digits", split="dev")


PROBE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "jax"):
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Block())
import vit_data
heavy = {"grain", "tensorflow_datasets", "sklearn", "jax", "torch", "tensorflow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from vit_spec.preprocessing import Preprocessing
source = vit_data.open_source("digits", split="train")
batches = vit_data.train_batches(
    source, batch_size=4, size=8, channels=1, preprocessing=Preprocessing(crop_fraction=1.0),
    augmentation=vit_data.Augmentation(), seed=0)
print(next(batches)["image"].shape)
assert not {"torch", "jax", "tensorflow"} & set(sys.modules)
"""


def test_preparing_and_reading_need_no_framework(tmp_path):
    env = {**os.environ, "VITWIN_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(4, 8, 8, 1)"
    assert (tmp_path / "digits/1.0.0/dataset_info.json").is_file()
