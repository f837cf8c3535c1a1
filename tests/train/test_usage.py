"""What `train.py` is told: help, and all that it refuses before a run begins."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
import vit_data.recipe
import vit_data.recipes

ROOT = Path(__file__).parents[2]


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
            "batch_size 128 is not a multiple of the 1 device x accumulate 3: use 126 or 129",
        ),
        (
            ["digits", "--attention", "cudnn", "--dtype", "bfloat16"],
            "train: attention 'cudnn' cannot run here: it needs an NVIDIA GPU of compute "
            "capability 8.0 or more, and this is a cpu. Use attention 'auto' or 'xla'",
        ),
    ],
    ids=["recipe", "folder", "image_size", "batch_size", "warmup", "accumulate", "attention"],
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
    assert "\nNeeds no download and no accelerator." in out


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
