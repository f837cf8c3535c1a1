"""What is not installed is named with the extra that brings it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import train
from vit_spec import extras

ROOT = Path(__file__).parents[2]
BLOCK = """
import os, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in os.environ['BLOCKED'].split(','):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.fixture
def without(tmp_path):
    """Runs Python where some modules cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)

    def run(blocked, *arguments):
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths, "BLOCKED": blocked},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("blocked", "command", "message"),
    [
        ("jax", ["-m", "vit_jax.probe", "x", "--data", "digits"], "vit_jax needs jax: [jax]"),
        ("jax,tyro", [f"{ROOT}/train.py", "digits"], "train needs jax, tyro: [jax,train]"),
        ("jax,torch", ["-m", "vitwin", "train", "digits"], "train needs jax: [jax]"),
    ],
    ids=["probe", "train", "vitwin"],
)
def test_a_program_says_in_one_line_what_to_install(without, blocked, command, message):
    result = without(blocked, *command)
    start, _, extra = message.partition(": ")
    install = f"pip install 'vitwin{extra}', or in a checkout of vitwin: pip install '.{extra}'"
    assert result.stderr == f"{start}: {install}\n"
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("package", "blocked"), [("vit_jax", "flax"), ("vit_torch", "torch"), ("vit_data", "PIL")]
)
def test_importing_a_package_says_what_to_install(without, package, blocked):
    last = without(blocked, "-c", f"import {package}").stderr.splitlines()[-1]
    extra = extras.extra_of(blocked)
    assert last.startswith(
        f"ModuleNotFoundError: {package} needs {blocked}: pip install 'vitwin[{extra}]'"
    )


def test_visualize_without_pillow_is_one_line(without):
    result = without("PIL", "-m", "vit_jax.visualize", "x")
    assert result.returncode == 2 and result.stderr.startswith("visualize needs PIL: pip install")


def test_what_only_some_data_needs_is_named_when_it_is_used(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    arguments = ["folder", "--data", "cifar10", "--out", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    assert capsys.readouterr().err.startswith(
        "train needs tensorflow_datasets: pip install 'vitwin[train]', or"
    )
    assert not (tmp_path / "run").exists()


def test_every_extra_that_a_message_names_exists():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert content["project"]["optional-dependencies"].keys() >= extras.EXTRAS.keys()
