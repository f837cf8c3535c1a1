"""`make train` installs JAX for the accelerator of the machine, or the one that is named."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def planned(tmp_path, *arguments, path=""):
    """What `make train` would do in a fresh checkout."""
    search = os.pathsep.join([path, os.environ["PATH"]]) if path else os.environ["PATH"]
    return subprocess.run(
        ["make", "-n", "train", f"VENV={tmp_path / 'venv'}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": search},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["cuda", "cuda13", "tpu"])
def test_an_accelerator_that_is_named_is_installed_for(name, tmp_path):
    text = planned(tmp_path, f"ACCELERATOR={name}").stdout
    assert f"-c constraints.txt -e '.[jax,torch,train,{name}]'" in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = extras["optional-dependencies"][name]
    assert "vitwin[jax]" in brought  # with what stands on JAX


def test_a_gpu_is_found(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3'\n")
    program.chmod(0o755)
    assert "'.[jax,torch,train,cuda]'" in planned(tmp_path, path=str(tmp_path)).stdout
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert "cuda" not in planned(tmp_path, path=str(tmp_path)).stdout


def test_another_accelerator_is_refused_with_those_that_exist(tmp_path):
    result = planned(tmp_path, "ACCELERATOR=rocm")
    assert result.returncode and "rocm is none of cpu cuda cuda13 tpu" in result.stderr
    assert "'.[jax,torch,train]'" in planned(tmp_path, "ACCELERATOR=cpu").stdout
