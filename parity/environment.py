"""What a check ran on and under, as JSON values: models, versions, devices, numerical settings.

Importing this imports no framework; `environment` does.
"""

import datetime
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parity.tolerance import PRACTICE, PROOF
from vit_spec import ViTConfig
from vit_spec.version import __version__

PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "torch")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of this project, of Python and of `packages`."""
    found = {name: _version(name) for name in packages}
    return {"vitwin": __version__, "python": platform.python_version(), **found}


def environment(torch_model: Any = None) -> dict[str, dict[str, Any]]:
    """Versions, devices and numerical settings at this moment, and where `torch_model` lies."""
    import jax
    import jax.numpy as jnp
    import torch

    ours = next(iter(jnp.zeros(()).devices()))
    parameters = torch_model.parameters() if isinstance(torch_model, torch.nn.Module) else ()
    theirs = next((p.device for p in parameters), torch.device("cpu"))
    cuda = theirs.type == "cuda"
    return {
        "versions": versions(),
        "device": {
            "jax": ours.platform,
            "jax_name": ours.device_kind,
            "torch": str(theirs),
            "torch_name": torch.cuda.get_device_name(theirs)
            if cuda
            else torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "precision": {
            "x64": bool(jax.config.jax_enable_x64),
            "matmul": str(jax.config.jax_default_matmul_precision),
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_cudnn": torch.backends.cudnn.allow_tf32,
            "PROOF": PROOF,
            "PRACTICE": PRACTICE,
        },
    }


def models(model: Any, twin: Any, **others: Any) -> dict[str, Any]:
    """What `check` was given, as far as JSON can hold it; of `others` the names of those in use."""
    return {
        "model": _reference(model),
        "against": None if twin is None else _reference(twin),
        "others": [name for name, value in others.items() if is_used(value)],
    }


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_used(value: Any) -> bool:
    """Whether an argument differs from its default: None, False or empty."""
    return not (value is None or value is False or (isinstance(value, tuple | list) and not value))


def _reference(model: Any) -> dict[str, str]:
    """How to find a model again: by a path as it was typed, by name, by the config, or not."""
    if isinstance(model, ViTConfig):
        return {"kind": "config"}
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        return {"kind": "checkpoint" if Path(path).exists() else "variant", "name": str(path)}
    return {"kind": "live", "name": _framework(model)}


def _framework(model: Any) -> str:
    import torch

    return "torch" if isinstance(model, torch.nn.Module) else "jax"


def _version(package: str) -> str:
    import importlib.metadata  # here, for it takes longer than most conversions' start

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
