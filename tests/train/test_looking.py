"""Looking at a run: its accuracy again, a checkpoint as a model, a trace."""

import numpy as np
import pytest

import train
import vit_jax
from tests.train.short_runs import lines, stopped

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_eval_only_tells_the_accuracy_of_a_run_or_of_a_checkpoint(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train.main([*saving, "--eval-only"]) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"{tmp_path / 'run' / 'checkpoints' / '8'}: test accuracy ")
    assert out.endswith(" on 360 images")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    one = str(tmp_path / "run" / "checkpoints" / "4")
    assert train.main([*saving[:-1], one, "--eval-only"]) == 0
    assert train.main([*saving, "--resume"]) == 0
    capsys.readouterr()
    assert train.main([*saving, "--eval-only"]) == 0
    accuracy = lines(tmp_path / "run")[-1]["test_accuracy"]
    assert f"{tmp_path / 'run'}: test accuracy {accuracy:.2%} on" in capsys.readouterr().out
    assert train.main([*saving, "--eval-only", "--preprocessing.mean", "9", "9", "9"]) == 0
    assert f": test accuracy {accuracy:.2%} on" in capsys.readouterr().out  # as it was trained
    assert train.main([*saving[:-1], str(tmp_path / "none"), "--eval-only"]) == 2
    assert "has neither model.safetensors nor a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_a_run_is_a_model(saving, tmp_path):
    """The last one is the moving average that the run saves as its model."""
    assert train.main(saving) == 0
    run = tmp_path / "run"
    ours, theirs = (
        vit_jax.api.get_state(vit_jax.load(p)) for p in (run, run / "checkpoints" / "12")
    )
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_profile_writes_a_trace(saving, tmp_path):
    assert train.main([*saving, "--profile"]) == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
