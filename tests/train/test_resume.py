"""A run that is ended and goes on: resume, SIGTERM, locks, full disks, bad steps."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import train
import vit_jax
from tests.train import kill
from tests.train.test_train import SHORT, lines
from vit_jax import loop
from vit_jax.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
EVERY = ["--checkpoint.every", "4", "--checkpoint.no-best"]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the digits are prepared, once for all tests."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The runs here compile the same programs."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in (settings, before):
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)
        if values is settings:
            yield


@pytest.fixture
def quick(data_dir, tmp_path, monkeypatch):
    """Arguments of a short run in `tmp_path/run` that saves after the steps 4, 8 and 12."""
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    return [
        "digits",
        *SHORT,
        "--model.depth",
        "1",
        *EVERY,
        "--data-dir",
        data_dir,
        "--out",
        str(tmp_path / "run"),
    ]


class Stop(Exception):
    """Ends a run as abruptly as an exception can."""


def stopped(arguments, monkeypatch, step=10):
    """A run that breaks off before it has done `step` steps."""
    put = loop.Window.add

    def add(self, number, *rest):
        if number == step:
            raise Stop
        put(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Window, "add", add)
        train.main(arguments)


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir())


def test_killed_at_random_and_inside_saves_it_ends_with_the_same_bits(tmp_path):
    outcome = kill.run(tmp_path, kills=2, seed=1, steps=40, every=4)
    assert outcome.inside_saves and not outcome.differences
    assert len(outcome.kills) == 2 and max(outcome.lost) <= 2 * 4


def test_an_unfinished_run_is_refused_with_a_hint_and_continued_with_resume(
    quick, tmp_path, monkeypatch, capsys
):
    stopped(quick, monkeypatch)
    assert train.main(quick) == 2
    assert "already holds an unfinished run of this recipe: --resume" in capsys.readouterr().err
    assert train.main([*quick, "--resume"]) == 0
    assert "resuming after step 8" in (out := capsys.readouterr().out)
    assert "1 time(s) the run was resumed" in out
    assert [line["step"] for line in lines(tmp_path / "run")] == [4, 6, 8, 12, 12]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["resumes"] == 1


def test_resume_starts_a_run_where_there_is_none_and_leaves_a_finished_one(quick, capsys):
    assert train.main([*quick, "--resume"]) == 0
    assert train.main([*quick, "--resume"]) == 0
    assert "holds this run already" in capsys.readouterr().out


def test_a_changed_recipe_is_listed_and_refused_unless_allowed(
    quick, tmp_path, monkeypatch, capsys
):
    stopped(quick, monkeypatch)
    change = ["--optim.lr", "0.001", "--optim.total-steps", "16", "--resume"]
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    assert train.main([*quick, *change]) == 2
    error = capsys.readouterr().err
    assert "  optim.lr: 0.003 -> 0.001\n  optim.total_steps: 12 -> 16\n" in error
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before
    assert train.main([*quick, *change, "--allow-change"]) == 0
    assert "optim.lr: 0.003 -> 0.001" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["optim"]["lr"] == 0.001
    assert steps(tmp_path / "run") == [8, 12, 16]


def test_a_finished_run_is_made_longer(quick, tmp_path, capsys):
    assert train.main(quick) == 0
    longer = ["--optim.total-steps", "16", "--resume", "--allow-change"]
    assert train.main([*quick, *longer]) == 0
    assert "resuming after step 12" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 16


def test_a_run_made_shorter_than_it_is_ends_with_its_own_accuracy(quick, tmp_path, monkeypatch):
    stopped(quick, monkeypatch)
    assert train.main([*quick, "--optim.total-steps", "7", "--resume", "--allow-change"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    last = lines(tmp_path / "run")[-1]
    assert summary["steps"] == last["step"] == 8
    assert summary["test_accuracy"] == last["test_accuracy"]


def test_another_model_cannot_be_resumed_whatever_is_allowed(quick, tmp_path, monkeypatch, capsys):
    stopped(quick, monkeypatch)
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    assert train.main([*quick, "--model.width", "48", "--resume", "--allow-change"]) == 2
    assert "is of another model or optimizer" in capsys.readouterr().err
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(
    quick, tmp_path, monkeypatch, capsys
):
    stopped(quick, monkeypatch)
    (tmp_path / "run" / "checkpoints" / "8" / "run" / "metadata").write_text("{}")
    assert train.main([*quick, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "the checkpoint of step 8 is damaged and moved to damaged/: run: " in out
    assert "resuming after step 4" in out


@pytest.mark.parametrize("moment", ["between steps", "in an evaluation"])
def test_a_sigterm_saves_at_once_and_the_run_goes_on_as_if_nothing_was(
    quick, tmp_path, monkeypatch, capsys, moment
):
    assert train.main(quick) == 0
    whole = vit_jax.load(tmp_path / "run"), lines(tmp_path / "run")
    handler = signal.getsignal(signal.SIGTERM)

    def strike(original):
        def call(self, *rest, **named):
            if moment != "between steps" or rest[0] == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *rest, **named)

        return call

    owner, name = (
        (loop.Window, "add") if moment == "between steps" else (loop.Evaluation, "__call__")
    )
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, strike(getattr(owner, name)))
        assert train.main([*quick, "--overwrite"]) == 0
    assert "preempted: saved after step 6; --resume continues it" in capsys.readouterr().out
    assert (tmp_path / "run" / "PREEMPTED").read_text() == "step 6\n"
    assert steps(tmp_path / "run") == [4, 6]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert train.main([*quick, "--resume"]) == 0
    assert not (tmp_path / "run" / "PREEMPTED").exists()
    again = vit_jax.load(tmp_path / "run"), lines(tmp_path / "run")
    states = [vit_jax.api.get_state(model) for model, _ in (whole, again)]
    assert all(np.array_equal(states[0][n], states[1][n]) for n in states[0])
    kept = [
        [{k: v for k, v in line.items() if k not in kill.TIMES} for line in found]
        for _, found in (whole, again)
    ]
    assert kept[0] == kept[1]


def test_a_second_program_in_the_folder_is_refused_until_the_first_is_gone(
    quick, tmp_path, monkeypatch, capsys
):
    stopped(quick, monkeypatch)
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
            assert train.main([*quick, how]) == 2
            error = capsys.readouterr().err
            assert f"is in use by process {os.getpid()} on " in error and "--out" in error
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert train.main([*quick, "--resume"]) == 0


def test_a_run_holds_the_lock_of_its_folder(quick, tmp_path, monkeypatch):
    held = []

    def run(self):
        with (tmp_path / "run" / ".lock").open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(True)
        raise Stop

    monkeypatch.setattr(loop.Loop, "run", run)
    with pytest.raises(Stop):
        train.main(quick)
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


def test_a_save_that_fails_is_told_and_training_goes_on(quick, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 8)
    assert train.main(quick) == 0
    error = capsys.readouterr().err
    assert "train: the checkpoint of step 8 was not saved: No space left on device (" in error
    assert "; training goes on" in error
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_save_that_fails_stops_the_run_if_asked(quick, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 8)
    assert train.main([*quick, "--checkpoint.on-failure", "stop"]) == 2
    assert "the checkpoint of step 8 was not saved" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    assert train.main([*quick, "--checkpoint.on-failure", "stop", "--resume"]) == 0


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


def test_a_step_that_is_not_finite_is_explained_and_its_batch_kept(
    quick, tmp_path, monkeypatch, capsys
):
    spoiling(monkeypatch, 7)
    assert train.main(quick) == 1
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
    quick, tmp_path, monkeypatch, capsys
):
    spoiling(monkeypatch, 5, 7)
    assert train.main([*quick, "--skip-nonfinite", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 7: loss nan, gradient norm nan; skipped (2 of at most 2)" in out
    assert "2 step(s) were not finite and changed nothing" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["skipped_steps"] == 2 and summary["steps"] == 12
    assert all(np.isfinite(list(line.values())).all() for line in lines(tmp_path / "run"))
    state = vit_jax.api.get_state(vit_jax.load(tmp_path / "run"))
    assert all(np.isfinite(value).all() for value in state.values())


def test_one_more_than_allowed_ends_the_run(quick, monkeypatch, capsys):
    spoiling(monkeypatch, 5, 7)
    assert train.main([*quick, "--skip-nonfinite", "1"]) == 1
    assert "train: step 7: loss nan" in capsys.readouterr().err


def test_the_limit_holds_over_a_resume(quick, monkeypatch, capsys):
    spoiling(monkeypatch, 5)
    stopped([*quick, "--skip-nonfinite", "1"], monkeypatch)
    spoiling(monkeypatch, 3)
    assert train.main([*quick, "--skip-nonfinite", "1", "--resume"]) == 1
    assert "train: step 11: loss nan" in capsys.readouterr().err


def test_eval_only_tells_the_accuracy_of_a_run_or_of_a_checkpoint(
    quick, tmp_path, monkeypatch, capsys
):
    stopped(quick, monkeypatch)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train.main([*quick, "--eval-only"]) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"{tmp_path / 'run' / 'checkpoints' / '8'}: test accuracy ")
    assert out.endswith(" on 360 images")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    one = str(tmp_path / "run" / "checkpoints" / "4")
    assert train.main([*quick[:-1], one, "--eval-only"]) == 0
    assert train.main([*quick, "--resume"]) == 0
    capsys.readouterr()
    assert train.main([*quick, "--eval-only"]) == 0
    accuracy = lines(tmp_path / "run")[-1]["test_accuracy"]
    assert f"{tmp_path / 'run'}: test accuracy {accuracy:.2%} on" in capsys.readouterr().out
    assert train.main([*quick, "--eval-only", "--preprocessing.mean", "9", "9", "9"]) == 0
    assert f": test accuracy {accuracy:.2%} on" in capsys.readouterr().out  # as it was trained
    assert train.main([*quick[:-1], str(tmp_path / "none"), "--eval-only"]) == 2
    assert "has neither model.safetensors nor a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_a_run_is_a_model(quick, tmp_path):
    """The last one is the moving average that the run saves as its model."""
    assert train.main(quick) == 0
    run = tmp_path / "run"
    ours, theirs = (
        vit_jax.api.get_state(vit_jax.load(p)) for p in (run, run / "checkpoints" / "12")
    )
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_profile_writes_a_trace(quick, tmp_path):
    assert train.main([*quick, "--profile"]) == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
