"""The workflow in docs/ci.md is valid YAML that does what the text around it says."""

import ast
import re
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def workflow():
    (text,) = blocks("yaml")
    return yaml.safe_load(text)


def test_the_workflow_runs_on_pushes_and_pull_requests(workflow):
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}


def test_reports_are_kept_when_the_check_fails(workflow):
    *_, tests, check, upload = workflow["jobs"]["parity"]["steps"]
    assert "pytest" in tests["run"]
    written = re.findall(r"--(?:json|html) (\S+)", check["run"])
    assert set(written) <= set(upload["with"]["path"].split())
    assert len(written) == 2
    assert upload["if"] == check["if"] == "${{ !cancelled() }}"
    assert upload["uses"].startswith("actions/upload-artifact@")


def test_torch_comes_from_the_cpu_index_and_downloads_are_cached(workflow):
    steps = workflow["jobs"]["parity"]["steps"]
    assert any(s.get("with", {}).get("cache") == "pip" for s in steps)
    install = next(s["run"] for s in steps if "install torch" in s.get("run", ""))
    assert "--index-url https://download.pytorch.org/whl/cpu" in install


def test_the_python_on_the_page_parses():
    for code in blocks("python"):
        ast.parse(code)
