"""One command for a machine: train, infer and compile within a budget of time.

    python -m benchmarks.suite                    on one GPU in less than eight minutes
    python -m benchmarks.suite --list --device tpu
    python -m benchmarks.suite --tiny --threads 1 the same program with a tiny model

Needs jax, flax, optax, torch and timm, and nothing of `vit_data`. The most important cases come
first, each file is written anew after every case, and what the budget does not allow is named in
it. `python -m benchmarks.train` and the others measure longer.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _machine, compile, infer, train
from benchmarks._blocks import plain
from benchmarks._cases import Case
from benchmarks._measured import Settings, measure, start
from benchmarks._program import SHARED, begun, parser, save
from benchmarks._workers import WorkerProcess

BUDGET = 450.0  # seconds: less than eight minutes with all that surrounds it
SHORTEST = 25.0  # of a case, before one of its kind has been measured
LARGEST_SHARE = 0.4  # of the budget that one case may take
DEPTHS = (12, 48)
CONTENDERS = {
    "cpu": {"train": ("vit_jax", "timm:compile"), "infer": ("vit_jax", "timm:compile")},
    "gpu": {
        "train": ("vit_jax", "vit_jax:attention=xla", "timm:compile", "timm:compile,pure",
                  "vit_torch:compile"),
        "infer": ("vit_jax", "vit_jax:attention=xla", "timm:compile",
                  "timm:compile,mode=reduce-overhead"),
    },
    "tpu": {"train": train.CONTENDERS["tpu"], "infer": infer.CONTENDERS["tpu"]},
}  # fmt: skip
MODULES: dict[str, Any] = {"train": train, "infer": infer, "compile": compile}


@dataclasses.dataclass(frozen=True)
class Item:
    """One case of one benchmark."""

    benchmark: str
    case: Case
    contenders: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.benchmark}: {self.case}: {' | '.join(self.contenders)}"


def plan(device: str, *, tiny: bool = False) -> list[Item]:
    """All that is to be measured, the most important first."""
    by_task = CONTENDERS[device]
    found = [Item("train", case, by_task["train"]) for case in train.cases(device, tiny=tiny)]
    cases = infer.cases(device, tiny=tiny)
    if not tiny:  # the usual length first, then large batches of the others
        usual = [case for case in cases if case.tokens == 197]
        cases = usual + [case for case in cases if case.tokens != 197 and case.batch_size > 1]
    found += [Item("infer", case, by_task["infer"]) for case in cases]
    shallow, *_, deep = compile.cases(device, tiny=tiny)
    return found + [
        Item("compile", case, (name,))
        for name in compile.CONTENDERS
        for case in (shallow, deep)
    ]  # fmt: skip


class Suite:
    """A run: its settings, the records by benchmark, and the time that is left."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.deadline = options, time.monotonic() + options.budget
        self.records: dict[str, dict[str, Any]] = {}
        self.took: dict[str, list[float]] = {}
        self.ahead: dict[str, WorkerProcess] = {}

    def run(self, items: Sequence[Item]) -> None:
        """Measures or skips one after the other."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            record = self._record(item)
            shortest = min(self.took.get(item.benchmark, [self.options.shortest]))
            left = self.deadline - time.monotonic()
            if left < shortest:
                record["skipped"].append(f"{item}: {max(left, 0):.0f} s of the budget were left")
                print(f"skipped {record['skipped'][-1]}\n", flush=True)
            else:
                begin = time.monotonic()
                self._measure(item, following, record)
                self.took.setdefault(item.benchmark, []).append(time.monotonic() - begin)
            save(record, self._file(item.benchmark))

    def close(self) -> None:
        """Ends the workers that were started ahead."""
        for worker in self.ahead.values():
            worker.close()

    def _measure(self, item: Item, following: Item | None, record: dict[str, Any]) -> None:
        chosen = {name: getattr(self.options, name) for name in (*SHARED, "seconds", "tiny")}
        share = time.monotonic() + LARGEST_SHARE * self.options.budget
        settings = Settings(**chosen, apart=False, deadline=min(self.deadline, share))
        print(f"{self.deadline - time.monotonic():.0f} s left; measuring {item}", flush=True)
        if item.benchmark == "compile":
            where: Any = {name: chosen[name] for name in ("device", "threads")}
            deadline = settings.deadline
            rows = compile.round_of([item.case], item.contenders, **where, deadline=deadline)
            record["round"] += rows
            record["rows"] = compile.summarized([record["round"]])
            print(plain(record, compile.tables(record)) + "\n", flush=True)
            return
        workers = self.ahead or start(item.contenders, settings)
        self.ahead = {}
        ahead = self.options.device != "cpu" or self.options.tiny
        if ahead and following and following.benchmark != "compile":
            # Imports, which take ten seconds, while this one compiles on other cores.
            self.ahead = start(following.contenders, settings)
        found = measure(item.benchmark, item.case, item.contenders, settings, workers)
        record["cases"].append(found)
        shown = record | {"cases": [found]}
        print(plain(shown, MODULES[item.benchmark].tables(shown)) + "\n", flush=True)

    def _record(self, item: Item) -> dict[str, Any]:
        if item.benchmark not in self.records:
            record = begun(item.benchmark, self.options) | {"skipped": []}
            if item.benchmark == "compile":
                record |= {"case": compile.described([item.case]), "round": [], "rows": []}
            else:
                record["cases"] = []
            self.records[item.benchmark] = record
        return self.records[item.benchmark]

    def _file(self, benchmark: str) -> Path | None:
        folder: Path | None = self.options.out
        if folder is None and not self.options.tiny:
            folder = _machine.RESULTS
        return folder and _machine.default_file(benchmark, self.options.device, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs or lists all of it."""
    found = parser(__doc__, rounds=5)
    found.add_argument("--budget", type=float, default=BUDGET, help="seconds of all together")
    found.add_argument(
        "--shortest", type=float, default=SHORTEST, help="seconds without which no case begins"
    )
    found.add_argument("--seconds", type=float, default=0.6, help="of a contender in a round")
    found.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    found.add_argument("--out", type=Path, metavar="DIR", help="instead of benchmarks/results")
    found.add_argument("--list", action="store_true", help="what would run, and nothing more")
    options = found.parse_args(arguments)
    items = plan(options.device, tiny=options.tiny)
    items = [item for item in items if item.benchmark in options.only]
    if options.list:
        print("\n".join(map(str, items)))
        return
    suite = Suite(options)
    try:
        suite.run(items)
    finally:
        suite.close()


if __name__ == "__main__":
    main()
