"""The twins mirror each other, and the house keeps its form."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("vit_spec", "vit_data", "vit_jax", "vit_torch", "parity", "vitwin")
MIRRORED = (
    "vit", "layers", "mlp", "heads", "embedding", "images", "masks", "initializers", "training",
    "training_state", "api",
)  # fmt: skip

# What only one side has, and why.
ONLY_JAX = {
    "options": "how to compute, which PyTorch does not need to be told",
    "kernel": "the attention kernel, which PyTorch chooses itself",
    "Identity": "torch.nn.Identity",
    "deterministic": "`training` of torch.nn.Module",
    "rngs": "what draws masks, for which PyTorch has one generator for all",
}


def skeleton(file: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Class -> attributes in order of assignment, and public methods in order."""
    found = {}
    for node in ast.parse(file.read_text()).body:
        if not isinstance(node, ast.ClassDef) or node.name in ONLY_JAX:
            continue
        stores = [
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            and isinstance(n.value, ast.Name) and n.value.id == "self" and n.attr not in ONLY_JAX
        ]  # fmt: skip
        methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
        public = [
            m.replace("__call__", "forward")
            for m in methods
            if not m.startswith("_") or m == "__call__"
        ]
        found[node.name] = (list(dict.fromkeys(stores)), public)
    return found


@pytest.mark.parametrize("name", ["vit", "layers", "mlp", "heads"])
def test_the_twins_have_the_same_classes_attributes_and_methods_in_the_same_order(name):
    ours, theirs = (skeleton(ROOT / side / f"{name}.py") for side in ("vit_jax", "vit_torch"))
    assert list(ours) == list(theirs)
    assert ours == theirs


@pytest.mark.parametrize("name", MIRRORED)
def test_a_mirrored_file_names_its_twin_in_its_first_lines(name):
    for side, other in (("vit_jax", "vit_torch"), ("vit_torch", "vit_jax")):
        first = (ROOT / side / f"{name}.py").read_text().split("\n\n")[0]
        assert f"Twin: `{other}/{name}.py`" in first, side


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    module = importlib.import_module(package)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert (ROOT / package / "py.typed").exists()


def test_no_file_is_long_and_none_is_a_drawer():
    files = [f for p in (*PACKAGES, "tests") for f in (ROOT / p).rglob("*.py")] + [
        ROOT / "train.py"
    ]
    assert not [f for f in files if f.name in ("utils.py", "common.py", "helpers.py")]
    assert not [f"{f}: {n}" for f in files if (n := len(f.read_text().splitlines())) > 400]
