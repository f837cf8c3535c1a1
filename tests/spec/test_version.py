"""One version, for every package, the changelog and the citation."""

import importlib
from pathlib import Path

import pytest
import yaml

import vit_spec
from parity.cli import main
from parity.environment import versions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["vit_data", "vit_jax", "vit_torch", "parity", "vitwin"])
def test_every_package_tells_the_version(name):
    assert importlib.import_module(name).__version__ == vit_spec.__version__


def test_the_command_and_reports_tell_it(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"parity of vitwin {vit_spec.__version__}\n"
    assert versions()["vitwin"] == vit_spec.__version__


def test_the_changelog_and_the_citation_know_it():
    assert f"## {vit_spec.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vit_spec.__version__ and citation["license"] == "Apache-2.0"
