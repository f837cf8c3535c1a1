"""Damaged JSON beside good weights: `parity.inspect` and `parity.convert` refuse it, or it is read.

`python -m tests.fuzz_json --inputs 20000` runs long; `test_formats_json.py` runs briefly.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import parity
from parity import containers
from parity.inputs import random_state
from tests.damage import Failure, damaged, failure
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


def main() -> int:
    """Runs the given number of inputs, prints the figures; 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=480, help="stop after this time")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that fail")
    options = parser.parse_args()
    counts, shown, begin = Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for i in range(options.inputs):
            if time.monotonic() - begin > options.seconds:
                break
            name, file = run.files[i % len(run.files)]
            found = run.failure(name, file, random.Random(f"{options.seed} {i}"))
            counts["inputs"] += 1
            if found is None:
                continue
            counts["failures"] += 1
            counts[f"{name} {file.name}: {found[0]}"] += 1
            if options.keep:
                choose = random.Random(f"{options.seed} {i}")
                options.keep.mkdir(parents=True, exist_ok=True)
                kept = options.keep / f"{options.seed}-{i}-{name}-{file.name}"
                kept.write_bytes(damaged(file.read_bytes(), choose))
            if shown < 20:
                shown += 1
                print(f"{options.seed} {i} {name}: {found[0]}: {found[1]}", file=sys.stderr)
    print(f"{time.monotonic() - begin:.0f} s", dict(counts))
    return 1 if counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
