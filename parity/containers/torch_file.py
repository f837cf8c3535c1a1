"""PyTorch's pickles, only through `torch.load(weights_only=True)`; zip archives are mapped.

Every tensor of the file is found, by the dotted name of the dicts and lists that it is in.
"""

import argparse
import contextlib
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.containers.container import Container
from parity.containers.files import File, frozen
from parity.containers.info import DTYPES, Info
from parity.containers.pickles import (
    AGAIN,
    PLAIN,
    check_legacy,
    check_pickle,
    pasted,
    unsafe,
)
from parity.containers.stand_ins import StandIn, stand_ins
from parity.containers.torch_tree import leaves
from parity.containers.zip_directory import STORED, Member, members
from vit_spec.strict_json import shown

if TYPE_CHECKING:
    import torch

HARMLESS = [argparse.Namespace]
"""Settings beside the weights of DeiT, DINO and MAE: a class of plain attributes, without code."""
KNOWN = {f"{kind.__module__}.{kind.__qualname__}" for kind in HARMLESS}
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch starts with


class TorchFile(Container):
    """A `.pth`, `.pt` or `.bin` file. Raises `BrokenFile`, `ModuleNotFoundError` without torch."""

    kind = "torch"

    def __init__(self, file: File) -> None:
        super().__init__(file.path)
        self._file, self._checked = file, False
        self._members = members(file) if file.read(0, 2) == b"PK" else None
        unknown = _check_members(file, self._members or [])
        if self._members is None:
            unknown = check_legacy(file)
        loaded = _load(file, unknown, mapped=self._members is not None)
        self._values: dict[str, torch.Tensor] = {}
        odd: list[str] = []
        for leaf in leaves(file.path, loaded):
            if not isinstance(leaf.value, _torch(file.path).Tensor):
                self.beside[leaf.name] = leaf.value
                continue
            if leaf.name in self._values:
                raise file.broken(f"two tensors are named {shown(leaf.name)}", "rename one")
            if what := _unusual(leaf.value):
                odd.append(f"{shown(leaf.name)} is {what}, not a plain tensor")
                self.beside[leaf.name] = Unusual(what)
                continue
            self.tensors[leaf.name] = _info(file, leaf.name, leaf.value)
            self._values[leaf.name], self.entries[leaf.name] = leaf.value, leaf.entry
        if odd and not self.tensors:
            raise file.broken(odd[0], PLAIN)

    def _read(self, name: str) -> np.ndarray:
        if not self._checked:
            for member in self._members or ():
                what = f"the member {shown(member.name)}"
                self._file.check_crc(member.offset, member.size, member.crc, what)
            self._checked = True
        array = _array(self._values[name], DTYPES[self.tensors[name].dtype])
        self._file.check_values(array)
        return frozen(array)

    def _close(self) -> None:
        self._values = {}
        self._file.close()


@dataclass(frozen=True)
class Unusual:
    """A tensor that NumPy has no array for; `what` says which."""

    what: str


def _check_members(file: File, found: list[Member]) -> dict[str, str]:
    """The names in the pickle that PyTorch does not know.

    Raises `BrokenFile` for a program, and for damage outside of the tensors.
    """
    unknown: dict[str, str] = {}
    if any(member.name.endswith("/constants.pkl") for member in found):
        raise file.broken(
            "it is a TorchScript program, not only tensors",
            "torch.jit.load it where you trust it and torch.save its state_dict()",
        )
    for member in found:
        what = f"the member {shown(member.name)}"
        if member.method != STORED:
            raise file.broken(f"{what} is packed", AGAIN)
        if "/data/" not in member.name:
            file.check_crc(member.offset, member.size, member.crc, what)
        if member.name.endswith("/data.pkl"):
            unknown |= check_pickle(file, member.offset, member.size)
    return unknown


def _torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a pickle of PyTorch, which only PyTorch reads safely: pip install torch, "
            "or convert the file to safetensors where it is installed"
        ) from error
    return torch


def _load(file: File, unknown: Mapping[str, str], *, mapped: bool) -> Any:
    """What the file holds, with `StandIn`s for what has an unknown name.

    Raises `BrokenFile` for anything else that `weights_only` refuses.
    """
    torch = _torch(file.path)
    unknown = {name: kind for name, kind in unknown.items() if name not in KNOWN}
    harmless = torch.serialization.safe_globals([*HARMLESS, *stand_ins(unknown)])
    with _named(file.path) as path, warnings.catch_warnings(), harmless:
        warnings.simplefilter("ignore")
        try:
            loaded = torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
                r"whose module (\S+) is blocked", str(error)
            )
            if found is None and unknown:
                names = ", ".join(unknown)
                raise file.broken(
                    f"its {shown(names[:200])} are not plain values ({_line(error)})", pasted(file)
                ) from error
            if found is None:
                raise file.broken(f"its pickle is damaged ({_line(error)})", AGAIN) from error
            raise unsafe(file, found[1]) from error
        except MemoryError:
            raise
        except Exception as error:  # torch raises any kind for damaged files
            raise file.broken(f"torch.load refuses it ({_line(error)})", AGAIN) from error
    if not isinstance(loaded, dict) and not (
        isinstance(loaded, list | tuple) and any(isinstance(part, dict) for part in loaded)
    ):
        kind = loaded.class_name if isinstance(loaded, StandIn) else type(loaded).__name__
        raise file.broken(f"it holds {shown(kind)[1:-1]}, not a dict of tensors", PLAIN)
    return loaded


@contextlib.contextmanager
def _named(path: Path) -> Iterator[str]:
    """A name that torch does not take for safetensors."""
    if path.suffix != ".safetensors":
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "file.pth"
        link.symlink_to(path.resolve())
        yield str(link)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:120]}" if lines else type(error).__name__


def _unusual(tensor: Any) -> str:
    """What a tensor is that NumPy has no array for; nothing for a plain one."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if (
        str(tensor.layout) != "torch.strided" or tensor.is_nested or tensor.device.type != "cpu"
        or tensor.is_quantized or dtype not in DTYPES
    ):  # fmt: skip
        layout = "nested" if tensor.is_nested else tensor.layout
        return f"{layout} {dtype} on {tensor.device}"
    return ""


def _info(file: File, name: str, tensor: Any) -> Info:
    """Raises `BrokenFile` for a tensor that is larger than the file."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        info = Info.of(dtype, tuple(tensor.shape))
    except ValueError as error:
        raise file.broken(f"{shown(name)}: {error}", PLAIN) from error
    if info.nbytes > file.size:
        raise file.broken(
            f"{shown(name)} is {dtype} {info.shape}, more than the {file.size} bytes of the file",
            AGAIN,
        )
    return info


def _array(tensor: Any, dtype: np.dtype) -> np.ndarray:
    """The same values for NumPy, in the same memory if they are contiguous."""
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if dtype.isbuiltin == 1:
        return tensor.numpy()
    bits = torch.uint8 if dtype.itemsize == 1 else torch.int16
    return tensor.view(bits).numpy().view(dtype)
