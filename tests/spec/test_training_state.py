"""The files of a training run: what goes along, and a clear word on everything broken."""

import json

import numpy as np
import pytest

import parity
import vit_jax
import vit_torch
from parity.cli import main
from tests.training_runs import (
    MODEL,
    OPTIM,
    assert_same_bits,
    random_training,
)
from vit_spec import training_state
from vit_spec.checkpoint import metadata, read_tensors, write_tensors


@pytest.fixture
def saved(tmp_path):
    training_state.write(tmp_path / "run", random_training())
    return tmp_path / "run"


def test_convert_takes_the_training_state_to_a_directory_and_not_to_a_file(saved, tmp_path):
    parity.convert(saved, tmp_path / "copy")
    assert_same_bits(training_state.read(tmp_path / "copy"), training_state.read(saved))
    plain = parity.convert(saved, tmp_path / "plain.safetensors")
    assert read_tensors(plain).keys() == random_training().params.keys()


def test_inspect_shows_step_and_settings(saved, capsys):
    summary = parity.inspect(saved)
    assert (summary.step, summary.optim) == (7, OPTIM)
    assert main(["inspect", str(saved)]) == 0
    out = capsys.readouterr().out
    assert "training state after step 7 of 20" in out and "label_smoothing" in out
    (saved / "training.safetensors").unlink()
    assert (parity.inspect(saved).step, parity.inspect(saved).optim) == (None, None)


LOADERS = pytest.mark.parametrize("side", [vit_jax, vit_torch], ids=["jax", "torch"])


@LOADERS
def test_a_checkpoint_without_training_is_named(saved, side):
    (saved / "training.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no training.safetensors.*save_training"):
        side.load_training(saved)


@LOADERS
def test_weights_of_another_time_are_refused(saved, side):
    vit_torch.save(vit_torch.create(MODEL), saved)
    with pytest.raises(ValueError, match="does not belong to the weights.*delete training"):
        side.load_training(saved)


@LOADERS
def test_missing_extra_and_wrong_shaped_tensors_come_in_one_message(saved, side):
    file = saved / "training.safetensors"
    tensors, kept = read_tensors(file), metadata(file)
    tensors["x.head.bias"] = tensors.pop("m.head.bias")
    tensors["ema.norm.bias"] = np.zeros(5, np.float32)
    write_tensors(file, tensors, metadata=kept)
    with pytest.raises(ValueError, match="1 missing, 1 extra, 1 of another shape") as error:
        side.load_training(saved)
    for part in ("missing  m.head.bias", "extra    x.head.bias", "ema.norm.bias is (5,)"):
        assert part in str(error.value)


BAD_HEADERS = {
    "format": ({"format": "vitwin 1"}, "has format 'vitwin 1', not 'vitwin training 2'"),
    "negative_step": ({"step": -1}, "step -1 must be a whole number from 0"),
    "fraction": ({"step": 7.5}, "step 7.5 must be a whole number"),
    "far_step": ({"step": 2**31}, "to 2147483647"),
    "nan": ({"optim": {"lr": float("nan")}}, "NaN is not JSON"),
    "infinite": ({"optim": {"clip_norm": float("inf")}}, "Infinity is not JSON"),
    "text": ({"optim": {"eps": "1e-8"}}, "eps '1e-8' must be a finite number"),
    "range": ({"optim": {"b1": 1.5}}, r"b1 1.5 is outside \[0, 1\)"),
    "unknown": ({"optim": {"beta1": 0.9}}, "unknown optimizer setting 'beta1'"),
}


@pytest.mark.parametrize(("change", "message"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_broken_header_is_named(saved, change, message):
    file = saved / "training.safetensors"
    content = json.loads(metadata(file)["vitwin"])
    optim = content["optim"] | change.get("optim", {})
    text = json.dumps(content | change | {"optim": optim})
    write_tensors(file, read_tensors(file), metadata={"vitwin": text})
    with pytest.raises(ValueError, match=message) as error:
        training_state.read(saved)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("entry", ["step", "optim", "weights", "optim.eps"])
def test_a_header_that_lacks_something_leaves_nothing_to_a_default(saved, entry):
    file = saved / "training.safetensors"
    content = json.loads(metadata(file)["vitwin"])
    outer, _, inner = entry.partition(".")
    del (content[outer] if inner else content)[inner or outer]
    write_tensors(file, read_tensors(file), metadata={"vitwin": json.dumps(content)})
    with pytest.raises(ValueError, match=f"lacks the .*'{inner or outer}'"):
        training_state.read(saved)


def test_a_damaged_file_is_named(saved):
    file = saved / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="training.safetensors is not a whole safetensors file"):
        training_state.read(saved)


def test_a_full_disk_leaves_the_old_run_and_nothing_else(saved, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        training_state.write(saved, random_training(step=8))
    assert_same_bits(training_state.read(saved), random_training())
    assert len(list(saved.iterdir())) == 3
