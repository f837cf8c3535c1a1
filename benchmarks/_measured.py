"""A case measured: every contender in a worker of its own, taking turns in rounds with the limits.

`train` and `infer` differ in what a step is; all else is here.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._cases import Case, ours, pairs, parsed, to_dict
from benchmarks._limits import COPY, LIMITS, MATMULS, ON_TPU
from benchmarks._machine import accelerator
from benchmarks._rounds import in_rounds, ratios, spread
from benchmarks._workers import WorkerError, WorkerProcess, closing_all, each
from vit_spec import count_parameters
from vit_spec.flops import forward_flops, peak_flops, train_flops

FLOPS = {"train": train_flops, "infer": forward_flops}
BYTES = {"float32": 4, "bfloat16": 2}
MOST_STEPS = 2000  # of a round
SHARE = 0.25  # of a contender's seconds that each limit gets
LIMIT = "limit: "  # before the names of the limits among the contenders


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a case is measured."""

    device: str
    threads: int
    rounds: int = 7
    seconds: float = 1.0
    """Of a contender in a round, about; at least one step."""
    limits: bool = True
    """Measure the machine's limits, too."""
    apart: bool = True
    """Prepare one contender after the other, not all at the same time."""
    jax_python: str = sys.executable
    """The interpreter of vit_jax's workers."""
    tiny: bool = False
    """Limits of small matrices, for tests."""
    deadline: float | None = None
    """Of `time.monotonic`; what has not answered by then has failed."""


def start(contenders: Sequence[str], settings: Settings) -> dict[str, WorkerProcess]:
    """A worker for each contender and one for the limits; they begin to import."""
    chosen: dict[str, Any] = {"device": settings.device, "threads": settings.threads}
    chosen["deadline"] = settings.deadline
    pythons = {name: settings.jax_python if ours(name) else sys.executable for name in contenders}
    workers = {
        name: WorkerProcess(parsed(name)[0], **chosen, python=pythons[name]) for name in contenders
    }
    if settings.limits:
        workers["limits"] = WorkerProcess("limits", **chosen)
    return workers


def measure(
    task: str,
    case: Case,
    contenders: Sequence[str],
    settings: Settings,
    workers: dict[str, WorkerProcess] | None = None,
) -> dict[str, Any]:
    """The record of a case. `workers`: those of `start`, which this ends."""
    workers = start(contenders, settings) if workers is None else workers
    failed: dict[str, str] = {}
    for worker in workers.values():
        worker.deadline = settings.deadline
    with closing_all(workers):
        try:
            prepared = _prepare(task, case, contenders, settings, workers, failed)
            limits = _prepare_limits(case, settings, workers, failed)
            rates = _rates(task, {**prepared, **limits}, settings, workers, failed)
        except WorkerError as error:
            rates, prepared = {}, {}
            failed["all"] = str(error)
    found = {
        "case": str(case),
        **to_dict(case),
        "tokens": case.tokens,
        "apart": settings.apart,
        "flops_per_image": FLOPS[task](case.config),
        "parameter_bytes": count_parameters(case.config) * BYTES[case.dtype],
        "contenders": {
            name: {"images_per_second": spread(rates[name])}
            | {fact: prepared[name][fact] for fact in ("first_seconds", "memory")}
            for name in contenders
            if name in rates
        },
        "limits": {name: spread(rates[LIMIT + name]) for name in LIMITS if LIMIT + name in rates},
        "ratios": ratios(rates, pairs(list(contenders))),
        "failed": failed,
    }
    return found | {"datasheet_flops": peak_flops(accelerator() or "")}


def _prepare(
    task: str,
    case: Case,
    contenders: Sequence[str],
    settings: Settings,
    workers: dict[str, WorkerProcess],
    failed: dict[str, str],
) -> dict[str, dict[str, Any]]:
    """Compiles and warms up. XLA times kernels as it compiles: ours do so one after the other."""

    def ask(worker: WorkerProcess, name: str) -> None:
        worker.send("prepare", task=task, case=to_dict(case), options=parsed(name)[1])
        worker.send("warm", task=task)

    def answer(worker: WorkerProcess, name: str) -> dict[str, Any]:
        return worker.answer() | worker.answer()

    def both(worker: WorkerProcess, name: str) -> dict[str, Any]:
        ask(worker, name)
        return answer(worker, name)

    if settings.apart:
        return each(workers, contenders, failed, both)
    others = [name for name in contenders if not ours(name)]
    each(workers, others, failed, ask)
    found = each(workers, [name for name in contenders if ours(name)], failed, both)
    return found | each(workers, [name for name in others if name in workers], failed, answer)


def _prepare_limits(
    case: Case, settings: Settings, workers: dict[str, WorkerProcess], failed: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """The limits as contenders, which share a worker."""
    worker = workers.get("limits")
    names = ON_TPU if settings.device == "tpu" else tuple(LIMITS)
    found: dict[str, dict[str, Any]] = {}
    for name in names if worker else ():
        options = {"tiny": settings.tiny}
        asked: Any = {"task": name, "case": to_dict(case), "options": options}
        try:
            found[LIMIT + name] = worker.ask("prepare", **asked)  # type: ignore[union-attr]
            worker.ask("warm", task=name)  # type: ignore[union-attr]
        except WorkerError as error:  # a framework that is not there
            found.pop(LIMIT + name, None)
            failed[LIMIT + name] = str(error)
    return found


def _rates(
    task: str,
    prepared: dict[str, dict[str, Any]],
    settings: Settings,
    workers: dict[str, WorkerProcess],
    failed: dict[str, str],
) -> dict[str, list[float]]:
    """What each does a second, round by round; one that fails on the way is left out."""

    def seconds(name: str, steps: int) -> float:
        limit = name.startswith(LIMIT)
        worker = workers["limits" if limit else name]
        kind = name.removeprefix(LIMIT) if limit else task
        return worker.ask("time", task=kind, steps=steps)["seconds"]

    counts: dict[str, int] = {}
    for name in prepared:
        wanted = settings.seconds * (SHARE if name.startswith(LIMIT) else 1)
        try:
            counts[name] = _steps(lambda n, name=name: seconds(name, n), wanted)
        except WorkerError as error:
            failed[name] = str(error)

    def run(name: str) -> float:
        if name in failed:
            return math.nan
        try:
            return prepared[name]["amount"] * counts[name] / seconds(name, counts[name])
        except WorkerError as error:
            failed[name] = str(error)
            return math.nan

    names = [name for name in counts if name not in failed]
    found = in_rounds(run, names, settings.rounds, deadline=settings.deadline)
    return {name: values for name, values in found.items() if name not in failed}


def _steps(seconds: Callable[[int], float], wanted: float) -> int:
    """How many steps take about `wanted` seconds."""
    steps = 1
    while (took := seconds(steps)) < wanted / 4 and steps < MOST_STEPS:
        steps = min(MOST_STEPS, max(2 * steps, round(steps * wanted / 4 / max(took, 1e-6))))
    return max(1, min(MOST_STEPS, round(steps * wanted / took)))


def of_matmul(case: dict[str, Any], rate: float) -> float | None:
    """Share of the rate of matrix products that was measured beside it; images a second."""
    found = [case["limits"][n]["median"] for n in MATMULS if n in case["limits"]]
    return rate * case["flops_per_image"] / max(found) if found else None


def of_copy(case: dict[str, Any], rate: float) -> float | None:
    """Share of the copy's rate at which a step reads the parameters once; images a second."""
    if COPY not in case["limits"]:
        return None
    return rate / case["batch_size"] * case["parameter_bytes"] / case["limits"][COPY]["median"]


def mfu(case: dict[str, Any], rate: float) -> float | None:
    """Share of the data sheet's bfloat16 rate; None where `vit_spec.flops` lacks the device."""
    peak = case["datasheet_flops"]
    return rate * case["flops_per_image"] / peak if peak and case["dtype"] == "bfloat16" else None
