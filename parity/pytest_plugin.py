"""What the pytest fixture `parity` is; `vitwin/pytest_plugin.py` registers it.

Neither JAX nor PyTorch is imported before a test uses it.
"""

import hashlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vit_spec.extras import explain

if TYPE_CHECKING:
    from parity.report import Report


class Parity:
    """The package `parity` for a test: `assert_equal`, and whatever else the package has, such as
    `parity.transfer`, `parity.Image` and `parity.Rule`."""

    def __init__(self, test: str = "", pages: Path | None = None):
        self.test = test  # pytest's name of the running test
        self.pages = pages  # folder that gets a page for each check
        self.checks = 0

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
        report = self.check(jax_model, torch_model, level=level, dtype=dtype, **options)
        page = None if self.pages is None else self._write(report, self.pages)
        if not report.passed:
            pytest.fail(message_of(report, self.test, page), pytrace=False)
        return report

    def __getattr__(self, name: str) -> Any:
        try:
            import parity

            return getattr(parity, name)
        except ModuleNotFoundError as error:
            if (message := explain(error, "parity compares JAX with PyTorch and")) is None:
                raise
            pytest.fail(message, pytrace=False)

    def _write(self, report: "Report", folder: Path) -> Path:
        self.checks += 1
        name = re.sub(r"[^\w.-]+", "_", self.test)[-100:].strip("_") or "check"
        number = f"-{self.checks}" if self.checks > 1 else ""
        unique = hashlib.sha256(self.test.encode()).hexdigest()[:8]  # names of tests hold anything
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{name}-{unique}{number}.html"
        page.write_text(self.html(report), encoding="utf-8")
        return page


def message_of(report: "Report", test: str = "", page: Path | None = None) -> str:
    """Why a report failed: the place and the cause, the table, and how to see it again."""
    from parity.render import headline, render

    lines = [headline(report), "", render(report)]
    if page is not None:
        lines += ["", f"page: {page}"]
    if test:
        lines += ["", f"reproduce: python -m pytest {shlex.quote(test)}"]
    return "\n".join(lines)
