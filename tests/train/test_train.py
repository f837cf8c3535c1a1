"""The training program: what it writes, and that devices change nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
import vit_jax
import vit_jax.parallel
import vit_spec
from tests.train.short_runs import SHORT, lines

ROOT = Path(__file__).parents[2]


def test_a_run_writes_a_checkpoint_metrics_and_a_summary(quick, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main([*quick, "--out", str(out)]) == 0
    model = vit_jax.load(out)
    assert (model.config.depth, model.config.num_classes) == (2, 10)
    header = vit_spec.read_header(out)
    assert header.labels == tuple("0123456789") and header.preprocessing.crop_fraction == 1.0
    steps = [line["step"] for line in lines(out) if "loss" in line]
    tests = [line["step"] for line in lines(out) if "test_accuracy" in line]
    assert (steps, tests) == ([4, 8, 12], [6, 12])
    summary = json.loads((out / "summary.json").read_text())
    assert (
        summary["test_accuracy"] == lines(out)[-1]["test_accuracy"]
        and summary["test_images"] == 360
    )
    assert any((out / "tensorboard").iterdir())
    said = capsys.readouterr().out
    assert "parity check" in said and "by class: " in said
    for step in (4, 8, 12):  # a line each, as there is no terminal
        assert re.search(rf"^step {step} of 12: loss [\d.]+, lr \S+, [\d,]+ images/s", said, re.M)
    assert summary["classes"][3]["name"] == "3" and summary["classes"][3]["test_images"] == 37
    last = lines(out)[-1]
    assert (summary["test_loss"], summary["test_top5"]) == (last["test_loss"], last["test_top5"])
    assert [c["test_accuracy"] for c in summary["classes"]] == last["test_accuracy_by_class"]


def test_the_same_run_again_is_not_trained_again_and_another_is_refused(quick, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--model.num-classes", "1000"]
    assert train.main([*quick, *out]) == 0
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert written["model"]["num_classes"] == 10  # those of the data
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train.main([*quick, *out]) == 0
    assert "holds this run already" in capsys.readouterr().out
    assert train.main([*quick, *out, "--seed", "1"]) == 2
    assert "already holds a finished run of another recipe" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    assert train.main([*quick, *out, "--seed", "1", "--overwrite"]) == 0


def test_a_picture_of_the_first_batch_is_written_and_nothing_trained(quick, tmp_path, capsys):
    picture = tmp_path / "batch.png"
    out = tmp_path / "run"
    assert train.main([*quick, "--out", str(out), "--show-batch", str(picture)]) == 0
    assert "the first 48 of 128 images" in capsys.readouterr().out
    with Image.open(picture) as opened:
        assert opened.width > 1000
    assert not out.exists()


def test_mixed_labels_and_growing_images_are_trained_on(quick, tmp_path, monkeypatch):
    seen = []
    make = vit_jax.parallel.make_train_step

    def spied(*arguments):
        step = make(*arguments)

        def traced(state, images, labels, masks, **teacher):
            seen.append((images.shape[1], labels.shape))
            return step(state, images, labels, masks, **teacher)

        return traced

    monkeypatch.setattr(vit_jax.parallel, "make_train_step", spied)
    options = ["--augmentation.mixup", "0.8", "--augmentation.cutmix", "1"]
    options += ["--model.dropout", "0.1", "--image-sizes"]
    out = tmp_path / "run"
    assert train.main([*quick, *options, "0.25", "4", "0.5", "12", "--out", str(out)]) == 0
    assert seen == [(4, (128, 10)), (12, (128, 10)), (8, (128, 10))]  # one compilation a size
    assert all(line["loss"] > 0 for line in lines(out) if "loss" in line)


def test_the_default_run_is_checked_in_pytorch_image_by_image(data_dir, tmp_path, capsys):
    assert (
        train.main(["digits", *SHORT, "--data-dir", data_dir, "--out", str(tmp_path / "run")]) == 0
    )
    out = capsys.readouterr().out
    assert "the same prediction for 360 of 360 images" in out
    assert "PASS  up to training" in out


@pytest.fixture
def photographs(tmp_path):
    """Two classes of noise, and one file that is no image."""
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(24):
            pixels = np.clip(rng.normal(level, 20, (20, 28, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "photos" / "dark" / "broken.png").write_bytes(b"not an image")
    return tmp_path / "photos"


FOLDER = [
    *SHORT,
    "--model.image-size",
    "16",
    "--model.patch-size",
    "8",
    "--batch-size",
    "8",
    "--eval-batch-size",
    "8",
]


def test_a_folder_of_images_is_trained_on_and_corrupt_ones_counted(
    photographs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    assert train.main([str(photographs), *FOLDER, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "1 image that cannot be read was skipped" in out
    assert "49 images" in out and " validation (10%), " in out
    assert vit_spec.read_header(tmp_path / "run").labels == ("dark", "light")
