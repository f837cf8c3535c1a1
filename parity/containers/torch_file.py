"""PyTorch's pickles, only through `torch.load(weights_only=True)`; zip archives are mapped."""

import argparse
import contextlib
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.containers.container import Container, left_out
from parity.containers.files import File, broken, frozen
from parity.containers.info import DTYPES, MOST_TENSORS, Info
from parity.containers.pickles import AGAIN, PLAIN, check_legacy, check_pickle, unsafe
from parity.containers.zip_directory import STORED, Member, members
from vit_spec.strict_json import shown

if TYPE_CHECKING:
    import torch

ENTRIES = ("model", "state_dict", "teacher")
DEPTH = 16
HARMLESS = [argparse.Namespace]
"""Settings beside the weights of DeiT, DINO and MAE: a class of plain attributes, without code."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch starts with


class TorchFile(Container):
    """A `.pth`, `.pt` or `.bin` file. Raises `BrokenFile`, `ModuleNotFoundError` without torch."""

    kind = "torch"

    def __init__(self, file: File) -> None:
        super().__init__(file.path)
        self._file, self._checked = file, False
        self._members = members(file) if file.read(0, 2) == b"PK" else None
        _check_members(file, self._members or [])
        if self._members is None:
            check_legacy(file)
        loaded = _load(file, mapped=self._members is not None)
        entry, content = _entry(loaded)
        self._values: dict[str, torch.Tensor] = {}
        others: list[str] = [f"{k}" for k in loaded if k != entry] if entry else []
        for name, leaf in _leaves(file.path, content, (), set(), count()):
            if leaf is None:
                others.append(name)
                continue
            if name in self._values:
                raise file.broken(f"two tensors are named {shown(name)}", "rename one")
            self._values[name] = leaf
            self.tensors[name] = _info(file, name, leaf)
        self.metadata = {"entry": entry} | left_out(others)

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


def _check_members(file: File, found: list[Member]) -> None:
    """Raises `BrokenFile` for a program, and for damage outside of the tensors."""
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
            check_pickle(file, member.offset, member.size)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a pickle of PyTorch, which only PyTorch reads safely: pip install torch, "
            "or convert the file to safetensors where it is installed"
        ) from error
    return torch


def _load(file: File, *, mapped: bool) -> dict[Any, Any]:
    """What the file holds. Raises `BrokenFile` for anything that `weights_only` refuses."""
    torch = _torch(file.path)
    harmless = torch.serialization.safe_globals(HARMLESS)
    with _named(file.path) as path, warnings.catch_warnings(), harmless:
        warnings.simplefilter("ignore")
        try:
            loaded = torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
                r"whose module (\S+) is blocked", str(error)
            )
            if found is None:
                raise file.broken(f"its pickle is damaged ({_line(error)})", AGAIN) from error
            raise unsafe(file, found[1]) from error
        except MemoryError:
            raise
        except Exception as error:  # torch raises any kind for damaged files
            raise file.broken(f"torch.load refuses it ({_line(error)})", AGAIN) from error
    if not isinstance(loaded, dict):
        raise file.broken(f"it holds {type(loaded).__name__}, not a dict of tensors", PLAIN)
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


def _entry(loaded: dict[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """The state dict inside a training checkpoint, and its key; else all, and ''."""
    import torch

    if not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        for entry in ENTRIES:
            if isinstance(loaded.get(entry), dict):
                return entry, loaded[entry]
    return "", loaded


def _leaves(
    path: Path,
    node: dict[Any, Any],
    prefix: tuple[str, ...],
    above: set[int],
    counted: Iterator[int],
) -> Iterator[tuple[str, Any]]:
    """Tensors of nested dicts by dotted names; `None` for other values."""
    import torch

    if len(prefix) > DEPTH or id(node) in above:
        raise broken(path, f"its dicts are nested deeper than {DEPTH}", PLAIN)
    for key, value in node.items():
        if next(counted) >= MOST_TENSORS:  # one dict may be in others many times
            raise broken(path, f"its dicts have more than {MOST_TENSORS} entries", PLAIN)
        if not isinstance(key, str | int):
            raise broken(path, f"a dict has the key {shown(key)}, not a text", PLAIN)
        name = (*prefix, str(key))
        if isinstance(value, dict):
            yield from _leaves(path, value, name, above | {id(node)}, counted)
        else:
            yield ".".join(name), value if isinstance(value, torch.Tensor) else None


def _info(file: File, name: str, tensor: Any) -> Info:
    """Raises `BrokenFile` for what is no plain tensor, or larger than the file."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if (
        str(tensor.layout) != "torch.strided" or tensor.is_nested or tensor.device.type != "cpu"
        or tensor.is_quantized or dtype not in DTYPES
    ):  # fmt: skip
        layout = "nested" if tensor.is_nested else tensor.layout
        what = f"{layout} {dtype} on {tensor.device}"
        raise file.broken(f"{shown(name)} is {what}, not a plain tensor", PLAIN)
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
