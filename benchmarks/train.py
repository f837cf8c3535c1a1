"""The training step: vit_jax beside timm under torch.compile and vit_torch.

    python -m benchmarks.train                                     what suits this machine
    python -m benchmarks.train --models S/16 B/16@384 --batch-size 32
    python -m benchmarks.train --contenders vit_jax vit_jax:scan timm:compile,mode=max-autotune

Forward pass, cross-entropy, backward pass, clipping and AdamW, on a batch that lies on the device.
Ours is the step that `train.py` runs. `benchmarks/_cases.py` says how contenders are written.

Operations are those of `vit_spec.flops`: of the products alone, three times the forward pass. MFU
is their share of the data sheet's bfloat16 rate, `of matmul` of the rate of a large matrix product
measured in the same rounds. Peak memory is of a second step: on a GPU what PyTorch's allocator
gave, or JAX's since the process began; on a CPU all that the process holds, its libraries included.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks._blocks import (
    FIRST,
    MEMORY,
    MFU,
    MILLISECONDS,
    OF_MATMUL,
    RATE,
    Block,
    Column,
    blocks,
    ratio_plot,
)
from benchmarks._cases import Case
from benchmarks._largest import largest_batch
from benchmarks._program import parser, run_cases, with_timing
from benchmarks._workers import WorkerError

BATCHES = {
    "cpu": {"Ti/16": 32, "S/16": 16},
    "gpu": {"B/16": 256, "L/16": 128, "S/16": 512, "B/16@384": 64, "Ti/16": 1024},
    "tpu": {"B/16": 256, "L/16": 128, "S/16": 512, "B/16@384": 64, "Ti/16": 1024},
}
"""Images of a step by device and model, the most important model first."""
DTYPE = {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}
CONTENDERS = {
    "cpu": ("vit_jax", "timm:compile", "vit_torch:compile", "vit_torch:eager"),
    "gpu": ("vit_jax", "vit_jax:attention=xla", "timm:compile", "timm:compile,pure",
            "vit_torch:compile", "vit_torch:eager"),
    "tpu": ("vit_jax", "vit_jax:scan"),
}  # fmt: skip
TINY = {"model": "Ti/16@32", "batch_size": 4, "depth": 1}
OTHER_BATCH = 32  # of models that BATCHES lacks


def cases(device: str, *, models: Sequence[str] = (), tiny: bool = False) -> list[Case]:
    """What is measured by default."""
    batches, dtype = BATCHES[device], DTYPE[device]
    if tiny:
        return [Case(**TINY, dtype=dtype)]
    return [
        Case(model=model, batch_size=batches.get(model, OTHER_BATCH), dtype=dtype)
        for model in models or batches
    ]


def columns(case: Mapping[str, Any]) -> list[Column]:
    """Of the table of a case."""
    return [RATE, MILLISECONDS, MFU, OF_MATMUL, MEMORY, FIRST]


def tables(record: Mapping[str, Any]) -> list[Block]:
    """A table for each case."""
    return blocks(record, columns)


plot = partial(ratio_plot, what="Training")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes the JSON after every case."""
    found = with_timing(parser(__doc__, rounds=7))
    found.add_argument("--batch-size", type=int, help="of every model")
    found.add_argument(
        "--largest-batch", action="store_true", help="search it; for a GPU that nobody else uses"
    )
    options = found.parse_args(arguments)
    options.contenders = options.contenders or list(CONTENDERS[options.device])
    chosen: dict[str, Any] = {"batch_size": options.batch_size, "dtype": options.dtype}
    changes = {name: value for name, value in chosen.items() if value}
    asked = cases(options.device, models=options.models, tiny=options.tiny)
    asked = [dataclasses.replace(case, **changes) for case in asked]
    more = partial(_add_largest, options) if options.largest_batch else None
    run_cases("train", asked, options, tables, more)


def _add_largest(options: argparse.Namespace, case: Case, found: dict[str, Any]) -> None:
    where = {"device": options.device, "threads": options.threads}
    found["largest"] = {}
    for name in options.contenders:
        try:
            found["largest"][name] = largest_batch(case, name, **where)
        except WorkerError as error:
            found["failed"][f"{name}, largest batch"] = str(error)


if __name__ == "__main__":
    main()
