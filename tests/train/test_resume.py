"""A run that is ended and goes on: killed, preempted, changed, damaged."""

import json
import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

import train
import vit_jax
from tests.train import kill
from tests.train.short_runs import Stop, lines, steps, stopped
from vit_jax import loop
from vit_spec import OptimConfig, learning_rate
from vit_spec.run_step import read_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_killed_at_random_and_inside_saves_it_ends_with_the_same_bits(tmp_path):
    outcome = kill.run(tmp_path, kills=2, seed=1, steps=40, every=4)
    assert outcome.inside_saves and not outcome.differences
    assert len(outcome.kills) == 2 and max(outcome.lost) <= 2 * 4


def test_an_unfinished_run_is_refused_with_a_hint_and_continued_with_resume(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    assert train.main(saving) == 2
    assert "already holds an unfinished run of this recipe: --resume" in capsys.readouterr().err
    assert train.main([*saving, "--resume"]) == 0
    assert "resuming after step 8" in (out := capsys.readouterr().out)
    assert "the run was resumed 1 time" in out
    assert [line["step"] for line in lines(tmp_path / "run")] == [4, 6, 8, 12, 12]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["resumes"] == 1


def test_a_scanned_run_saves_what_any_run_does_and_goes_on_with_the_same_bits(
    saving, tmp_path, monkeypatch
):
    saving = [*saving, "--model.depth", "2", "--optim.optimizer", "muon"]
    assert train.main([*saving, "--scan", "--out", str(tmp_path / "a")]) == 0
    assert train.main([*saving, "--out", str(tmp_path / "b")]) == 0
    stopped([*saving, "--scan"], monkeypatch)
    assert train.main([*saving, "--scan", "--resume"]) == 0
    scanned, resumed, apart = (
        read_run(tmp_path / name / "checkpoints" / "12") for name in ("a", "run", "b")
    )
    assert scanned["digests"] == resumed["digests"]
    assert scanned["arrays"] == apart["arrays"]
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    for name, tensor in models[1].items():
        np.testing.assert_allclose(models[0][name], tensor, rtol=0, atol=1e-4, err_msg=name)


def test_resume_starts_a_run_where_there_is_none_and_leaves_a_finished_one(saving, capsys):
    assert train.main([*saving, "--resume"]) == 0
    assert train.main([*saving, "--resume"]) == 0
    assert "holds this run already" in capsys.readouterr().out


def test_a_changed_recipe_is_listed_and_refused_unless_allowed(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    change = ["--optim.lr", "0.001", "--optim.total-steps", "16", "--resume"]
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    assert train.main([*saving, *change]) == 2
    error = capsys.readouterr().err
    assert "  optim.lr: 0.003 -> 0.001\n  optim.total_steps: 12 -> 16\n" in error
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before
    assert train.main([*saving, *change, "--allow-change"]) == 0
    assert "optim.lr: 0.003 -> 0.001" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["optim"]["lr"] == 0.001
    assert steps(tmp_path / "run") == [8, 12, 16]


def test_unreadable_images_of_all_processes_are_saved_and_known_to_each_after_a_resume(
    saving, tmp_path, monkeypatch
):
    everywhere = {"5": "cut off", "9": "of another process"}
    monkeypatch.setattr("vit_jax.saver.union", lambda found: everywhere | found)
    stopped(saving, monkeypatch)
    met = []

    def run(self):
        met.append(self.batches.corrupt)
        raise Stop

    monkeypatch.setattr(loop.Loop, "run", run)
    with pytest.raises(Stop):
        train.main([*saving, "--resume"])
    assert met == [{5: "cut off", 9: "of another process"}]


def test_a_finished_run_is_made_longer(saving, tmp_path, capsys):
    assert train.main(saving) == 0
    longer = ["--optim.total-steps", "16", "--resume", "--allow-change"]
    assert train.main([*saving, *longer]) == 0
    out = capsys.readouterr().out
    assert "resuming after step 12" in out
    rates = [
        learning_rate(OptimConfig(lr=3e-3, warmup_steps=2, total_steps=n), 12) for n in (16, 12)
    ]
    assert (
        f"the learning rate of step 13 is {rates[0]:.1e}; it would have been {rates[1]:.1e}" in out
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 16


def test_a_run_made_shorter_than_it_is_ends_with_its_own_accuracy(saving, tmp_path, monkeypatch):
    stopped(saving, monkeypatch)
    assert train.main([*saving, "--optim.total-steps", "7", "--resume", "--allow-change"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    last = lines(tmp_path / "run")[-1]
    assert summary["steps"] == last["step"] == 8
    assert summary["test_accuracy"] == last["test_accuracy"]


def test_a_run_goes_on_by_its_folder_alone_as_it_was_started(saving, tmp_path, monkeypatch, capsys):
    started = [*saving, "--optim.lr", "0.001"]
    stopped(started, monkeypatch)
    assert train.main([*saving, "--resume"]) == 2
    hint = f"--resume --out {tmp_path / 'run'} continues the run as it was started"
    assert hint in capsys.readouterr().err
    alone = ["--resume", "--out", str(tmp_path / "run")]
    assert train.main([*alone, "--optim.lr", "0.002"]) == 2
    assert "  optim.lr: 0.001 -> 0.002\n" in capsys.readouterr().err
    assert train.main(alone) == 0
    out = capsys.readouterr().out
    assert "resuming after step 8" in out and "learning rate of" not in out


def test_another_model_cannot_be_resumed_whatever_is_allowed(saving, tmp_path, monkeypatch, capsys):
    stopped(saving, monkeypatch)
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    assert train.main([*saving, "--model.width", "48", "--resume", "--allow-change"]) == 2
    assert "is of another model or optimizer" in capsys.readouterr().err
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    (tmp_path / "run" / "checkpoints" / "8" / "run" / "metadata").write_text("{}")
    assert train.main([*saving, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "the checkpoint of step 8 is damaged and moved to damaged/: run: " in out
    assert "resuming after step 4" in out


@pytest.mark.parametrize("moment", ["between steps", "in an evaluation"])
def test_a_sigterm_saves_at_once_and_the_run_goes_on_as_if_nothing_was(
    saving, tmp_path, monkeypatch, capsys, moment
):
    assert train.main(saving) == 0
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
        assert train.main([*saving, "--overwrite"]) == 0
    assert "preempted: saved after step 6; --resume continues it" in capsys.readouterr().out
    assert (tmp_path / "run" / "PREEMPTED").read_text() == "step 6\n"
    assert steps(tmp_path / "run") == [4, 6]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert train.main([*saving, "--resume"]) == 0
    assert not (tmp_path / "run" / "PREEMPTED").exists()
    again = vit_jax.load(tmp_path / "run"), lines(tmp_path / "run")
    states = [vit_jax.api.get_state(model) for model, _ in (whole, again)]
    assert all(np.array_equal(states[0][n], states[1][n]) for n in states[0])
    kept = [
        [{k: v for k, v in line.items() if k not in kill.TIMES} for line in found]
        for _, found in (whole, again)
    ]
    assert kept[0] == kept[1]
