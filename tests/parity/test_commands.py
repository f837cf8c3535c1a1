"""The commands `parity diagnose`, `parity inspect` and `parity mutants`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import parity
import vit_torch
from parity.cli import main
from parity.inputs import random_state
from vit_spec import Header
from vit_spec.checkpoint import write_tensors


@pytest.fixture
def checkpoints(tiny, tmp_path):
    """Two directories with the same weights: the healthy one and one with a tanh GELU."""
    state = {name: array.astype("float32") for name, array in random_state(tiny, 0).items()}
    for name, config in (("a", tiny), ("b", tiny.replace(activation="gelu_tanh"))):
        vit_torch.save(vit_torch.api.from_state(config, state), tmp_path / name)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_diagnose_names_the_cause_and_exits_1(checkpoints, capsys):
    assert main(["diagnose", *checkpoints]) == 1
    text = capsys.readouterr().out
    assert "activation: JAX erf GELU, PyTorch tanh GELU" in text


def test_diagnose_of_equal_models_exits_0(checkpoints, capsys):
    assert main(["diagnose", checkpoints[0], checkpoints[0], "--level", "outputs"]) == 0
    assert "no part of the models was seen to differ" in capsys.readouterr().out


def test_inspect_of_tensors_that_are_not_those_of_the_config_shows_all_and_exits_2(
    checkpoints, tiny, capsys
):
    state = {name: array.astype("float32") for name, array in random_state(tiny, 0).items()}
    del state["norm.bias"]
    state["head.bias"] = np.zeros((2, 10**6), np.float32)
    file = Path(checkpoints[0]) / "model.safetensors"
    write_tensors(file, state, metadata={"vitwin": Header(config=tiny).to_json()})
    for path in (checkpoints[0], file):
        assert main(["inspect", str(path)]) == 2
        out, err = capsys.readouterr()
        assert "head.bias" in out and "2 x 1000000" in out
        assert "missing  norm.bias" in err and "head.bias is (2, 1000000), must be" in err


def test_inspect_of_files_of_different_models_exits_2(checkpoints, capsys):
    a, b = checkpoints
    Path(f"{a}/config.json").write_text(Path(f"{b}/config.json").read_text())
    assert main(["inspect", a]) == 2
    assert "are of different models" in capsys.readouterr().err


HOSTILE = "\x1b[2Jhead\n\u202eweight\x07"


def test_names_from_a_file_reach_the_terminal_escaped(checkpoints, tmp_path, capsys):
    """In what is printed and in errors, of the command and in Python."""
    weights: Any = {HOSTILE: np.zeros(3, np.float32)}
    write_tensors(tmp_path / "x.safetensors", weights, metadata={})
    np.savez(tmp_path / "x.npz", **weights)
    torch.save({HOSTILE: torch.zeros(3)}, tmp_path / "x.pth")
    config = json.loads(Path(f"{checkpoints[0]}/config.json").read_text())
    Path(f"{checkpoints[0]}/config.json").write_text(json.dumps(config | {"family": HOSTILE}))
    for name in ("x.safetensors", "x.npz", "x.pth", "a"):
        main(["inspect", str(tmp_path / name)])
        out = "".join(capsys.readouterr())
        assert r"\x1b[2Jhead\n\u202eweight\x07" in out, name
        assert out.replace("\n", "").isprintable()
        assert "head\n" not in out
    for path in (tmp_path / "x.npz", tmp_path / "x.pth"):
        with pytest.raises(ValueError, match="head") as error:
            parity.convert(path, tmp_path / "out")
        assert str(error.value).isprintable()


def test_mutants_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "mutants.json"
    chosen = "square kernel not transposed, in JAX"
    assert main(["mutants", "--only", chosen, "--seeds", "0", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert chosen in text
    assert "no healthy pair was checked" in text
    measured = json.loads(out.read_text())
    assert set(measured["bugs"][0]["caught"].values()) == {"weights"}


def test_mutants_refuses_a_name_that_no_bug_has(capsys):
    assert main(["mutants", "--only", "no such bug", "--seeds", "0"]) == 2
    assert "no bug has" in capsys.readouterr().err


def test_the_list_of_mutants_runs_none(capsys):
    assert main(["mutants", "--list", "--only", "training"]) == 0
    assert "moving average warmed up" in capsys.readouterr().out


def test_an_internal_error_is_no_mismatch(capsys, monkeypatch):
    monkeypatch.setattr("parity.cli.variants", lambda: 1 / 0)
    assert main(["variants"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
