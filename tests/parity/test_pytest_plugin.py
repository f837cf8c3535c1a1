"""The pytest fixture `parity`, in sessions of its own."""

import importlib
import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER_TESTS = """
import numpy as np
import pytest
import torch

X = np.random.default_rng(0).normal(size=(3, 4))

def pair(shift=0.0):
    twin = torch.nn.Linear(4, 5)
    params = {"kernel": twin.weight.detach().numpy().T, "bias": twin.bias.detach().numpy() + shift}
    return (lambda params, x: x @ params["kernel"] + params["bias"], params), twin

def test_equal(parity):
    report = parity.assert_equal(*pair(), inputs=X)
    assert report.passed and report.level == "gradients"

def test_other_bias(parity):
    parity.assert_equal(*pair(np.float32(1)), inputs=X, level="outputs", dtype=["float64"])

@pytest.mark.parametrize("size", ["a b"])
def test_other_function(parity, size):
    (function, params), twin = pair()
    parity.assert_equal((lambda p, x: -function(p, x), params), twin, inputs=X, level="outputs")

def test_wrong_use(parity):
    parity.assert_equal(*pair())
"""
NO_TORCH = """
import sys
import pytest

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Block())
"""


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A pytest session with this plugin and no other."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "vitwin.pytest_plugin", "--color=no", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A session with a test that passes, and its JUnit file."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "test_user.py").write_text(USER_TESTS)
    result = session(folder, "--junit-xml=junit.xml", "-W", "error::pytest.PytestWarning")
    return result, ElementTree.parse(folder / "junit.xml")


def test_the_entry_point_is_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = importlib.import_module(project["entry-points"]["pytest11"]["parity"])
    assert callable(module.parity)


def test_a_session_counts_what_passed_and_what_failed(failed):
    result, junit = failed
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    suite = next(junit.iter("testsuite")).attrib
    assert (suite["tests"], suite["failures"], suite["errors"]) == ("4", "3", "0")


def message(failed, test: str) -> list[str]:
    """The lines of a test's failure, from the JUnit file."""
    case = next(c for c in failed[1].iter("testcase") if c.attrib["name"] == test)
    return next(case.iter("failure")).text.splitlines()


def test_the_message_says_where_and_how_to_see_it_again(failed):
    lines = message(failed, "test_other_bias")
    assert lines[0] == (
        "bias: weights in float64 differ: gap 1.0e+00, bound 0.0e+00  (5 of 5 values differ)"
    )
    assert any(line.split()[:2] == ["outputs", "float64"] and "FAILED" in line for line in lines)
    assert "diagnosis:" in lines
    assert lines[-1] == "reproduce: python -m pytest test_user.py::test_other_bias"
    assert not any("pytest_plugin.py" in line for line in lines)  # no traceback


def test_the_message_names_the_cause_and_quotes_the_test(failed):
    lines = message(failed, "test_other_function[a b]")
    assert any("cause: output: what the output is" in line for line in lines)
    assert lines[-1] == "reproduce: python -m pytest 'test_user.py::test_other_function[a b]'"


def test_wrong_use_is_an_error_with_its_message(failed):
    assert any("ValueError: <lambda> is not one of" in x for x in message(failed, "test_wrong_use"))


def test_loading_the_plugin_imports_no_framework():
    script = (
        "import sys, vitwin.pytest_plugin\n"
        "loaded = {'jax', 'jaxlib', 'flax', 'optax', 'torch', 'parity'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_without_torch_only_tests_that_use_the_fixture_fail(tmp_path):
    (tmp_path / "conftest.py").write_text(NO_TORCH)
    (tmp_path / "test_user.py").write_text(
        "def test_other(): pass\ndef test_parity(parity): parity.assert_equal('Ti/16')\n"
    )
    result = session(tmp_path)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed" in result.stdout
    assert "pip install 'vitwin[torch]'" in result.stdout
    assert session(tmp_path, "-k", "other").returncode == pytest.ExitCode.OK


CARRIED = """
import numpy as np
import torch

def test_carried(parity):
    twin = torch.nn.Linear(4, 5)
    rules = [parity.Rule("k", "weight", parity.permute(1, 0)), parity.only_torch("bias")]
    pair = lambda p, x: x @ p["k"], {"k": np.zeros((4, 5), "float32")}
    pair = parity.transfer(twin, pair, rules=rules)
    assert parity.Image(np.ones((2, 4, 4, 3)))
    other = torch.nn.Linear(4, 5)
    parity.assert_equal(pair, other, inputs=np.ones((2, 4)), level="outputs", rules=rules)
"""


def test_the_fixture_carries_the_package_and_writes_a_page_for_each_check(tmp_path):
    (tmp_path / "test_user.py").write_text(CARRIED)
    result = session(tmp_path, "--parity-html", "pages/all")
    assert "FAILED test_user.py::test_carried - Failed: every weight differs" in result.stdout
    (page,) = (tmp_path / "pages/all").iterdir()
    assert page.name.startswith("test_user.py_test_carried-")
    assert "every weight differs" in page.read_text(encoding="utf-8").replace("Every", "every")
    assert f"page: {page}" in result.stdout


@pytest.mark.parametrize("uses", [False, True])
def test_a_module_parity_of_the_project_breaks_no_session(tmp_path, uses):
    (tmp_path / "parity.py").write_text("def of(number): return number % 2\n")
    test = (
        "def test_parity(parity): pass\n"
        if uses
        else "import parity\ndef test(): assert parity.of(3)\n"
    )
    (tmp_path / "test_user.py").write_text(test)
    result = session(tmp_path)
    assert ("1 error" if uses else "1 passed") in result.stdout, result.stdout
    if uses:
        assert f"{tmp_path / 'parity.py'} hides vitwin's package parity" in result.stdout
