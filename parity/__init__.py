"""Ports weights between the twins, and proves that both sides compute the same thing.

The frameworks are imported when something needs them: converting files does not.
"""

from typing import TYPE_CHECKING, Any

from parity.convert import convert, inspect
from parity.findings import Cause, Diagnosis, Location
from parity.render import render
from parity.report import LEVELS, Gap, Report

if TYPE_CHECKING:
    from parity.check import check
    from parity.training_state import training_to_jax, training_to_torch
    from parity.twins import to_jax, to_torch

__all__ = [
    "LEVELS",
    "Cause",
    "Diagnosis",
    "Gap",
    "Location",
    "Report",
    "check",
    "convert",
    "inspect",
    "render",
    "to_jax",
    "to_torch",
    "training_to_jax",
    "training_to_torch",
]


def __getattr__(name: str) -> Any:
    if name == "check":
        from parity.check import check

        globals()["check"] = check  # the submodule of the same name would take its place
        return check
    if name in ("to_jax", "to_torch"):
        import parity.twins

        return getattr(parity.twins, name)
    if name in ("training_to_jax", "training_to_torch"):
        import parity.training_state

        return getattr(parity.training_state, name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
