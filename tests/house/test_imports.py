"""Who may import whom, read from the source and tried in processes that lack a framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"vit_spec", "vit_data", "vit_jax", "vit_torch", "parity", "vitwin"}
ALLOWED = {
    "vit_spec": {"numpy", "ml_dtypes", "safetensors"},
    "vit_data": {
        *("vit_spec", "numpy", "PIL", "grain", "tensorflow_datasets", "sklearn", "absl"),
        "google",  # protobuf's errors
        "torch",  # its resizing, when asked for
    },
    "vit_jax": {
        *("vit_spec", "numpy", "jax", "flax", "optax", "orbax", "tensorboardX", "tqdm"),
        "tensorstore",  # Orbax's own
    },
    "vit_torch": {"vit_spec", "numpy", "torch", "ml_dtypes"},
    "parity": {
        *("vit_spec", "vit_jax", "vit_torch", "numpy", "ml_dtypes", "jax", "flax", "optax"),
        *("torch", "pytest", "huggingface_hub", "tensorstore"),
    },
    "vitwin": {"vit_spec", "vit_data", "vit_jax", "parity", "jax", "tyro", "pytest"},
}

PROGRAMS = {
    "vit_jax/probe.py": {"parity", "vit_data"},
    "vit_jax/visualize.py": {"parity", "vit_data", "PIL"},
}
"""What is run and not imported stands above the packages, as `train.py` does."""


def imported(file: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_no_package_imports_a_program():
    programs = {name.removesuffix(".py").replace("/", ".") for name in PROGRAMS}
    for file in (f for package in ALLOWED for f in (ROOT / package).rglob("*.py")):
        assert not [p for p in programs if f"import {p}" in file.read_text()], file
        assert not [p for p in programs if f"from {p} " in file.read_text()], file


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_its_arrows_allow(package):
    for file in (ROOT / package).rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        allowed = ALLOWED[package] | PROGRAMS.get(name, set())
        extra = imported(file) - allowed - {package} - set(sys.stdlib_module_names)
        assert not extra, f"{file.relative_to(ROOT)} imports {sorted(extra)}"


def blocked(script: str, *names: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process where `names` cannot be imported."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {names!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", block + script], cwd=ROOT, capture_output=True, text=True
    )


def test_vit_torch_works_without_jax(tmp_path):
    script = (
        "import torch, vit_torch\n"
        f"m = vit_torch.create('Ti/16', seed=0); vit_torch.save(m, {str(tmp_path / 'm')!r})\n"
        f"assert vit_torch.load({str(tmp_path / 'm')!r})(torch.zeros(1, 3, 224, "
        f"224)).shape == (1, 1000)\n"
    )
    result = blocked(script, "jax", "jaxlib", "flax", "optax")
    assert result.returncode == 0, result.stderr


def test_vit_jax_works_without_torch(tmp_path):
    script = (
        "import jax.numpy as jnp, vit_jax, vit_spec, sys\n"
        "c = vit_spec.get('Ti/16', depth=1, image_size=32)\n"
        f"m = vit_jax.create(c); vit_jax.save(m, {str(tmp_path / 'm')!r})\n"
        f"assert vit_jax.load({str(tmp_path / 'm')!r})(jnp.zeros((1, 32, 32, 3))).shape == "
        f"(1, 1000)\n"
    )
    result = blocked(script, "torch")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("package", "framework"), [("vit_torch", "torch"), ("vit_jax", "jax")])
def test_the_block_can_fail(package, framework):
    result = blocked(f"import {package}", framework)
    assert result.returncode != 0
    assert "ModuleNotFoundError" in result.stderr


def test_importing_vit_jax_or_train_data_loads_no_reader():
    script = (
        "import sys, numpy, vit_jax, vit_data, vit_spec\n"
        "facts = {'size': 4, 'channels': 1, 'preprocessing': vit_spec.Preprocessing()}\n"
        "vit_data.load_image(numpy.zeros((9, 9), numpy.uint8), **facts)\n"
        "loaded = {'grain', 'tensorflow_datasets', 'tensorflow', 'torch', 'sklearn'} & "
        "set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
