"""The pytest plugin: the fixture `parity` and the option `--parity-html`.

pytest loads this file in every session where vitwin is installed. It imports nothing of ours before
a test asks for the fixture, so that a project with a module `parity` of its own is left alone.
"""

import importlib
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--parity-html`."""
    parser.getgroup("parity").addoption(
        "--parity-html",
        metavar="DIR",
        help="write a page for each check of the fixture parity into this folder",
    )


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Any:
    """The package `parity`, and `parity.assert_equal(jax_model, torch_model, inputs=...)`."""
    found = importlib.import_module("parity")
    if not hasattr(found, "__path__") or not hasattr(found, "LEVELS"):
        pytest.fail(
            f"{found.__file__} hides vitwin's package parity, which the fixture needs: rename it",
            pytrace=False,
        )
    folder = request.config.getoption("--parity-html")
    made = importlib.import_module("parity.pytest_plugin").Parity
    return made(request.node.nodeid, None if folder is None else Path(folder).absolute())
