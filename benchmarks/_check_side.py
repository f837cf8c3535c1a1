"""What a worker does for `benchmarks.parity`: a check of one level, or plain forward passes."""

import time
from typing import Any

import jax
import torch

import parity
from benchmarks._cases import Case
from benchmarks._work import Work
from parity.pair import make_pair
from parity.precision import exact
from vit_jax.functional import merge, split

MODES = ("check", "forward")


def check(case: Case, level: str, steps: int) -> Work:
    """`parity.check` up to a level."""

    def run(_: int) -> None:
        report = parity.check(
            case.config, level=level, dtype=case.dtype, batch_size=case.batch_size, steps=steps
        )
        if not report.passed:
            raise ValueError(f"the check of {case} at level {level} did not pass")

    return Work(run=run)


def forward(case: Case) -> Work:
    """One forward pass in each framework of each size of images that the check feeds.

    The facts have the seconds of the first pass, compiled within, and of a later one.
    """
    facts: dict[str, Any] = {}

    def run(_: int) -> None:
        with exact():
            pair = make_pair(case.config, batch_size=case.batch_size)
            jax_side, torch_side = pair.sides(case.dtype)[:2]
            structure, params = split(jax_side.model)
            compiled = jax.jit(lambda params, images: merge(structure, params)(images))
            images = list(pair.feed.sets(case.dtype).values())
            for name in ("first", "later"):
                begin = time.perf_counter()
                for one in images:
                    compiled(params, jax.numpy.asarray(one, case.dtype)).block_until_ready()
                    with torch.no_grad():
                        dtype = getattr(torch, case.dtype)
                        torch_side.model(torch.tensor(one.transpose(0, 3, 1, 2), dtype=dtype))
                facts[name] = time.perf_counter() - begin

    return Work(run=run, facts=facts)


def prepared(case: Case, options: dict[str, Any]) -> Work:
    """The work of options `{"level": ..., "steps": ...}`, or of `{}` the forward passes."""
    return check(case, **options) if options else forward(case)
