"""Ports weights between the twins, and proves that both sides compute the same thing.

The frameworks are imported when something needs them: converting files does not.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parity.certificate import certificate
from parity.convert import convert, inspect
from parity.findings import Cause, Diagnosis, Location
from parity.render import render
from parity.report import LEVELS, Gap, Report
from parity.rules import Names, Rule, fused, heads, permute
from parity.verify import Verification, verify

if TYPE_CHECKING:
    from parity.check import check
    from parity.structures import Image
    from parity.training_state import training_to_jax, training_to_torch
    from parity.twins import to_jax, to_torch

__all__ = [
    "LEVELS",
    "Cause",
    "Diagnosis",
    "Gap",
    "Image",
    "Location",
    "Names",
    "Report",
    "Rule",
    "Verification",
    "certificate",
    "check",
    "convert",
    "fused",
    "heads",
    "inspect",
    "permute",
    "render",
    "to_jax",
    "to_torch",
    "training_to_jax",
    "training_to_torch",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "check":
        from parity.check import check

        return check
    if name == "Image":
        from parity.structures import Image

        return Image
    if name in ("to_jax", "to_torch"):
        import parity.twins

        return getattr(parity.twins, name)
    if name in ("training_to_jax", "training_to_torch"):
        import parity.training_state

        return getattr(parity.training_state, name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps `parity.check` the function, whoever imports the submodule of that name first."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_submodule = name == "check" and isinstance(value, ModuleType)
        super().__setattr__(name, value.check if is_submodule else value)


sys.modules[__name__].__class__ = _Package
