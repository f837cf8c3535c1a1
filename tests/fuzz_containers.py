"""Damaged tensor files by the thousand: each is refused with `BrokenFile`, or read as by others.

`python -m tests.fuzz_containers --inputs 50000` runs long; `test_containers_fuzz.py` runs briefly.
"""

import contextlib
import io
import pickle
import random
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import safetensors.numpy
import torch

from parity import containers
from tests.damage import SECONDS, Failure, mutated
from tests.fuzzing import Read, fuzz
from tests.memory_limit import limited

STATE = {
    "block/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "block/bias": np.arange(4).astype(ml_dtypes.bfloat16),
    "block/half": np.linspace(-1, 1, 6, dtype=np.float16).reshape(1, 2, 3),
    "step": np.array(7, np.int64),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
}


def seeds() -> dict[str, bytes]:
    """Valid files of each kind, ours and others'."""
    found = {}
    infos = {name: containers.Info.of(a.dtype, a.shape) for name, a in STATE.items()}
    with tempfile.TemporaryDirectory() as folder:
        for kind in containers.KINDS:
            path = Path(folder) / kind
            containers.write(path, kind, infos, STATE.__getitem__)
            found[kind] = path.read_bytes()
    raw = {n: a.view("V2") if a.dtype == ml_dtypes.bfloat16 else a for n, a in STATE.items()}
    raw["block/kernel"] = np.asfortranarray(raw["block/kernel"])
    state = {n: torch.from_numpy(a) for n, a in raw.items() if a.dtype.kind != "V"}
    out = io.BytesIO()
    np.savez_compressed(out, **raw)
    found["npz, deflated"] = out.getvalue()
    found["safetensors, official"] = safetensors.numpy.save(STATE, {"format": "np"})
    tree = {"block": {"kernel": STATE["block/kernel"], "scale": np.float32(3)}, "lr": 0.5 + 1j}
    found["msgpack, Flax"] = flax.serialization.msgpack_serialize({**tree, "n": 3, "note": "x"})
    found["msgpack, chunked"] = _chunked()
    for name, zipped in (("torch, nested", True), ("torch, legacy", False)):
        out = io.BytesIO()
        torch.save({"model": state, "epoch": 3}, out, _use_new_zipfile_serialization=zipped)
        found[name] = out.getvalue()
    return found


def failure(path: Path) -> Failure | None:
    """What is wrong with how the file is read, if anything: None for a refusal or equal tensors."""
    begin = time.perf_counter()
    try:
        with limited(), containers.opened(path) as opened:
            kind, metadata = opened.kind, opened.metadata
            tensors = {name: opened.read(name) for name in opened.tensors}
            infos = dict(opened.tensors)
    except containers.BrokenFile as error:
        message = str(error)
        if not message.startswith(str(path)) or len(message) > 1000 or not message.isprintable():
            return "message", message[:2000]
        if "allocate memory" in message:  # torch's own error
            return "memory", message
        kind = None
    except BaseException as error:
        return type(error).__name__, str(error)[:500]
    if (seconds := time.perf_counter() - begin) > SECONDS:
        return "slow", f"{seconds:.2f} s"
    if kind is None:
        return None
    for name, array in tensors.items():
        if containers.Info.of(array.dtype, array.shape) != infos[name] or array.flags.writeable:
            return "info", f"{name}: {infos[name]} and {array.dtype} {array.shape}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = READERS[kind](path, metadata)
    except Exception as error:
        return f"{kind} only by us", f"{type(error).__name__}: {str(error)[:500]}"
    return _difference(kind, tensors, expected)


def _difference(kind: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Failure | None:
    if ours.keys() != theirs.keys():
        return f"{kind} names", str(sorted(ours.keys() ^ theirs.keys()))[:500]
    for name, array in ours.items():
        other = theirs[name]
        if array.dtype != other.dtype or array.shape != other.shape:
            return f"{kind} info", f"{name}: {array.dtype} {array.shape}, {other.dtype}"
        if array.tobytes() != other.tobytes():
            return f"{kind} values", name
    return None


def _npz(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    others = metadata.get("not_tensors", "").split(", ")
    with np.load(path, allow_pickle=False) as loaded:
        found = {name: loaded[name] for name in loaded.files if name not in others}
    return {
        name: a.view(ml_dtypes.bfloat16) if a.dtype.kind == "V" else a.astype(a.dtype.name)
        for name, a in found.items()
    }


def _msgpack(path: Path, _: dict[str, str]) -> dict[str, Any]:
    def leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict | list):
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                yield from leaves(value, (*path, str(key)))
        elif not isinstance(node, str | bytes | None):
            yield "/".join(path), np.asarray(node)

    return dict(leaves(flax.serialization.msgpack_restore(path.read_bytes()), ()))


class _Other(dict):
    """Whatever is not PyTorch's: it keeps the items that a dict would have."""

    def __new__(cls, *_: Any) -> "_Other":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Finds what PyTorch makes tensors of, and no other class."""

    def find_class(self, module: str, name: str) -> Any:
        known = module in ("torch", "torch._utils", "torch.storage")
        if known or (module, name) == ("collections", "OrderedDict"):
            return super().find_class(module, name)
        return _Other


def _torch(path: Path, _: dict[str, str]) -> dict[str, Any]:
    def leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, (*path, str(key)))
            elif isinstance(value, torch.Tensor):
                value = value.detach()
                bits = value.dtype == torch.bfloat16
                array = (value.contiguous().view(torch.int16) if bits else value).numpy()
                yield ".".join((*path, str(key))), array.view(ml_dtypes.bfloat16) if bits else array

    module: Any = types.ModuleType("restricted")
    module.Unpickler, module.load = _Unpickler, _load_pickle
    loaded = torch.load(path, weights_only=False, pickle_module=module, map_location="cpu")
    return dict(leaves(loaded, ()))


def _load_pickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


READERS: dict[str, Callable[[Path, dict[str, str]], dict[str, Any]]] = {
    "safetensors": lambda path, _: safetensors.numpy.load_file(path),
    "npz": _npz,
    "msgpack": _msgpack,
    "torch": _torch,
}


def _chunked() -> bytes:
    serialization, most = flax.serialization, flax.serialization.MAX_CHUNK_SIZE
    serialization.MAX_CHUNK_SIZE = 16
    try:
        return serialization.msgpack_serialize({"kernel": STATE["block/kernel"]})
    finally:
        serialization.MAX_CHUNK_SIZE = most


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Read]:
    """Damages and reads the files in turn."""
    files, path = list(seeds().items()), folder / "input.bin"

    def read(number: int, seed: str) -> tuple[str, Failure | None, Path]:
        name, data = files[number % len(files)]
        path.write_bytes(mutated(data, random.Random(seed)))
        return name, failure(path), path

    yield read


if __name__ == "__main__":
    sys.exit(fuzz(__doc__, 50_000, reading))
