"""Damaged JSON beside good weights: `parity.inspect` and `parity.convert` refuse it, or it is read.

`python -m tests.fuzz_json --inputs 20000` runs long; `test_formats_json.py` runs briefly.
"""

import contextlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import parity
from parity import containers
from parity.inputs import random_state
from tests.damage import Failure, damaged, failure
from tests.fuzzing import Read, fuzz
from tests.parity.test_formats_refusals import NATIVE
from vit_spec import Header, ViTConfig, checkpoint

PLAIN = ViTConfig(
    image_size=32, patch_size=16, width=64, depth=1, num_heads=1, mlp_width=128, num_classes=3
)
SAYING = (  # formats with JSON beside the weights
    "timm", "hf_vit", "hf_deit", "hf_dinov2", "hf_dinov2_with_registers", "hf_clip", "hf_siglip",
    "hf_vitmae", "hf_flax_vit", "open_clip",
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {"vitwin": {}} | {name: NATIVE[name] for name in SAYING}
"""Format: a model that it holds, as changes of `PLAIN`."""


def seeds(folder: Path) -> dict[str, Path]:
    """A directory of every format that has JSON beside its weights; one in shards."""
    found = {}
    for format, changes in MODELS.items():
        config, ours = PLAIN.replace(**changes), folder / f"{format} ours"
        state = {n: a.astype(np.float32) for n, a in random_state(config, 0).items()}
        labels = ("x", "y", "z")[: config.num_classes] or None
        checkpoint.write(ours, Header(config=config, labels=labels), state)
        found[format] = parity.convert(ours, folder / format, target=format, certificate=False)
    shards = folder / "shards"
    shards.mkdir()
    (shards / "a.safetensors").write_bytes((found["timm"] / "model.safetensors").read_bytes())
    (shards / "config.json").write_bytes((found["timm"] / "config.json").read_bytes())
    with containers.opened(shards / "a.safetensors") as opened:
        places = dict.fromkeys(opened.tensors, "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    return found | {"shards": shards}


class Run:
    """A folder with all seeds, of which one file at a time is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folders = seeds(folder)
        self.whole = {}
        for name, path in self.folders.items():
            (folder / "back.safetensors").unlink(missing_ok=True)
            back = parity.convert(path, folder / "back.safetensors", certificate=False)
            self.whole[name] = checkpoint.read_tensors(back)
        self.files = [(n, f) for n, p in self.folders.items() for f in sorted(p.glob("*.json"))]

    def failure(self, name: str, file: Path, choose: random.Random) -> Failure | None:
        """What is wrong with how one damaged file is taken."""
        text = file.read_bytes()
        try:
            file.write_bytes(damaged(text, choose))
            return failure(self.folders[name], self.whole[name])
        finally:
            file.write_bytes(text)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Read]:
    """Damages and reads the files in turn."""
    run, kept = Run(folder), folder / "input"

    def read(number: int, seed: str) -> tuple[str, Failure | None, Path]:
        name, file = run.files[number % len(run.files)]
        if found := run.failure(name, file, random.Random(seed)):
            kept.write_bytes(damaged(file.read_bytes(), random.Random(seed)))
        return f"{name} {file.name}", found, kept

    yield read


if __name__ == "__main__":
    sys.exit(fuzz(__doc__, 20_000, reading))
