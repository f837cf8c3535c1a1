"""Every module call of a forward pass, seen from outside: no hook in the user's code.

PyTorch: forward hooks. Flax NNX: the `__call__` of every module class is wrapped for the time of
the pass. Flax Linen: method interception. Calls are kept in the order in which they finish, so a
module comes after its parts.
"""

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen, nnx
from torch import Tensor, nn

from parity.structures import named

IMAGE_MODULES = ("Conv", "Pool", "BatchNorm", "GroupNorm")
"""Beginnings of the class names of modules whose images are channels-last in JAX."""


@dataclass(frozen=True)
class Call:
    """One call of one module."""

    path: str  # dotted; "" is the model itself
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def kind(self) -> str:
        """Class name of the module."""
        return type(self.module).__name__


@contextlib.contextmanager
def torch_calls(model: nn.Module) -> Iterator[list[Call]]:
    """The calls of a PyTorch model's modules while the block runs, safe from operations in place
    such as `nn.ReLU(inplace=True)`."""
    calls: list[Call] = []
    begun: list[tuple[Any, Any]] = []  # arguments of the modules that are running, innermost last
    copies = _Copies()

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        begun.append((copies.of(args), copies.of(kwargs)))

    def hook(path: str) -> Any:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append(Call(path, module, *begun.pop(), copies.of(output)))

        return record

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def nnx_calls(model: nnx.Module) -> Iterator[list[Call]]:
    """The calls of an NNX model's modules while the block runs; what runs inside a transformation
    such as `jax.lax.scan` is not seen."""
    calls: list[Call] = []
    paths = {id(m): ".".join(map(str, path)) for path, m in nnx.iter_modules(model)}
    active: set[int] = set()

    def wrapped(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(self))
            if path is None or id(self) in active:
                return original(self, *args, **kwargs)
            active.add(id(self))
            try:
                output = original(self, *args, **kwargs)
            finally:
                active.discard(id(self))
            if not _traced(output):
                calls.append(Call(path, self, args, kwargs, output))
            return output

        return call

    kinds = {type(m) for _, m in nnx.iter_modules(model) if callable(m)}
    own = {kind: vars(kind).get("__call__") for kind in kinds}
    replacements = {kind: wrapped(kind.__call__) for kind in kinds}
    try:
        for kind, replacement in replacements.items():
            kind.__call__ = replacement
        yield calls
    finally:
        for kind, original in own.items():
            if original is None:
                del kind.__call__
            else:
                kind.__call__ = original


@contextlib.contextmanager
def linen_calls() -> Iterator[list[Call]]:
    """The calls of all Linen modules while the block runs."""
    calls: list[Call] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and not _traced(output):
            path = ".".join(context.module.path)
            calls.append(Call(path, context.module, args, kwargs, output))
        return output

    with linen.intercept_methods(record):
        yield calls


class _Copies:
    """Copies of tensors as they are now; one that has not changed since is not copied again."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Any, int, Tensor]] = {}

    def of(self, value: Any) -> Any:
        """The same structure with a copy in place of every tensor."""
        if isinstance(value, Tensor):
            return value if value.is_inference() else self._copy(value)
        if isinstance(value, Mapping):
            return {key: self.of(item) for key, item in value.items()}
        if hasattr(value, "_asdict"):
            return type(value)(*map(self.of, value))
        return type(value)(map(self.of, value)) if isinstance(value, tuple | list) else value

    def _copy(self, tensor: Tensor) -> Tensor:
        known = self.kept.get(id(tensor))
        if known is None or known[0]() is not tensor or known[1] != tensor._version:
            known = weakref.ref(tensor), tensor._version, tensor.clone()
            self.kept[id(tensor)] = known
        return known[2]


def _traced(output: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for _, leaf in named(output, ""))
