"""Conversion of files, and what the command line says of it."""

import subprocess
import sys

import numpy as np
import pytest

import parity
import vit_torch
from parity.cli import main
from vit_spec import checkpoint


@pytest.fixture
def directory(pair, tmp_path):
    vit_torch.save(pair[1], tmp_path / "twin")
    return tmp_path / "twin"


def test_a_directory_to_a_plain_file_and_back_keeps_every_bit(directory, tmp_path, tiny):
    plain = parity.convert(directory, tmp_path / "plain.safetensors")
    again = parity.convert(plain, tmp_path / "again", model=tiny)
    (_, before), (_, after) = checkpoint.read(directory), checkpoint.read(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_plain_file_without_a_model_says_what_to_give(directory, tmp_path, capsys):
    plain = parity.convert(directory, tmp_path / "plain.safetensors")
    assert main(["convert", str(plain), str(tmp_path / "x")]) == 2
    assert "--model B/16" in capsys.readouterr().err


def test_tensors_of_another_model_are_listed_and_nothing_is_written(directory, tmp_path):
    plain = parity.convert(directory, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"120 missing, 0 extra, \d+ of another shape"):
        parity.convert(plain, tmp_path / "x", model="Ti/16")
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
        f"assert main(['convert', {str(directory)!r}, {str(tmp_path / 'x.safetensors')!r}]) == 0\n"
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
        (["check", "no/such/dir"], "no/such/dir does not exist"),
        (["inspect", "nothing.safetensors"], "nothing.safetensors does not exist"),
        (["inspect", "weights.zip"], "no known format"),
    ],
    ids=["variant", "path", "file", "format"],
)
def test_broken_input_exits_with_2_and_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_inspect_lists_config_and_tensors(directory, capsys):
    assert main(["inspect", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "patch_embed.proj.weight" in out and "32 x 3 x 8 x 8" in out and "num_heads" in out


def test_variants_lists_every_variant_with_its_count(capsys):
    assert main(["variants"]) == 0
    assert "5,717,416" in capsys.readouterr().out
