"""Fashion-MNIST from idx files."""

import gzip
import struct

import numpy as np
import pytest

from vit_data import decode, open_source, tfds_sources
from vit_data.idx import FILES, read_idx


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("VITWIN_FASHION_MNIST", raising=False)
    monkeypatch.setattr(tfds_sources, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    folder = tmp_path / "idx"
    folder.mkdir()
    values = np.random.default_rng(0)
    for prefix, count in (("train", 12), ("t10k", 5)):
        images = values.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_a_folder_of_idx_files_is_read_exactly(idx_folder):
    source = open_source("fashion_mnist", split="train", data_dir=idx_folder)
    images = read_idx(idx_folder / "train-images-idx3-ubyte.gz")
    read = [decode(source[i]["image"], channels=1)[..., 0] for i in range(len(source))]
    np.testing.assert_array_equal(np.stack(read), images)
    assert source.label_names[9] == "Ankle boot"
    assert source[11]["label"] == 1


def test_the_folder_can_be_named_by_a_variable(idx_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("VITWIN_FASHION_MNIST", str(idx_folder))
    assert len(open_source("fashion_mnist", split="test", data_dir=tmp_path / "out")) == 5


def test_changed_idx_files_are_prepared_anew(idx_folder):
    open_source("fashion_mnist", split="test", data_dir=idx_folder)
    write_idx(idx_folder / "t10k-images-idx3-ubyte.gz", np.zeros((3, 28, 28), np.uint8))
    write_idx(idx_folder / "t10k-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    assert len(open_source("fashion_mnist", split="test", data_dir=idx_folder)) == 3


def test_without_any_idx_files_the_error_says_what_to_install(idx_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        open_source("fashion_mnist", split="train", data_dir=tmp_path / "empty")


def test_a_named_folder_that_lacks_a_file_names_it(idx_folder, monkeypatch):
    (idx_folder / f"{FILES[1]}.gz").unlink()
    monkeypatch.setenv("VITWIN_FASHION_MNIST", str(idx_folder))
    with pytest.raises(FileNotFoundError, match=f"lacks {FILES[1]}"):
        open_source("fashion_mnist", split="train")


def test_labels_of_another_file_are_refused(idx_folder):
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="do not belong together"):
        open_source("fashion_mnist", split="train", data_dir=idx_folder)
    assert not list(idx_folder.rglob("dataset_info.json"))


def damage_gzip(data):
    return data[:-30]


def damage_content(data):
    return gzip.compress(gzip.decompress(data)[:-1])


def damage_header(data):
    return gzip.compress(gzip.decompress(data)[:9])


def damage_magic(data):
    return gzip.compress(b"text" + gzip.decompress(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_gzip, "is damaged"),
        (damage_content, "holds 9407 values and its header states"),
        (damage_header, "ends within its header"),
        (damage_magic, "no idx file"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(idx_folder, damage, message):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.gz.*{message}"):
        open_source("fashion_mnist", split="train", data_dir=idx_folder)
