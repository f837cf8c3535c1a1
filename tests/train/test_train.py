"""The training program: what it writes, what it refuses, and that devices change nothing."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
import vit_data.recipe
import vit_data.recipes
import vit_jax
import vit_jax.parallel
import vit_spec

ROOT = Path(__file__).parents[2]
SHORT = [
    "--optim.total-steps",
    "12",
    "--optim.warmup-steps",
    "2",
    "--log-every",
    "4",
    "--eval-every",
    "6",
    "--model.depth",
    "2",
    "--model.width",
    "32",
    "--model.num-heads",
    "2",
    "--model.mlp-width",
    "32",
]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the digits are prepared, once for all tests."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def quick(data_dir, monkeypatch):
    """Arguments of a short run; the float64 proof has tests of its own."""
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    return ["digits", *SHORT, "--data-dir", data_dir]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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
    assert "parity check" in capsys.readouterr().out


def test_the_same_run_again_is_not_trained_again_and_another_is_refused(quick, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert train.main([*quick, *out]) == 0
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


@pytest.mark.parametrize(
    ("sizes", "message"), [(((0.5, 4), (0.3, 8)), "must rise"), (((0.5, 6),), "multiple of patch")]
)
def test_impossible_image_sizes_are_refused(sizes, message):
    recipe = vit_data.recipes.digits()
    with pytest.raises(ValueError, match=f"image_sizes: .*{message}"):
        dataclasses.replace(recipe, image_sizes=sizes)


def test_a_folder_with_other_files_is_left_alone(quick, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert train.main([*quick, "--out", str(tmp_path)]) == 2
    assert "already holds other files" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_stops_the_run_naming_the_step(quick, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        train.main([*quick, "--out", str(out), "--optim.lr", "1e30", "--optim.clip-norm", "None"])
        == 1
    )
    assert "train: step " in (error := capsys.readouterr().err) and "Nothing was saved" in error
    assert not (out / "model.safetensors").exists() and not (out / "summary.json").exists()


def test_the_default_run_is_checked_in_pytorch_image_by_image(data_dir, tmp_path, capsys):
    assert (
        train.main(["digits", *SHORT, "--data-dir", data_dir, "--out", str(tmp_path / "run")]) == 0
    )
    out = capsys.readouterr().out
    assert "the same prediction for 360 of 360 images" in out
    assert "PASS  up to training" in out


def test_a_full_disk_ends_with_one_line_and_no_checkpoint(quick, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("vit_spec.checkpoint.write_tensors", full)
    assert train.main([*quick, "--out", str(tmp_path / "run")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (
        not list((tmp_path / "run").glob("*model*"))
        and not (tmp_path / "run" / "config.json").exists()
    )


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
    assert "1 corrupt image(s) were skipped" in out
    assert "49 images" in out and " validation (10%), " in out
    assert vit_spec.read_header(tmp_path / "run").labels == ("dark", "light")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "unknown recipe 'digit': did you mean digits"),
        (["nope/dir"], "there is no folder nope/dir; unknown recipe"),
        (
            ["digits", "--model.image-size", "9"],
            "image_size 9 is not a multiple of patch_size 4: use 8 or 12",
        ),
        (
            ["digits", "--batch-size", "2000"],
            "batch_size 2000 x 1 hosts is more than the 1437 images",
        ),
        (
            ["digits", "--optim.warmup-steps", "5000"],
            "warmup_steps 5000 is more than total_steps 2000, which include it: set warmup",
        ),
        (
            ["digits", "--optim.accumulate", "3"],
            "batch_size 128 is not a multiple of the 1 devices x accumulate 3: use 126 or 129",
        ),
    ],
    ids=["recipe", "folder", "image_size", "batch_size", "warmup", "accumulate"],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, message, data_dir, tmp_path, capsys):
    try:
        code = train.main([*arguments, "--data-dir", data_dir, "--out", str(tmp_path / "run")])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_of_images_is_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert train.main([str(tmp_path / "empty"), "--out", str(tmp_path / "run")]) == 2
    assert "empty" in capsys.readouterr().err


def test_every_field_of_a_recipe_is_documented_and_every_recipe_too():
    tree = ast.parse(Path(vit_data.recipe.__file__).read_text())
    parts = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert parts
    for part in parts:
        for field, after in zip(part.body, [*part.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{ast.unparse(field.target)} has no docstring"
    assert all(make.__doc__ and make() for make in vit_data.recipes.RECIPES.values())


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit):
        train.main(["digits", "--help"])
    out = capsys.readouterr().out
    assert "--optim.weight-decay" in out and "Images in a step, over all devices." in out
    assert "\nNeeds no download and no accelerator. Measured: " in out


@pytest.mark.parametrize(
    "command", [["train.py", "digits", "--help"], ["-m", "parity", "variants"]], ids=str
)
def test_output_that_nobody_reads_ends_quietly(command):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert result.stderr == ""


def test_four_devices_give_the_losses_of_one(data_dir, tmp_path):
    def losses(devices):
        out = tmp_path / f"run{devices}"
        arguments = ["digits", *SHORT, "--data-dir", data_dir, "--out", str(out)]
        script = (
            "import jax; jax.config.update('jax_default_matmul_precision', 'highest')\n"
            "import train; train.check_twin = lambda recipe, path: True\n"
            f"assert len(jax.devices()) == {devices}\n"
            f"raise SystemExit(train.main({arguments!r}))"
        )
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags}
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        return [line["loss"] for line in lines(out) if "loss" in line]

    assert losses(4) == pytest.approx(
        losses(1), rel=1e-5
    )  # float32: rounding of another order of sums


def test_a_batch_that_devices_cannot_share_is_refused(quick, tmp_path):
    arguments = [*quick, "--batch-size", "6", "--out", str(tmp_path / "r")]
    script = f"import train; raise SystemExit(train.main({arguments!r}))"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "batch_size 6 is not a multiple of the 4 devices: use 4 or 8" in result.stderr
