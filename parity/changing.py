"""Fields of a model that a conversion changes on request, and how far its outputs move."""

import ast
import importlib.util
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parity.certificate import number
from vit_spec import ViTConfig, parameters
from vit_spec.layout import State

IMAGES, SEED = 8, 0
PYTHONS = {"True": True, "False": False, "None": None}  # beside JSON's true, false and null

Change = Mapping[str, Any]
"""Fields of `ViTConfig` and their new values."""


def parsed(options: Iterable[str]) -> dict[str, Any]:
    """What `FIELD=VALUE` of the command line say. Raises `ValueError` for anything else."""
    found: dict[str, Any] = {}
    for option in options:
        name, sign, text = option.partition("=")
        if not sign or not name or name in found:
            raise ValueError(
                f"--change {option!r} must be a field once and its value, such as "
                "activation=gelu_tanh"
            )
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = PYTHONS.get(text, text)
    return found


def option(argument: str) -> str:
    """What to type for the `change=` of a message."""
    said = ast.literal_eval(argument)
    return "--change " + " ".join(f"{name}={value}" for name, value in said.items())


def changed(config: ViTConfig, change: Change) -> ViTConfig:
    """The config with other values in some fields, of the same tensors.

    Raises `ValueError` for a field that does not exist, a value that it cannot have, and fields
    that other tensors go with.
    """
    if not change:
        return config
    new = config.replace(**change)
    if parameters(new) != parameters(config):
        names = [
            name
            for name, value in change.items()
            if parameters(config) != _alone(config, name, value)
        ]
        raise ValueError(
            f"change: other tensors go with another {' or '.join(names or change)}, and a "
            "conversion keeps all: leave it out"
        )
    return new


def _alone(config: ViTConfig, name: str, value: Any) -> Any:
    """The tensors of a config with one other value; None if there is no such config."""
    try:
        return parameters(config.replace(**{name: value}))
    except ValueError:
        return None


def moved(before: ViTConfig, after: ViTConfig, state: State) -> dict[str, Any]:
    """How far the outputs of the same weights move: the record of a certificate.

    On random images of the native size, in float64, by the twin that is installed.
    """
    from parity.inputs import image_sets

    size, images = next(iter(image_sets(before, IMAGES, SEED).items()))
    outputs = _torch_outputs if importlib.util.find_spec("torch") else _jax_outputs
    one, other = (outputs(config, state, images) for config in (before, after))
    largest = float(np.abs(one).max())
    found: dict[str, Any] = {
        "images": IMAGES,
        "size": size,
        "seed": SEED,
        "largest": number(float(np.abs(one - other).max()) / largest if largest else 0.0),
    }
    if before.num_classes > 1:
        found["same_class"] = int((one.argmax(-1) == other.argmax(-1)).sum())
    return found


def entry(before: ViTConfig, after: ViTConfig, movement: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `change` of a certificate: old and new values, and how far the outputs moved."""
    old, new = before.to_dict(), after.to_dict()
    fields = {name: [old[name], new[name]] for name in old if old[name] != new[name]}
    return {"fields": fields, "outputs": dict(movement)}


def fields(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The new values of the entry `change` of a certificate, if there is one."""
    found = (record or {}).get("fields", {})
    return {name: new for name, (_, new) in found.items()}


def text(record: Mapping[str, Any]) -> str:
    """A line about the entry `change` of a certificate."""
    fields = ", ".join(
        f"{name} {old!r} to {new!r}" for name, (old, new) in record["fields"].items()
    )
    found = record["outputs"]
    if "largest" not in found:
        return f"changed on request: {fields}; how far the outputs move {found['reason']}"
    line = (
        f"changed on request: {fields}; outputs on {found['images']} random images of "
        f"{found['size']} move by {float(found['largest']):.1e} of the largest"
    )
    if "same_class" in found:
        line += f", and {found['same_class']} of {found['images']} keep their class"
    return line


def _torch_outputs(config: ViTConfig, state: State, images: np.ndarray) -> np.ndarray:
    import torch

    import vit_torch

    model = vit_torch.api.from_state(config, state).double().eval()
    with torch.no_grad():
        return model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


def _jax_outputs(config: ViTConfig, state: State, images: np.ndarray) -> np.ndarray:
    import vit_jax
    from parity.precision import exact

    with exact():
        return np.asarray(vit_jax.api.from_state(config, state)(images))
