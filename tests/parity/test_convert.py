"""Conversion of files, and what the command line says of it."""

import re
import subprocess
import sys

import numpy as np
import pytest

import parity
import vit_jax
import vit_torch
from parity.cli import main
from vit_spec import Preprocessing, checkpoint


@pytest.fixture
def directory(pair, tmp_path):
    vit_torch.save(pair[1], tmp_path / "twin")
    return tmp_path / "twin"


@pytest.fixture
def foreign(directory, tmp_path):
    """The weights as another tool writes them: a file that does not say which model it is."""
    file = tmp_path / "foreign.safetensors"
    checkpoint.write_tensors(file, checkpoint.read(directory)[1], metadata={"format": "pt"})
    return file


def test_a_directory_to_a_file_and_back_keeps_every_bit_and_the_header(pair, tmp_path):
    preprocessing = Preprocessing(crop_fraction=0.9)
    vit_torch.save(pair[1], tmp_path / "twin", preprocessing=preprocessing, labels=tuple("abcdefg"))
    file = parity.convert(tmp_path / "twin", tmp_path / "twin.safetensors")
    again = parity.convert(file, tmp_path / "again")
    (said, before), (says, after) = checkpoint.read(tmp_path / "twin"), checkpoint.read(again)
    assert says == said and before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_both_twins_load_and_check_a_converted_file(directory, tmp_path, tiny):
    file = parity.convert(directory, tmp_path / "twin.safetensors")
    assert vit_jax.load(file).config == vit_torch.load(file).config == tiny
    assert main(["check", str(file), "--level", "weights"]) == 0


@pytest.mark.parametrize("place", ["twin", "twin/config.json", "twin/model.safetensors"])
def test_a_file_takes_its_config_from_a_checkpoint(place, directory, foreign, tmp_path, tiny):
    arguments = ["convert", str(foreign), str(tmp_path / "x"), "--model", str(tmp_path / place)]
    assert main(arguments) == 0
    assert vit_torch.load(tmp_path / "x").config == tiny


def test_a_file_without_a_model_says_what_to_give(foreign, tmp_path, capsys):
    assert main(["convert", str(foreign), str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "--model B/16" in error and "config.json" in error
    with pytest.raises(ValueError, match=r"no vitwin header.*--model NAME\|config.json"):
        vit_torch.load(foreign)


def test_tensors_of_another_model_are_listed_and_nothing_is_written(foreign, tmp_path):
    with pytest.raises(ValueError, match=r"120 missing, 0 extra, \d+ of another shape"):
        parity.convert(foreign, tmp_path / "x", model="Ti/16")
    assert not (tmp_path / "x").exists()


def test_an_unknown_format_lists_the_near_ones(directory, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'safetensor': did you mean safetensors"):
        parity.convert(directory, tmp_path / "x", target="safetensor")


def test_a_file_onto_itself_is_refused(directory):
    with pytest.raises(ValueError, match="choose another target"):
        parity.convert(directory, directory)


def test_converting_files_imports_no_framework(directory, tmp_path):
    script = (
        "import sys; from parity.cli import main\n"
        f"command = ['convert', {str(directory)!r}, {str(tmp_path / 'x.safetensors')!r}]\n"
        "assert main([*command, '--no-verify']) == 0\n"
        "loaded = {'jax', 'torch', 'flax'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_command_check_returns_0_for_equal_and_1_for_different_files(
    directory, tmp_path, pair, capsys
):
    pair[1].head.bias.data += 1e-6
    vit_torch.save(pair[1], tmp_path / "other")
    assert main(["check", str(directory), "--level", "outputs"]) == 0
    assert (
        main(["check", str(directory), "--against", str(tmp_path / "other"), "--level", "outputs"])
        == 1
    )
    out = capsys.readouterr().out
    assert "PASS" in out and "head.bias" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "vit_bas_patch16_224"], "did you mean vit_base_patch16_224"),
        (["check", "runs/nope"], "no file or directory runs/nope; unknown variant 'runs/nope'"),
        (["check", "B/17"], "did you mean B/16"),
        (["check", "b/16"], "did you mean B/16"),
        (
            ["convert", "x.bin", "x", "--from", "timm", "--model", "m/c.jso"],
            "no file or directory m/",
        ),
        (["check", "no/such/dir"], "no/such/dir does not exist"),
        (["inspect", "nothing.safetensors"], "nothing.safetensors does not exist"),
        (["inspect", "weights.zip"], "weights.zip does not exist"),
        (["convert", "nothing", "x", "--from", "orbax"], "nothing is no step of a training run"),
    ],
    ids=["variant", "path_or_name", "alias", "case", "model", "path", "file", "format", "step"],
)
def test_broken_input_exits_with_2_and_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ours", "x.npz"], "such as --to augreg; those of such a file are augreg, big_vision, "),
        (["ours", "x.pth"], "those of such a file are torchvision, deit, deit3, mae, dino, dinov2"),
        (["ours", "x.foo"], "or say which, such as --to timm; formats: vitwin, safetensors, orb"),
        (["ours", "x", "--from", "orbax"], "has the folders state and run: give RUN/checkpoints/"),
        (["ours", "x", "--from", "augreg"], "not look like augreg but like vitwin in safetensors"),
        (["ours", "x", "--from", "big_vision"], "not look like big_vision but like vitwin in saf"),
        (["ours", "x", "--from", "hf_vit"], "not look like hf_vit but like vitwin in safetensors"),
        (["none.npz", "x"], "has such names, say what is before them, such as --prefix module.: "),
        (["foreign.safetensors", "x"], "give --model B/16, the name of a variant, or --model con"),
    ],
)
def test_hints_are_in_words_of_the_command(
    arguments, message, directory, foreign, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    directory.rename("ours")
    np.savez("none.npz", a=np.zeros(2))
    assert main(["convert", *arguments, "--no-verify"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not re.search("source=|target=|model=|verify=|entry=|prefix=", error), error


def test_inspect_lists_config_and_tensors(directory, capsys):
    assert main(["inspect", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "patch_embed.proj.weight" in out and "32 x 3 x 8 x 8" in out and "num_heads" in out


def test_the_package_runs_as_the_command(directory):
    command = [sys.executable, "-m", "parity", "inspect", str(directory)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "patch_embed.proj.weight" in result.stdout


def test_variants_lists_every_variant_with_its_count(capsys):
    assert main(["variants"]) == 0
    assert "5,717,416" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("src", "dst", "target"),
    [
        ("run", "run/model.safetensors", "safetensors"),
        ("run/model.safetensors", "run", "vitwin"),
        ("run", "run", "vitwin"),
    ],
)
def test_a_target_that_would_overwrite_its_source_is_refused(tmp_path, tiny, src, dst, target):
    vit_jax.save(vit_jax.create(tiny), tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="would overwrite what is read of"):
        parity.convert(tmp_path / src, tmp_path / dst, target=target)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
