"""What is installed: read from a wheel of this checkout."""

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import vitwin
from vitwin import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("wheel"))
    (path,) = WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_no_module_of_the_wheel_has_a_name_that_users_have_themselves(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    packages = {"vit_spec", "vit_data", "vit_jax", "vit_torch", "parity", "vitwin"}
    assert top == packages | {f"vitwin-{vitwin.__version__}.dist-info"}


def test_the_command_vitwin_runs_the_training_program_as_it_stands_at_the_root(wheel):
    assert wheel.read("vitwin/training.py") == (ROOT / "train.py").read_bytes()
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "vitwin = vitwin.cli:main\n" in wheel.read(points).decode()


def test_the_command_names_itself_and_its_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["vitwin"])
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vitwin {vitwin.__version__}\n"
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "usage: vitwin train [RECIPE]" in capsys.readouterr().out
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err
    assert cli.main([]) == 0
    assert "vitwin train --help" in capsys.readouterr().out
