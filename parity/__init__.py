"""Ports weights between the twins, and proves that both sides compute the same thing.

The frameworks are imported when something needs them: converting files does not.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parity.certificate import certificate
from parity.convert import convert, read
from parity.findings import Cause, Diagnosis, Location
from parity.inspection import inspect
from parity.operations import Op, dense_general, fused, heads, permute, same, split, stacked
from parity.report import LEVELS, Gap, Report
from parity.rules import Names, Rule, only_jax, only_torch
from parity.verify import Verification, verify
from vit_spec.version import __version__

if TYPE_CHECKING:
    from parity.check import check
    from parity.functions import compare, diagnose
    from parity.html import html
    from parity.render import render, render_diagnosis
    from parity.structures import Image
    from parity.training_state import training_to_jax, training_to_torch
    from parity.transfer import transfer
    from parity.twins import to_jax, to_torch

__all__ = [
    "__version__",
    "LEVELS",
    "Cause",
    "Diagnosis",
    "Gap",
    "Image",
    "Location",
    "Names",
    "Op",
    "Report",
    "Rule",
    "Verification",
    "certificate",
    "check",
    "compare",
    "convert",
    "dense_general",
    "diagnose",
    "fused",
    "heads",
    "html",
    "inspect",
    "only_jax",
    "only_torch",
    "permute",
    "read",
    "render",
    "render_diagnosis",
    "same",
    "split",
    "stacked",
    "to_jax",
    "to_torch",
    "training_to_jax",
    "training_to_torch",
    "transfer",
    "verify",
]


_LAZY = {  # what needs a framework, or what few commands need, and where it is
    "Image": "parity.structures",
    "check": "parity.check",
    "compare": "parity.functions",
    "diagnose": "parity.functions",
    "html": "parity.html",
    "render": "parity.render",
    "render_diagnosis": "parity.render",
    "to_jax": "parity.twins",
    "to_torch": "parity.twins",
    "training_to_jax": "parity.training_state",
    "training_to_torch": "parity.training_state",
    "transfer": "parity.transfer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `parity.check` the function, whoever imports the submodule of that name first."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_submodule = _LAZY.get(name) == f"parity.{name}" and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_submodule else value)


sys.modules[__name__].__class__ = _Package
