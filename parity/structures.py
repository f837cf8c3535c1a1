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

    def __post_init__(self) -> None:
        kind, shape = type(self.array), getattr(self.array, "shape", ())
        if not issubclass(kind, np.ndarray):
            raise ValueError(
                f"parity.Image takes a NumPy array, not {kind.__module__}.{kind.__name__}"
            )
        if self.array.ndim != 4:
            raise ValueError(
                f"parity.Image takes images (b, H, W, c), not an array of shape {shape}"
            )


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as arguments: a tuple or list of them, a dict of keywords, or one array."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def replaced(value: Any, leaf: Any) -> Any:
    """The same structure with `leaf(array_or_image)` in place of every array, in JAX's order."""
    if isinstance(value, Mapping):
        return {key: replaced(value[key], leaf) for key in sorted(value)}
    if hasattr(value, "_asdict"):
        return type(value)(*(replaced(item, leaf) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(replaced(item, leaf) for item in value)
    return leaf(value) if isinstance(value, Image | np.ndarray) else value


def only_image(value: Any) -> np.ndarray | None:
    """The one image (b, H, W, c) of a structure, or an array that is all there is; else None."""
    if isinstance(value, np.ndarray):
        return value
    found: list[Image] = []
    replaced(value, lambda leaf: found.append(leaf) if isinstance(leaf, Image) else None)
    return found[0].array if len(found) == 1 else None


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


def check_structures(jax: Mapping[str, Any], torch: Mapping[str, Any]) -> None:
    """Raises `ValueError` unless both sides' outputs, by name, have the same names."""
    if jax.keys() == torch.keys():
        return
    ours, theirs = (
        ", ".join(f"{name} {tuple(np.shape(value))}" for name, value in list(side.items())[:8])
        for side in (jax, torch)
    )
    raise ValueError(
        f"the models return other structures, JAX {ours or 'no array'}; PyTorch "
        f"{theirs or 'no array'}: choose what is compared by jax_output= or torch_output=, such as "
        f"{_choice([*jax], [*torch])}"
    )


def _choice(jax: list[str], torch: list[str]) -> str:
    """An argument that makes the first output of both sides go by the same name."""
    sides = {"jax": jax, "torch": torch}
    plain = [side for side, names in sides.items() if names == ["output"]]
    numbered = [s for s, names in sides.items() if names and names[0].split(".")[-1].isdigit()]
    side = {"jax": "torch", "torch": "jax"}[plain[0]] if plain else (numbered or ["torch"])[0]
    own, other = sides[side], sides["jax" if side == "torch" else "torch"]
    step = (own or ["output.0"])[0].split(".")[1:2] or ["0"]
    pick = "output" + (f"[{step[0]}]" if step[0].isdigit() else f'["{step[0]}"]')
    name = (other or ["output"])[0].split(".")[1:2]
    if name and not name[0].isdigit():
        pick = f'{{"{name[0]}": {pick}}}'
    return f"{side}_output=lambda output: {pick}"


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


def refused(side: str, given: Any, error: Exception) -> ValueError:
    """What to raise where a model does not take the inputs."""
    leaves = list(named(given, "inputs"))
    shapes = ", ".join(
        f"{place} {getattr(v, 'array', v).shape}{' (Image)' if isinstance(v, Image) else ''}"
        for place, v in leaves
    )
    plain = any(not isinstance(v, Image) and np.ndim(v) == 4 for _, v in leaves)
    hint = ". Images (b, H, W, c) have to be given as parity.Image(array)" if plain else ""
    return ValueError(f"{side}'s model fails with {shapes}: {error}{hint}")
