"""The checkpoint that both twins share: every bit, and a clear word on everything broken."""

import json
import os
import pickle

import jax
import numpy as np
import pytest
import torch

import vit_jax
import vit_torch
from parity.inputs import random_state
from parity.twins import weights
from tests.twin_models import TINY
from vit_spec import Header, Preprocessing, checkpoint, read_header
from vit_spec.checkpoint import write_tensors


def state(dtype="float32"):
    return {name: array.astype(np.dtype(dtype)) for name, array in random_state(TINY, 0).items()}


@pytest.fixture
def saved(tmp_path):
    checkpoint.write(tmp_path / "m", Header(config=TINY), state())
    return tmp_path / "m"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("way", ["jax_to_torch", "torch_to_jax"])
def test_what_one_twin_saves_the_other_loads_bit_for_bit(tmp_path, dtype, way):
    with jax.enable_x64(True):
        writer, reader = (vit_jax, vit_torch) if way == "jax_to_torch" else (vit_torch, vit_jax)
        model = writer.api.from_state(TINY, state(dtype))
        writer.save(
            model, tmp_path / "m", preprocessing=Preprocessing(crop_fraction=0.9), labels=("a", "b")
        )
        loaded = reader.load(tmp_path / "m")
        found = weights(loaded)
    assert all(
        found[n].dtype == a.dtype and found[n].tobytes() == a.tobytes()
        for n, a in state(dtype).items()
    )
    header = read_header(tmp_path / "m")
    assert loaded.config == header.config == TINY
    assert header.preprocessing.crop_fraction == 0.9 and header.labels == ("a", "b")


def test_the_weights_file_alone_is_complete(saved):
    assert vit_torch.load(saved / "model.safetensors").config == TINY


def test_missing_extra_and_wrong_shaped_tensors_come_in_one_message(saved):
    broken = state()
    broken["extra.weight"] = broken.pop("head.bias")
    broken["norm.bias"] = np.zeros(5, np.float32)
    text = Header(config=TINY).to_json()
    write_tensors(saved / "model.safetensors", broken, metadata={"vitwin": text})
    with pytest.raises(ValueError, match="1 missing, 1 extra, 1 of another shape") as error:
        vit_jax.load(saved)
    assert all(
        part in str(error.value)
        for part in ("missing  head.bias", "extra    extra.weight", "norm.bias is (5,)")
    )


@pytest.mark.parametrize("keep", [0, 4, 200, -4], ids=["empty", "length", "header", "data"])
def test_a_truncated_file_is_named(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        vit_torch.load(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is not JSON"),
        ('{"format": "x"}', "has format 'x'"),
        ("[]", "it is not a vitwin checkpoint"),
        ('{"format": "vitwin 1"}', "lacks the entry 'config'"),
    ],
    ids=["not_json", "other_format", "list", "no_config"],
)
def test_a_broken_config_file_is_named(saved, content, message):
    (saved / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        vit_jax.load(saved)


def test_files_of_two_models_in_one_directory_are_refused(saved):
    (saved / "config.json").write_text(
        Header(config=TINY.replace(activation="gelu_tanh")).to_json()
    )
    with pytest.raises(ValueError, match="are of different models"):
        vit_jax.load(saved)


def test_a_directory_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        vit_torch.load(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(saved, Header(config=TINY), random_state(TINY, 1))
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_that_does_not_fit_its_config_is_not_written(tmp_path):
    broken = state()
    del broken["norm.bias"]
    with pytest.raises(ValueError, match="missing  norm.bias"):
        checkpoint.write(tmp_path / "m", Header(config=TINY), broken)
    assert not (tmp_path / "m").exists()


def torch_file(path, *, zipped):
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)


OTHERS = {
    "torch": (lambda p: torch_file(p, zipped=True), r"is a PyTorch file \(a zip archive\)"),
    "old torch": (lambda p: torch_file(p, zipped=False), r"is a PyTorch file \(a pickle\)"),
    "npz": (lambda p: np.savez(p, a=np.zeros(3)), r"is a NumPy archive \(.npz\)"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "is a pickle"),
}


@pytest.mark.parametrize(("write", "kind"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("load", [vit_jax.load, vit_torch.load], ids=["jax", "torch"])
def test_a_file_of_another_kind_is_named_with_the_command_to_type(load, write, kind, tmp_path):
    file = tmp_path / "x.npz"
    write(file)
    with pytest.raises(
        ValueError, match=f"x.npz {kind}, not safetensors: .*`parity convert {file}"
    ):
        load(file)


@pytest.mark.parametrize(
    ("said", "library"),
    [
        (
            {"architecture": "vit_small_patch16_224"},
            r"timm \(architecture 'vit_small_patch16_224'\)",
        ),
        ({"model_type": "vit", "format": "x"}, r"transformers \(model_type 'vit'\)"),
        ({"model_cfg": {"embed_dim": 512}}, r"open_clip \(model_cfg \{'embed_dim': 512\}\)"),
    ],
    ids=["timm", "transformers", "open_clip"],
)
def test_a_folder_of_another_library_is_named_with_the_command_to_type(saved, said, library):
    (saved / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=rf"is of {library}, not .*`parity convert SRC DST`"):
        vit_jax.load(saved)
