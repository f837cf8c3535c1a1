"""Reads a pickle with nothing in it, to see what it would call before PyTorch calls it.

`weights_only` allows some classes of Python whose work has no bound: `bytearray(2 * 10**9)`, or a
`Counter` of a tensor that repeats one number. Here each call makes an empty object. Classes that
PyTorch does not know, such as NumPy's numbers, paths and settings of a training script, are noted:
`parity.containers.stand_ins` puts empty objects in their place.
"""

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from io import BytesIO
from typing import Any

PLAIN = {  # what is called with plain containers at most, which are as long as the pickle
    "argparse.Namespace": (),
    "collections.OrderedDict": (),
    "collections.Counter": (dict,),
    "torch.Size": (tuple, list),
    "torch.device": (str, int),
    "builtins.set": (list,),
    "builtins.complex": (int, float),
}
REBUILD = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.serialization._get_layout")
PYTORCHS = {  # modules whose names PyTorch itself allows or refuses
    "torch", "torch._tensor", "torch._utils", "torch.cuda", "torch.cuda.sparse",
    "torch.nn.parameter", "torch.serialization", "torch.sparse", "torch.storage",
}  # fmt: skip
ENCODE, BYTES = "_codecs.encode", "builtins.bytearray"  # how bytes are written: as a text
OWN = {*PLAIN, ENCODE, BYTES}
DANGEROUS = {  # modules and names of Python that no weights need, and attacks do
    "_posixsubprocess", "asyncio", "bdb", "code", "codeop", "commands", "ctypes", "imp",
    "importlib", "marshal", "multiprocessing", "nt", "os", "pdb", "pickle", "_pickle", "pip",
    "platform", "posix", "profile", "pty", "runpy", "shutil", "signal", "socket", "subprocess",
    "sys", "tempfile", "threading", "timeit", "trace", "urllib", "webbrowser",
    "builtins.__import__", "builtins.breakpoint", "builtins.compile", "builtins.delattr",
    "builtins.eval", "builtins.exec", "builtins.execfile", "builtins.input", "builtins.open",
    "builtins.setattr", "builtins.globals", "builtins.locals", "builtins.vars", "io.open",
}  # fmt: skip
MODULES = ("torch.nn.modules.", "torch.jit.", "torch.fx.", "torch.nn.parallel.")
MOST_UNKNOWN = 64
LATIN1 = ("latin1", "latin-1")


class UnboundedError(Exception):
    """A pickle calls something that weights do not need; its name."""


class WholeModuleError(Exception):
    """A pickle holds a whole module, not only its tensors; the module's class."""


class _Empty:
    """Stands for whatever a pickle makes."""

    name = ""
    unknown: dict[str, str] | None = None  # of the rehearsal, where PyTorch does not know the name

    def __new__(cls, *arguments: Any) -> "_Empty":
        if cls.name and cls.unknown is None and not _bounded(cls.name, arguments):
            raise UnboundedError(cls.name)
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None:
        self._is("dict")

    def append(self, value: Any) -> None:
        """As a list has it."""
        self._is("list")

    def add(self, value: Any) -> None:
        """As a set has it."""

    def _is(self, kind: str) -> None:
        if self.unknown is not None:
            self.unknown[self.name] = kind


class Rehearsal(pickle._Unpickler):  # type: ignore[attr-defined] # pyright: ignore
    """Finds no class and opens no storage. `load` raises `UnboundedError`, `WholeModuleError`.

    It is the one written in Python: that in C makes room for as many notes as a number says.
    """

    def __init__(self, stream: BytesIO, unknown: dict[str, str]) -> None:
        """`unknown` is filled: name of a class or function -> `list`, `dict` or `object`."""
        super().__init__(stream, encoding="utf-8")
        self._unknown = unknown

    def find_class(self, module: str, name: str, /) -> Any:
        """An empty class of that name."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full.startswith(MODULES):
            raise WholeModuleError(full)
        attributes: dict[str, Any] = {"name": full}
        if not is_pytorchs(full):
            if full in DANGEROUS or module.partition(".")[0] in DANGEROUS:
                raise UnboundedError(full)
            if len(self._unknown) >= MOST_UNKNOWN and full not in self._unknown:
                raise UnboundedError(full)
            self._unknown.setdefault(full, "object")
            attributes["unknown"] = self._unknown
        return type("_Named", (_Empty,), attributes)

    def persistent_load(self, pid: Any, /) -> Any:
        """A storage."""
        return _Empty()


def is_pytorchs(name: str) -> bool:
    """Whether PyTorch decides about a name itself: it may call what has it."""
    return name in OWN or name.startswith(REBUILD) or name.rpartition(".")[0] in PYTORCHS


def _bounded(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a call is of a tensor, or takes no more work than the pickle is long."""
    if name == ENCODE:
        return [type(a) for a in arguments] == [str, str] and arguments[1] in LATIN1
    if name == BYTES:
        return len(arguments) < 2 and all(getattr(a, "name", "") == ENCODE for a in arguments)
    kinds = PLAIN.get(name)
    plain = kinds is not None and all(type(a) in kinds for a in arguments)
    return plain or name.startswith(REBUILD)
