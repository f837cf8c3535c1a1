"""The commands `parity diagnose` and `parity mutants`."""

import json

import pytest

import vit_torch
from parity.cli import main
from parity.inputs import random_state


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
