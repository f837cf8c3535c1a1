"""Damaged directories of Orbax: refused by `parity.inspect` and `parity.convert`, or read.

TensorStore is native code, so a process of its own reads them, and its end is a failure, too.
`python -m tests.fuzz_orbax --inputs 10000` runs long; `test_orbax_damage.py` briefly.
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

import parity
from parity import orbax
from parity.containers.info import Info
from parity.inputs import random_state
from parity.orbax.metadata import FILE, zarray
from tests.damage import Failure, damaged, failure, mutated
from tests.fuzzing import Read, fuzz
from vit_spec import Header, ViTConfig, checkpoint
from vit_spec.run_step import sealed

CONFIG = ViTConfig(
    image_size=32, patch_size=16, width=64, depth=1, num_heads=1, mlp_width=128, num_classes=3
)
WAIT = 20.0  # seconds until a process hangs
MAGIC = (b"\x0c\xdb\x3a\x2a", b"\x0c\xdb\x20\xde", b"\x0c\xdb\x12\x34")  # of OCDBT's files
HUGE = 1 << 40
JSON = ("_METADATA", "_CHECKPOINT_METADATA", ".zarray", "metadata")
TREES: dict[str, dict[str, Any]] = {
    "tree": {"max_decoded_node_bytes": 100_000_000, "max_inline_value_bytes": 1024},
    "open tree": {"compression": None, "max_decoded_node_bytes": 1000},  # several levels
}


def seeds(folder: Path) -> dict[str, Path]:
    """A step with files, one with packed files, and two with trees of OCDBT."""
    state = {n: a.astype(np.float32) for n, a in random_state(CONFIG, 0).items()}
    infos = {name: Info.of(a.dtype, a.shape) for name, a in state.items()}
    found = {"files": folder / "files"}
    orbax.write(found["files"], Header(config=CONFIG, labels=("x", "y", "z")), infos, state.get)
    for name, config in {"packed": None, **TREES}.items():
        found[name] = folder / name
        shutil.copytree(found["files"], found[name])
        _restored(found["files"] / "state", found[name] / "state", config)
    return found


def _restored(source: Path, target: Path, config: dict[str, Any] | None) -> None:
    """Stores the arrays of a step in another way."""
    base: dict[str, Any] = {"driver": "file", "path": f"{target}/"}
    tree = {"driver": "ocdbt", "base": base, "config": config}
    for array in sorted(source.glob("params.*")):
        shutil.rmtree(target / array.name)
        said = json.loads((array / ".zarray").read_text())
        values = np.fromfile(next(array.glob("0*")), said["dtype"]).reshape(said["shape"])
        store = {**(base if config is None else tree)}
        store["path"] = f"{store.get('path', '')}{array.name}/"
        metadata = zarray("float32", values.shape, packed=True)
        spec = {"driver": "zarr", "kvstore": store, "metadata": metadata}
        ts.open(spec, create=True).result().write(values).result()
    if config is not None:
        file = target / FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | {"use_ocdbt": True}))


def files_of(step: Path) -> list[Path]:
    """The files of a step that are damaged: one of each kind, and a few arrays."""
    named = {"pos_embed", "head.kernel", "blocks.0.norm1.bias"}
    return [
        file for file in sorted(step.rglob("*")) if file.is_file() and (
            not file.parent.name.startswith("params.")
            or file.parent.name.removeprefix("params.") in named
        )
    ]  # fmt: skip


def damage(file: Path, choose: random.Random) -> None:
    """Damages a file: its JSON, its bytes, or that it is a file and of which size."""
    data, way = file.read_bytes(), choose.random()
    if way < 0.06 and file.name != "metadata":  # without it there is no step
        file.unlink()
        if way < 0.01:
            file.mkdir()
        elif way < 0.02:
            os.mkfifo(file)
        elif way < 0.03:
            file.symlink_to("/dev/zero")
    elif way < 0.1:
        os.truncate(file, choose.choice((0, len(data) // 2, len(data) + 1, HUGE)))
    elif file.name in JSON:
        file.write_bytes(_resealed(damaged(data, choose)) if way < 0.8 else damaged(data, choose))
    else:
        data = mutated(data, choose)
        file.write_bytes(repaired(data) if way < 0.8 else data)


def _resealed(text: bytes) -> bytes:
    """The item `run` with the digest of what it is now."""
    try:
        return json.dumps(sealed(json.loads(text)["body"])).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return text


def repaired(data: bytes) -> bytes:
    """The bytes with lengths and checksums of OCDBT that fit again."""
    out = bytearray(data)
    if data[:4] == MAGIC[0]:
        out[4:12] = len(out).to_bytes(8, "little")
    for magic in MAGIC:
        at = data.find(magic)
        while at >= 0:
            end = at + int.from_bytes(out[at + 4 : at + 12], "little")
            if at + 16 <= end <= len(out):
                out[end - 4 : end] = crc32c(bytes(out[at : end - 4])).to_bytes(4, "little")
            at = data.find(magic, at + 1)
    return bytes(out)


def crc32c(data: bytes) -> int:
    """The checksum of OCDBT (Castagnoli, RFC 3720, B.4)."""
    found = 0xFFFFFFFF
    for byte in data:
        found = _TABLE[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


def _entry(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    return number


_TABLE = [_entry(number) for number in range(256)]


def _serve(folder: Path, end: Connection) -> None:
    """Reads damaged steps in this process: for each (name, file, seed) a failure or None."""
    whole, steps = {}, {path.name: path for path in (folder / "seeds").iterdir()}
    for name, step in steps.items():
        parity.inspect(step)
        (back := folder / "whole.safetensors").unlink(missing_ok=True)
        parity.convert(step, back, certificate=False)
        whole[name] = checkpoint.read_tensors(back)
    end.send(None)
    while (asked := end.recv()) is not None:
        name, file, seed = asked
        step = folder / "input"
        shutil.rmtree(step, ignore_errors=True)
        shutil.copytree(steps[name], step)
        damage(step / file, random.Random(seed))
        end.send(failure(step, whole[name]))


class Reader:
    """Steps and the process that reads them damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "seeds").mkdir()
        steps = seeds(folder / "seeds")
        self.files = [(name, f.relative_to(p)) for name, p in steps.items() for f in files_of(p)]
        self._start()

    def failure(self, name: str, file: Path, seed: str) -> Failure | None:
        """What is wrong with how a damaged step is read, if anything."""
        try:
            self._end.send((name, file, seed))
            if self._end.poll(WAIT):
                return self._end.recv()
        except (EOFError, ConnectionError):  # it has ended, before it was asked or while it reads
            self.process.join()
        found = self.process.exitcode
        self.close()
        self._start()
        return ("hang", f"{WAIT:.0f} s") if found is None else ("crash", f"exit code {found}")

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self._end.close()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._end, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(self._folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._end.recv()


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Read]:
    """Damages and reads the steps in turn."""
    reader = Reader(folder)

    def read(number: int, seed: str) -> tuple[str, Failure | None, Path]:
        name, file = reader.files[number % len(reader.files)]
        return f"{name} {file.name}", reader.failure(name, file, seed), folder / "input"

    yield read
    reader.close()


if __name__ == "__main__":
    sys.exit(fuzz(__doc__, 10_000, reading))
