"""Looking at a run: its accuracy again, a checkpoint as a model, a trace."""

import dataclasses

import numpy as np
import pytest

import train
import vit_jax
from tests.train.short_runs import lines, stopped
from vit_data import open_source
from vit_data.sources import check_classes
from vit_spec import Header, ViTConfig

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_eval_only_tells_the_accuracy_of_a_run_or_of_a_checkpoint(
    saving, tmp_path, monkeypatch, capsys
):
    stopped(saving, monkeypatch)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train.main([*saving, "--eval-only"]) == 0
    out, classes = capsys.readouterr().out.splitlines()[-2:]
    assert classes.startswith("by class: ") and out.startswith(
        f"{tmp_path / 'run' / 'checkpoints' / '8'}: test accuracy "
    )
    assert out.endswith(" on 360 images")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    one = str(tmp_path / "run" / "checkpoints" / "4")
    assert train.main([*saving[:-1], one, "--eval-only"]) == 0
    assert train.main([*saving, "--resume"]) == 0
    capsys.readouterr()
    assert train.main([*saving, "--eval-only"]) == 0
    last = lines(tmp_path / "run")[-1]
    top5, loss = f"top-5 {last['test_top5']:.2%}", f"loss {last['test_loss']:.4f}"
    found = f"test accuracy {last['test_accuracy']:.2%}, {top5}, {loss} on 360 images"
    assert f"{tmp_path / 'run'}: {found}" in capsys.readouterr().out
    assert train.main([*saving, "--eval-only", "--preprocessing.mean", "9", "9", "9"]) == 0
    assert f": {found}" in capsys.readouterr().out  # as it was trained
    assert train.main([*saving[:-1], str(tmp_path / "none"), "--eval-only"]) == 2
    assert "has neither model.safetensors nor a checkpoint" in capsys.readouterr().err


def test_eval_only_refuses_data_of_other_classes_naming_both(saving, tmp_path, capsys):
    model = vit_jax.create(ViTConfig(image_size=8, patch_size=4, width=32, depth=1, num_heads=2,
                                     mlp_width=32, in_channels=1, num_classes=7))  # fmt: skip
    run = str(tmp_path / "run")
    vit_jax.save(model, run)
    assert train.main([*saving, "--eval-only"]) == 2
    assert f"{run} knows 7 classes and digits[test] has 10: give" in capsys.readouterr().err
    known = Header(config=model.config.replace(num_classes=10), labels=("zero", *"123456789"))
    source = open_source("digits", split="test", data_dir=saving[saving.index("--data-dir") + 1])
    told = r"1 of the 10 classes have other names, first 'zero' in run and '0' in digits\[test\]"
    with pytest.raises(ValueError, match=told):
        check_classes(source, known, where="run")
    for labels in (None, tuple("0123456789")):
        check_classes(source, dataclasses.replace(known, labels=labels), where="run")


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
