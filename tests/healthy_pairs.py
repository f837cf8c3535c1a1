"""Healthy pairs of realistic sizes, none of which may fail a check below float64.

`python -m tests.healthy_pairs --out pairs.jsonl` writes a line for every check as it goes, goes on
where it was stopped, and prints the figures of docs/numerics.md at the end. Every seed has its own
weights and inputs; each shape serves several seeds, because compiling takes longer than computing.
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

import vit_spec
from parity.check import check_pair
from parity.pair import make_pair
from parity.precision import exact
from vit_spec import ViTConfig

EACH_EXTREME, EACH_DRAWN = 2, 8  # seeds that a shape serves
MOST = 1.5e10  # floating-point operations of a drawn shape, forwards and backwards
FAMILIES = (
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_base_patch16_clip_quickgelu_224",
)
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768)
PATCHES = (4, 7, 8, 14, 16, 32)
LARGEST_IMAGE = 448


@dataclass(frozen=True)
class Shape:
    """What is compiled once."""

    family: str
    width: int
    depth: int
    grid: int  # patches a side
    patch: int
    batch: int
    classes: int = 10

    @property
    def config(self) -> ViTConfig:
        """The family's model in this size."""
        return vit_spec.get(
            self.family,
            width=self.width,
            depth=self.depth,
            num_heads=self.width // (64 if self.width % 64 == 0 else 32),
            mlp_width=4 * self.width,
            image_size=self.grid * self.patch,
            patch_size=self.patch,
            num_classes=self.classes,
        )

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.grid**2 + self.config.num_prefix_tokens

    @property
    def operations(self) -> float:
        """Of the matrix products of a block's 12 width^2 weights, forwards and backwards."""
        return 72.0 * self.depth * self.width**2 * self.tokens * self.batch


EXTREMES = (
    Shape("vit_tiny_patch16_224", 192, 12, 24, 16, 3, 1000),  # Ti/16@384
    Shape("vit_tiny_patch16_224", 64, 1, 28, 8, 8),  # most rows, narrowest
    Shape("vit_tiny_patch16_224", 768, 1, 28, 8, 8),  # most rows, widest
    Shape("vit_tiny_patch16_224", 64, 1, 7, 32, 2),  # fewest rows
    Shape("vit_tiny_patch16_224", 384, 12, 14, 16, 2, 1000),  # S/16
    Shape("vit_base_patch16_siglip_gap_224", 64, 2, 28, 16, 8),  # no class token
    Shape("vit_tiny_patch16_224", 768, 12, 7, 32, 2, 1000),  # B/32
    Shape("vit_small_patch14_reg4_dinov2", 96, 12, 16, 14, 8),  # deep, many rows
)


def shape(seed: int) -> Shape:
    """One of the extremes; then every width in turn, the rest drawn evenly on a log scale."""
    number = (seed - EACH_EXTREME * len(EXTREMES)) // EACH_DRAWN
    if number < 0:
        return EXTREMES[seed // EACH_EXTREME]
    rng = np.random.default_rng((number, 4))

    def between(low: int, high: int) -> int:
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))

    while True:
        found = Shape(
            family=str(rng.choice(FAMILIES)),
            width=WIDTHS[number % len(WIDTHS)],
            depth=between(1, 12),
            grid=between(7, 28),
            patch=int(rng.choice(PATCHES)),
            batch=between(2, 8),
            classes=between(2, 1000),
        )
        if found.grid * found.patch <= LARGEST_IMAGE and found.operations <= MOST:
            return found


def plan(seeds: int) -> Iterator[tuple[int, str, str]]:
    """Seed, dtype and level of every check. In half precision nothing is trained; float16, and
    training in float32 where it is cheap, have the first seed of every third shape."""
    shapes = list(dict.fromkeys(shape(seed) for seed in range(seeds)))
    extremes = range(min(seeds, EACH_EXTREME * len(EXTREMES)))
    for seed in (*range(len(extremes), seeds), *extremes):  # what takes longest last
        new = seed == 0 or shape(seed) != shape(seed - 1)
        more = new and shapes.index(shape(seed)) % 3 == 0
        yield seed, "bfloat16", "gradients"
        trained = more and shape(seed).operations <= MOST
        yield seed, "float32", "training" if trained else "gradients"
        if more:
            yield seed, "float16", "gradients"


def measured(seed: int, dtype: str, level: str) -> dict[str, Any]:
    """One check."""
    size, begin = shape(seed), time.monotonic()
    with exact():
        pair = make_pair(size.config, batch_size=size.batch, seed=seed)
        report = check_pair(pair, level=level, dtypes=(dtype,), steps=5, explain=False)
    worst = {name: gap for name in report.levels[1:] if (gap := report.worst(name))}
    return {
        "seed": seed,
        "dtype": dtype,
        "passed": report.passed,
        **vars(size),
        "tokens": size.tokens,
        "of bound": {name: round(gap.gap / gap.bound, 3) for name, gap in worst.items()},
        "nearest": {name: f"{gap.name}: {gap.note}" for name, gap in worst.items()},
        "notes": report.notes,
        "failed": [f"{g.level} {g.name}: {g.gap:.1e} > {g.bound:.1e}" for g in report.failures],
        "seconds": round(time.monotonic() - begin, 1),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """The largest gap of each dtype and level as a part of its bound, and what failed."""
    most: dict[str, dict[str, float]] = {}
    for line in lines:
        row = most.setdefault(line["dtype"], {})
        for level, part in line["of bound"].items():
            row[level] = max(part, row.get(level, 0.0))
    pairs = Counter(line["dtype"] for line in lines)
    shown = [f"{dtype} ({pairs[dtype]} pairs): {row}" for dtype, row in most.items()]
    failed = [line for line in lines if not line["passed"]]
    shown += [
        f"FALSE ALARM seed {line['seed']} {line['dtype']}: {line['failed']}" for line in failed
    ]
    seeds = {line["seed"] for line in lines}
    return "\n".join([*shown, f"{len(seeds)} seeds, {len(failed)} false alarms"])


def main() -> int:
    """Runs what is not in the file yet; 1 if a pair failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--seeds", type=int, default=200)
    options = parser.parse_args()
    known = options.out.read_text("utf-8").splitlines() if options.out.exists() else []
    lines = [json.loads(line) for line in known]
    done = {(line["seed"], line["dtype"]) for line in lines}
    torch.set_num_threads(1)  # one accumulator for all rows: where its sums are worst
    compiled = None
    with options.out.open("a", encoding="utf-8") as file:
        for seed, dtype, level in plan(options.seeds):
            if (seed, dtype) in done:
                continue
            if compiled != (compiled := shape(seed)):
                jax.clear_caches()
            lines.append(measured(seed, dtype, level))
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
    print(table(lines))
    return int(any(not line["passed"] for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
