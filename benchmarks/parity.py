"""Time and memory of every level of `parity check` against two plain forward passes.

    python -m benchmarks.parity
    python -m benchmarks.parity --model S/16 --levels outputs gradients --rounds 5

Every figure is of a fresh process without its imports. The plain passes are one in each framework
on the images that a check feeds, which are of two sizes: the first time, compiling within, as a
check runs them once; and a later time. Levels include the ones before them. Ratios are of one
round; peak memory is all that the process holds, so libraries and both models are in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._blocks import Block, plain
from benchmarks._cases import Case, to_dict
from benchmarks._program import begun, file_of, parser, save, with_file
from benchmarks._rounds import in_rounds, ratios, spread
from benchmarks._svg import Bar, Plot
from benchmarks._tables import figure, gigabytes, with_spread
from benchmarks._workers import WorkerProcess, closing_all

LEVELS = ("weights", "outputs", "layers", "gradients", "optimizer", "training")
PLAIN = ("first passes", "later passes")


def once(case: Case, level: str | None, options: Any) -> dict[str, Any]:
    """Seconds, memory and facts of a level, or of the plain passes, in a process of its own."""
    worker = WorkerProcess("parity", device=options.device, threads=options.threads)
    settings = {"level": level, "steps": options.steps} if level else {}
    with closing_all({"parity": worker}):
        worker.ask("prepare", task="once", case=to_dict(case), options=settings)
        return worker.ask("once", task="once")


def measure(case: Case, options: Any) -> list[dict[str, Any]]:
    """A row for the plain passes and one for every level."""
    memory: dict[str, list[float]] = {}
    later: list[float] = []

    def run(name: str) -> float:
        found = once(case, None if name == PLAIN[0] else name, options)
        memory.setdefault(name, []).append(found["memory"]["peak"])
        if name != PLAIN[0]:
            return found["seconds"]
        later.append(found["facts"]["later"])
        return found["facts"]["first"]

    seconds = in_rounds(run, [PLAIN[0], *options.levels], options.rounds)
    seconds[PLAIN[1]] = later[1:]  # the round ahead does not count
    memory[PLAIN[1]] = memory[PLAIN[0]]
    names = [*PLAIN, *options.levels]
    against = {plain: {r["of"]: r for r in ratios(seconds, [(n, plain) for n in names])}
               for plain in PLAIN}  # fmt: skip
    return [
        {
            "of": name,
            "seconds": spread(seconds[name]),
            "peak_bytes": max(memory[name]),
            "ratios": {plain: against[plain][name] for plain in PLAIN},
        }
        for name in names
    ]


def tables(record: Mapping[str, Any]) -> list[Block]:
    """One table."""
    peaks = {row["of"]: row["peak_bytes"] for row in record["rows"]}
    head = ["level", "seconds", *(f"x {plain}" for plain in PLAIN), "peak GB", f"x {PLAIN[0]}"]
    rows = [
        [
            row["of"],
            with_spread(row["seconds"]),
            *(with_spread(row["ratios"][plain]) for plain in PLAIN),
            gigabytes(row["peak_bytes"]),
            figure(row["peak_bytes"] / peaks[PLAIN[0]]),
        ]
        for row in record["rows"]
    ]
    return [(record["case"], (head, rows), ())]


def plot(record: Mapping[str, Any]) -> Plot:
    """Time of each level relative to that of the plain passes."""
    rows = [row for row in record["rows"] if row["of"] not in PLAIN]
    return Plot(
        "A check up to each level, relative to one forward pass in each framework",
        "time of the check / time of one forward pass in each framework (shorter is faster)",
        [Bar(row["of"], row["ratios"][PLAIN[0]]) for row in rows],
        (1.0, "one forward pass in each framework"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the JSON."""
    found = with_file(parser(__doc__, rounds=3))
    found.add_argument("--model", default="Ti/16", help="variant; of any size after an @")
    found.add_argument("--batch-size", type=int, default=3, help="images of a check")
    found.add_argument("--steps", type=int, default=20, help="of the level training")
    found.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    found.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    options = found.parse_args(arguments)
    tiny: Any = {"model": "Ti/16@32", "depth": 2} if options.tiny else {"model": options.model}
    case = Case(**tiny, batch_size=options.batch_size, dtype=options.dtype)
    print(f"measuring checks of {case}", flush=True)
    rows = measure(case, options)
    record = begun("parity", options) | {"case": f"{case}, {options.steps} steps", "rows": rows}
    print(plain(record, tables(record)))
    file = file_of("parity", options)
    save(record, file)
    if file:
        print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
