"""The forward pass: latency of one image and throughput of many, at lengths of all kinds.

    python -m benchmarks.infer
    python -m benchmarks.infer --models B/16 --batch-sizes 1 256 --tokens 196 197

Logits of images that lie on the device, parameters in the type of the products. 196 and 256 tokens
are patches alone, whose mean is the feature; 197, 257 and 577 have a class token before them (196,
256 and 576 patches). A batch of one waits for every result, larger ones for the last of a round.
`of copy` is the share of the memory's bandwidth, measured beside it by a copy, at which the
parameters are read once a step: the limit of small batches, as `of matmul` is that of large ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks._blocks import (
    LATENCY,
    MEMORY,
    MFU,
    MILLISECONDS,
    OF_COPY,
    OF_MATMUL,
    RATE,
    Block,
    Column,
    blocks,
    ratio_plot,
)
from benchmarks._cases import Case
from benchmarks._program import parser, run_cases, with_timing

TOKENS = {
    196: (224, False),
    197: (224, True),
    256: (256, False),
    257: (256, True),
    577: (384, True),
}
"""Image size of models with patches of 16 and whether there is a class token, by tokens."""
MODELS = {"cpu": ("Ti/16", "S/16"), "gpu": ("B/16",), "tpu": ("B/16",)}
BATCHES = {"cpu": (1, 16), "gpu": (1, 256), "tpu": (1, 256)}
DTYPE = {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}
CONTENDERS = {
    "cpu": ("vit_jax", "timm:compile", "vit_torch:compile", "vit_torch:eager"),
    "gpu": ("vit_jax", "vit_jax:attention=xla", "timm:compile",
            "timm:compile,mode=reduce-overhead", "vit_torch:compile"),
    "tpu": ("vit_jax",),
}  # fmt: skip
TINY = {"model": "Ti/16@32", "depth": 2}


def cases(
    device: str,
    *,
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    tokens: Sequence[int] = (),
    tiny: bool = False,
) -> list[Case]:
    """What is measured; by default all lengths, large batches first."""
    facts: Any = {"dtype": DTYPE[device]}
    if tiny:
        sizes = batch_sizes or (4, 1)
        return [Case(**TINY, batch_size=b, class_token=bool(b > 1), **facts) for b in sizes]
    return [
        Case(model=f"{model}@{size}", batch_size=batch, class_token=token, **facts)
        for model in models or MODELS[device]
        for size, token in (TOKENS[n] for n in tokens or TOKENS)
        for batch in sorted(batch_sizes or BATCHES[device], reverse=True)
    ]


def columns(case: Mapping[str, Any]) -> list[Column]:
    """Of the table of a case."""
    if case["batch_size"] == 1:
        return [LATENCY, RATE, OF_COPY, MEMORY]
    return [RATE, MILLISECONDS, MFU, OF_MATMUL, MEMORY]


def tables(record: Mapping[str, Any]) -> list[Block]:
    """A table for each case."""
    return blocks(record, columns)


plot = partial(ratio_plot, what="Forward passes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes the JSON after every case."""
    found = with_timing(parser(__doc__, rounds=7))
    found.add_argument("--batch-sizes", nargs="+", type=int, default=(), metavar="N")
    found.add_argument("--tokens", nargs="+", type=int, choices=TOKENS, default=())
    options = found.parse_args(arguments)
    options.contenders = options.contenders or list(CONTENDERS[options.device])
    chosen = {name: getattr(options, name) for name in ("models", "batch_sizes", "tokens", "tiny")}
    asked = cases(options.device, **chosen)
    if options.dtype:
        asked = [dataclasses.replace(case, dtype=options.dtype) for case in asked]
    run_cases("infer", asked, options, tables)


if __name__ == "__main__":
    main()
