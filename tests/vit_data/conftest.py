"""The digits, written once for all tests of vit_data."""

from pathlib import Path

import pytest

from vit_data import open_source


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the digits prepared."""
    folder = tmp_path_factory.mktemp("digits")
    open_source("digits", split="train", data_dir=folder)
    return folder
