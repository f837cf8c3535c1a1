"""Inputs and outputs of any structure, as a flat list of named arrays."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vit_torch.api import to_numpy, to_tensor


@dataclasses.dataclass(frozen=True)
class Image:
    """An input that JAX takes channels-last and PyTorch channels-first (b, c, H, W)."""

    array: np.ndarray  # (b, H, W, c)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as arguments: a tuple or list of them, a dict of keywords, or one array."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def replaced(value: Any, leaf: Any) -> Any:
    """The same structure with `leaf(array_or_image)` in place of every array."""
    if isinstance(value, Mapping):
        return {key: replaced(item, leaf) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return type(value)(*(replaced(item, leaf) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(replaced(item, leaf) for item in value)
    return leaf(value) if isinstance(value, Image | np.ndarray) else value


def named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every array of a structure with its place in it, such as `output.hidden_states.0`."""
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int | float):
        value = np.asarray(value, np.float64)
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif hasattr(value, "_asdict"):
        items = value._asdict().items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, Image):
        items = vars(value).items()
    else:
        yield name, value
        return
    for key, item in items:
        yield from named(item, f"{name}.{key}")


def numpy(value: Any) -> np.ndarray:
    """Either framework's array as NumPy."""
    return to_numpy(value) if isinstance(value, Tensor) else np.asarray(value)


def tensor(value: Any) -> Tensor:
    """Either framework's array as a float64 tensor; integers stay integers."""
    array = numpy(value)
    floating = array.dtype.kind not in "iub"
    return to_tensor(np.array(array, np.float64 if floating else None))


def is_float(array: Any) -> bool:
    """Whether an array holds floating-point numbers of any width."""
    if isinstance(array, Tensor):
        return array.dtype.is_floating_point
    return np.asarray(array).dtype.kind not in "iub"
