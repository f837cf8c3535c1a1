"""Empty objects in place of the classes and functions that a pickle names and PyTorch lacks.

Nothing of a class but its name is used: it is neither imported nor called, and its arguments are
dropped. A subclass of `dict` keeps its items and one of `list` its elements, for tensors may be
among them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any


class StandIn:
    """An object of a class that is unknown; `class_name` says of which."""

    class_name = ""

    def __new__(cls, *arguments: Any) -> Any:
        """Takes whatever the class takes, and drops it."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Dict(StandIn):
    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()  # of all dicts the one that `weights_only` lets have attributes


class _List(StandIn):
    def __new__(cls, *arguments: Any) -> Any:
        return []


_KINDS: dict[str, type[StandIn]] = {"object": StandIn, "dict": _Dict, "list": _List}


def stand_ins(unknown: Mapping[str, str]) -> list[tuple[Any, str]]:
    """What `torch.serialization.safe_globals` takes, for the unknown names of `Rehearsal`."""
    return [
        (type("StandIn", (_KINDS[kind],), {"class_name": name}), name)
        for name, kind in unknown.items()
    ]
