"""Data sets of tensorflow-datasets by name."""

import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.vit_data.samples import png
from vit_data import open_source, train_batches
from vit_data.augment import Augmentation
from vit_spec.preprocessing import Preprocessing


def fake_examples(builder, split, decoders=None, **_):
    assert isinstance(decoders["image"], type(tfds.decode.SkipDecoding()))
    image = np.full((32, 32, 3), {"train": 10, "test": 20}[split], np.uint8)
    return [{"image": png(image), "label": np.int64(i % 10)} for i in range(6)]


def test_a_name_of_tfds_gives_encoded_images_and_its_classes(tmp_path):
    with tfds.testing.mock_data(num_examples=6, as_data_source_fn=fake_examples):
        source = open_source("cifar10", split="test", data_dir=tmp_path)
    assert (len(source), source.num_classes, source.name) == (6, 10, "cifar10[test]")
    assert source.label_names[:2] == ("0", "1")  # the names come with the prepared data
    assert source[3]["label"] == 3
    assert source[3]["image"].startswith(b"\x89PNG")


def test_batches_come_from_a_tfds_source(tmp_path):
    with tfds.testing.mock_data(num_examples=6, as_data_source_fn=fake_examples):
        source = open_source("cifar10", split="train", data_dir=tmp_path)
    batches = train_batches(
        source,
        batch_size=3,
        size=32,
        channels=3,
        preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, crop_fraction=1.0),
        augmentation=Augmentation(),
        seed=0,
    )
    np.testing.assert_allclose(next(batches)["image"], np.full((3, 32, 32, 3), 10.0), rtol=1e-6)


def test_a_data_set_that_is_not_prepared_says_how(tmp_path):
    with pytest.raises(FileNotFoundError, match="tfds build cifar10 --file_format=array_record"):
        open_source("cifar10", split="train", data_dir=tmp_path)


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match="unknown data set 'cifar11': near names are cifar10"):
        open_source("cifar11", split="train")


def test_an_unknown_name_lists_ours_too():
    with pytest.raises(ValueError, match="near names are .*digits"):
        open_source("digit", split="train")


@pytest.mark.parametrize("name", ["oxford_iiit_pet:0.0.1", "beans/1.0"])
def test_a_version_that_is_not_there_is_one_line_that_says_so(name):
    with pytest.raises(ValueError, match="cannot be opened: .*give the name alone, '[a-z_]+'") as e:
        open_source(name, split="train")
    assert "\n" not in str(e.value) and "Failed to construct" not in str(e.value)


def test_a_list_on_a_network_that_does_not_answer_says_so(monkeypatch):
    def fail(*_, **__):
        raise type("ConnectError", (Exception,), {})("[Errno -2] Name or service not known")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(ValueError, match="'huggingface:mnist' cannot .* network that does not ans"):
        open_source("huggingface:mnist", split="train")


def test_a_folder_that_may_not_be_read_is_no_matter_of_the_network(monkeypatch):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "/data")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(ValueError, match="cannot be opened: .*Permission denied: '/data'$"):
        open_source("mnist", split="train")


def test_a_data_set_without_labels_of_classes_is_refused(tmp_path):
    with (
        tfds.testing.mock_data(num_examples=6, as_data_source_fn=fake_examples),
        pytest.raises(ValueError, match="an `image` and a `label`"),
    ):
        open_source("ag_news_subset", split="train", data_dir=tmp_path)


def test_a_source_survives_pickling(digits_dir):
    source = open_source("digits", split="test", data_dir=digits_dir)
    assert pickle.loads(pickle.dumps(source))[7] == source[7]
