"""Reads a pickle with nothing in it, to see what it would call before PyTorch calls it.

`weights_only` allows some classes of Python whose work has no bound: `bytearray(2 * 10**9)`, or a
`Counter` of a tensor that repeats one number. Here each call makes an empty object.
"""

import pickle
from io import BytesIO
from typing import Any

PLAIN = {  # what is called with plain containers at most, which are as long as the pickle
    "argparse.Namespace": (),
    "collections.OrderedDict": (),
    "collections.Counter": (dict,),
    "torch.Size": (tuple, list),
    "torch.device": (str, int),
    "builtins.set": (list,),
}
REBUILD = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.serialization._get_layout")


class UnboundedError(Exception):
    """A pickle calls something that weights do not need; its name."""


class _Empty:
    """Stands for whatever a pickle makes."""

    name = ""

    def __new__(cls, *arguments: Any) -> "_Empty":
        kinds = PLAIN.get(cls.name)
        plain = kinds is not None and all(type(a) in kinds for a in arguments)
        if cls.name and not plain and not cls.name.startswith(REBUILD):
            raise UnboundedError(cls.name)
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """As a list has it."""

    def add(self, value: Any) -> None:
        """As a set has it."""


class Rehearsal(pickle._Unpickler):  # type: ignore[attr-defined] # pyright: ignore
    """Finds no class and opens no storage. `load` raises `UnboundedError`.

    It is the one written in Python: that in C makes room for as many notes as a number says.
    """

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")

    def find_class(self, module: str, name: str, /) -> Any:
        """An empty class of that name."""
        module = {"__builtin__": "builtins"}.get(module, module)
        return type("_Named", (_Empty,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any, /) -> Any:
        """A storage."""
        return _Empty()
