"""A run to which something happens: another program, a full disk, numbers that are not finite."""

import fcntl
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import train
import vit_jax
from tests.train.short_runs import Stop, lines, steps, stopped
from vit_jax import loop, nonfinite
from vit_jax.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_a_second_program_in_the_folder_is_refused_until_the_first_is_gone(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'r+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(100)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run" / ".lock")], stdout=subprocess.PIPE
    )
    other.stdout.readline()
    try:
        for how in ("--resume", "--overwrite"):
            assert train.main([*saving, how]) == 2
            error = capsys.readouterr().err
            assert f"is in use by process {os.getpid()} on " in error and "--out" in error
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert train.main([*saving, "--resume"]) == 0


def test_a_run_holds_the_lock_of_its_folder(saving, tmp_path, monkeypatch):
    held = []

    def run(self):
        with (tmp_path / "run" / ".lock").open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(True)
        raise Stop

    monkeypatch.setattr(loop.Loop, "run", run)
    with pytest.raises(Stop):
        train.main(saving)
    assert held


def failing(monkeypatch, step):
    """The save of one step finds no space, in Orbax's thread."""
    wait = Checkpoints.wait

    def full(self):
        if self._writing == step:
            wait(self)
            self._writing = step
            raise self._failed(OSError(28, "No space left on device"))
        wait(self)

    monkeypatch.setattr(Checkpoints, "wait", full)


def test_a_save_that_fails_is_told_and_training_goes_on(saving, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 8)
    assert train.main([*saving, "--scan"]) == 0  # with blocks that are stacked between saves
    error = capsys.readouterr().err
    assert "train: the checkpoint of step 8 was not saved: No space left on device (" in error
    assert "; training goes on" in error
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_save_that_fails_stops_the_run_if_asked(saving, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 8)
    assert train.main([*saving, "--checkpoint.on-failure", "stop"]) == 2
    assert "the checkpoint of step 8 was not saved" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    assert train.main([*saving, "--checkpoint.on-failure", "stop", "--resume"]) == 0


def spoiling(monkeypatch, *bad):
    """Batches (counted from 1) whose fourth image holds a NaN."""
    following = train.Batches.__next__
    count = iter(range(1, 1000))

    def spoiled(self):
        batch = following(self)
        if "mask" not in batch and next(count) in bad:
            batch["image"][3, 1, 1] = np.nan
        return batch

    monkeypatch.setattr(train.Batches, "__next__", spoiled)


@pytest.mark.parametrize("more", [[], ["--scan"]], ids=["apart", "scan"])
def test_a_step_that_is_not_finite_is_explained_in_its_parts_and_its_batch_kept(
    more, saving, tmp_path, monkeypatch, capsys
):
    seen = []

    def spying(original, place):
        def call(*arguments):
            seen.append(len(arguments[place]))
            return original(*arguments)

        return call

    monkeypatch.setattr(vit_jax.ViT, "points", spying(vit_jax.ViT.points, 1))
    monkeypatch.setattr(nonfinite, "costs", spying(nonfinite.costs, 1))
    spoiling(monkeypatch, 7)
    assert train.main([*saving, "--optim.accumulate", "2", *more]) == 1
    assert set(seen) == {64}
    error = capsys.readouterr().err
    assert (
        "train: step 7: loss nan, gradient norm nan: images of the batch 3; in the forward" in error
    )
    assert "first embed; gradients of " in error and "first head.kernel" in error
    kept = np.load(tmp_path / "run" / "bad_batch_step7.npz")
    assert np.isnan(kept["image"][3]).any() and kept["label"].shape == (128,)
    assert f"examples {kept['index'].tolist()}" in error
    assert steps(tmp_path / "run") == [4]


def test_as_many_steps_as_allowed_are_skipped_and_change_nothing(
    saving, tmp_path, monkeypatch, capsys
):
    spoiling(monkeypatch, 5, 7)
    assert train.main([*saving, "--skip-nonfinite", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 7: loss nan, gradient norm nan; skipped (2 of at most 2)" in out
    assert "2 steps were not finite and changed nothing" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["skipped_steps"] == 2 and summary["steps"] == 12
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run") if "loss" in line)
    state = vit_jax.api.get_state(vit_jax.load(tmp_path / "run"))
    assert all(np.isfinite(value).all() for value in state.values())


def test_a_disk_that_is_too_full_for_a_bad_batch_changes_nothing_else(
    saving, tmp_path, monkeypatch, capsys
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    spoiling(monkeypatch, 5, 7)
    monkeypatch.setattr(np, "savez", full)
    assert train.main([*saving, "--skip-nonfinite", "1"]) == 1
    out, error = capsys.readouterr()
    said = "Its batch could not be kept (No space left on device)"
    assert f"step 5: loss nan, gradient norm nan; skipped (1 of at most 1). {said}" in out
    assert "train: step 7: loss nan" in error and f"{said}, of the training examples [" in error
    assert not list((tmp_path / "run").glob("*bad_batch*"))


def test_one_more_than_allowed_ends_the_run(saving, monkeypatch, capsys):
    spoiling(monkeypatch, 5, 7)
    assert train.main([*saving, "--skip-nonfinite", "1"]) == 1
    assert "train: step 7: loss nan" in capsys.readouterr().err


def test_the_limit_holds_over_a_resume(saving, monkeypatch, capsys):
    spoiling(monkeypatch, 5)
    stopped([*saving, "--skip-nonfinite", "1"], monkeypatch)
    spoiling(monkeypatch, 3)
    assert train.main([*saving, "--skip-nonfinite", "1", "--resume"]) == 1
    assert "train: step 11: loss nan" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_naming_the_step(saving, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        train.main([*saving, "--out", str(out), "--optim.lr", "1e30", "--optim.clip-norm", "None"])
        == 1
    )
    assert "train: step " in (error := capsys.readouterr().err) and "Nothing was saved" in error
    assert not (out / "model.safetensors").exists() and not (out / "summary.json").exists()


def test_a_full_disk_ends_with_one_line_and_no_checkpoint(saving, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("vit_spec.checkpoint.write_tensors", full)
    assert train.main([*saving, "--out", str(tmp_path / "run")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (
        not list((tmp_path / "run").glob("*model*"))
        and not (tmp_path / "run" / "config.json").exists()
    )
