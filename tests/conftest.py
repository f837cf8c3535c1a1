"""Settings of all tests."""

import jax
import pytest


@pytest.fixture
def x64():
    """JAX with float64 and full-precision products."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
