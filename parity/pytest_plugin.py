"""A pytest fixture: `parity.assert_equal(jax_model, torch_model, inputs=...)`.

pytest loads this file in every session where the package is installed, so neither JAX nor PyTorch
is imported before a test uses the fixture.
"""

import shlex
from typing import TYPE_CHECKING, Any

import pytest

from vit_spec.extras import explain

if TYPE_CHECKING:
    from parity.report import Report


class Parity:
    """What the fixture `parity` is."""

    def __init__(self, test: str = ""):
        self.test = test  # pytest's name of the running test

    def assert_equal(
        self,
        jax_model: Any,
        torch_model: Any = None,
        *,
        level: str = "gradients",
        dtype: Any = "float64",
        **options: Any,
    ) -> "Report":
        """The report of `parity.check`, which takes the same arguments; the test fails if it did.

        Raises `ValueError` for arguments that cannot be checked.
        """
        try:
            import parity

            report = parity.check(jax_model, torch_model, level=level, dtype=dtype, **options)
        except ModuleNotFoundError as error:
            if (message := explain(error, "parity compares JAX with PyTorch and")) is None:
                raise
            pytest.fail(message, pytrace=False)
        if not report.passed:
            pytest.fail(message_of(report, self.test), pytrace=False)
        return report


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Compares JAX models with PyTorch models: `parity.assert_equal(jax_model, torch_model)`."""
    return Parity(request.node.nodeid)


def message_of(report: "Report", test: str = "") -> str:
    """Why a report failed: the first place, the table, and how to see it again."""
    import parity
    from parity.render import first_failure

    lines = [f"parity FAIL: {first_failure(report)}", "", parity.render(report)]
    if test:
        lines += ["", f"reproduce: python -m pytest {shlex.quote(test)}"]
    return "\n".join(lines)
