"""`parity convert` of one step of a training run, as train.py writes it."""

import shutil

import numpy as np
import pytest

import parity
import train
import vit_jax
import vit_torch
from parity.cli import main
from tests.twin_models import images

MODEL = "--model.depth 1 --model.width 16 --model.num-heads 2 --model.mlp-width 16"
STEPS = "--optim.total-steps 6 --optim.warmup-steps 1 --checkpoint.every 3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of six steps."""
    folder = tmp_path_factory.mktemp("orbax") / "run"
    recipe = train.parse(["digits", *MODEL.split(), *STEPS.split(), "--out", str(folder)])[1]
    train.train(recipe, train.RunFolder(folder, writes=True))
    return folder


def test_the_moving_average_of_a_step_becomes_a_file_of_another_library(run, tmp_path):
    step = run / "checkpoints" / "3"
    written = parity.convert(step, tmp_path / "out", target="timm", verify=True)
    assert parity.verify(written / "parity.json").passed
    back = parity.convert(written, tmp_path / "back")
    ours, theirs = vit_jax.load(step), vit_torch.load(back)
    report = parity.check(ours, theirs, level="outputs")
    assert report.passed, parity.render(report)


def test_the_last_step_is_the_model_of_the_finished_run(run, tmp_path):
    written = parity.convert(run / "checkpoints" / "6", tmp_path / "out")
    finished, last = vit_jax.load(run), vit_jax.load(written)
    x = images(finished.config).astype(np.float32)
    np.testing.assert_array_equal(finished(x), last(x))
    assert parity.inspect(run / "checkpoints" / "6").header == parity.inspect(run).header


@pytest.mark.parametrize("how", ["other weights", "cut short"])
def test_damage_is_named_and_nothing_written(run, tmp_path, capsys, how):
    step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "3")
    if how == "other weights":  # whole, so that TensorStore has no error and digests alone tell
        shutil.rmtree(step / "state")
        shutil.copytree(run / "checkpoints" / "6" / "state", step / "state")
    else:
        file = step / "state" / "_METADATA"
        file.write_bytes(file.read_bytes()[:-9])
    assert main(["convert", str(step), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(step) in said and ("are not as saved" in said) == (how == "other weights")
    assert not (tmp_path / "out").exists()


def test_it_is_no_target(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'orbax'"):
        parity.convert("x", tmp_path / "y", source="timm", target="orbax")
