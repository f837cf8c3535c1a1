"""The first training step against the number of blocks: compiled one by one, or as a scan.

    python -m benchmarks.compile
    python -m benchmarks.compile --depths 12 48 --contenders vit_jax:scan timm:compile

Every figure is of a fresh process, which nothing has been compiled in, and no two run at the same
time; imports do not count. `first` is all that the first step takes: tracing, lowering, XLA's
compiling, and running it. The state, which is made before, is `init`. PyTorch's first step is
measured as a whole, with Inductor's caches off.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._blocks import Block, plain, whose_is
from benchmarks._cases import Case, parsed, to_dict
from benchmarks._program import begun, file_of, parser, save, with_file
from benchmarks._rounds import spread
from benchmarks._svg import Bar, Plot
from benchmarks._tables import figure, with_spread
from benchmarks._workers import WorkerError, WorkerProcess, closing_all

DEPTHS = (12, 24, 48)
MODELS = {"cpu": "Ti/16", "gpu": "S/16", "tpu": "S/16"}
BATCHES = {"cpu": 2, "gpu": 8, "tpu": 8}
DTYPE = {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}
CONTENDERS = ("vit_jax:scan", "vit_jax")
PARTS = ("init", "trace", "lower", "compile", "run", "first")
NO_CACHE = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def cases(device: str, *, model: str | None = None, tiny: bool = False) -> list[Case]:
    """The models, by depth."""
    name = "Ti/16@32" if tiny else model or MODELS[device]
    facts: Any = {"model": name, "batch_size": BATCHES[device], "dtype": DTYPE[device]}
    return [Case(**facts, depth=depth) for depth in ((1, 2) if tiny else DEPTHS)]


def round_of(
    cases: Sequence[Case],
    contenders: Sequence[str],
    *,
    device: str,
    threads: int,
    deadline: float | None = None,
) -> list[dict[str, Any]]:
    """Seconds of the parts for each case and contender, once: `{"depth", "contender", ...}`.

    What did not end before `deadline` has an `error` instead.
    """
    found: list[dict[str, Any]] = []
    for contender in contenders:
        library, options = parsed(contender)
        chosen: Any = {"device": device, "threads": threads, "deadline": deadline}
        for case in cases:
            result: dict[str, Any] = {"depth": case.depth, "contender": contender}
            worker = WorkerProcess(library, **chosen, variables=NO_CACHE)
            with closing_all({contender: worker}):
                try:
                    asked: Any = {"task": "compile", "case": to_dict(case), "options": options}
                    result |= worker.ask("prepare", **asked)["facts"]["seconds"]
                except WorkerError as error:
                    result["error"] = str(error)
            found.append(result)
            if deadline is not None and time.monotonic() > deadline:
                return found
    return found


def summarized(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Spread of every part over the rounds, and of `first` against the same with fewest blocks."""
    keys = list(dict.fromkeys((row["contender"], row["depth"]) for r in rounds for row in r))
    by_key: dict[Any, list[dict[str, Any]]] = {key: [] for key in keys}
    for row in (row for r in rounds for row in r):
        by_key[row["contender"], row["depth"]].append(row)
    found = []
    for (contender, depth), rows in by_key.items():
        entry: dict[str, Any] = {"contender": contender, "depth": depth}
        errors = [row["error"] for row in rows if "error" in row]
        if errors:
            found.append(entry | {"error": errors[0]})
            continue
        entry |= {part: spread([r[part] for r in rows]) for part in PARTS if part in rows[0]}
        fewest = by_key[contender, min(d for c, d in keys if c == contender)]
        if not any("error" in row for row in fewest):
            pairs = zip(rows, fewest, strict=False)
            entry["growth"] = spread([row["first"] / few["first"] for row, few in pairs])
        found.append(entry)
    return found


def tables(record: Mapping[str, Any]) -> list[Block]:
    """One table: a row for each contender and depth."""
    fewest = min((row["depth"] for row in record["rows"]), default=0)
    head = ["contender", "blocks", *(f"{part}, s" for part in PARTS), f"first / {fewest} blocks"]
    rows, notes = [], []
    for row in record["rows"]:
        name, depth = row["contender"], str(row["depth"])
        if "error" in row:
            notes.append(f"{name}, {depth} blocks, failed: {row['error']}")
            continue
        medians = [figure(row[p]["median"]) if p in row else "-" for p in PARTS[:-1]]
        rows.append([name, depth, *medians, with_spread(row["first"]), with_spread(row["growth"])])
    return [(record["case"], (head, rows), notes)]


def plot(record: Mapping[str, Any]) -> Plot:
    """Seconds of the first step."""
    rows = [row for row in record["rows"] if "first" in row]
    found = [
        Bar(f"{row['depth']} blocks", row["first"], whose_is(row["contender"]), row["contender"])
        for row in rows
    ]
    return Plot("First training step, with its compilation", "seconds (shorter is faster)", found)


def described(asked: Sequence[Case]) -> str:
    """What the cases have in common."""
    first = asked[0]
    return f"{first.name}, {first.image_size} px, batch {first.batch_size}, {first.dtype}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures round by round, writes the JSON after each and prints the table."""
    found = with_file(parser(__doc__, rounds=3))
    found.add_argument("--model", help="variant of any depth")
    found.add_argument("--depths", nargs="+", type=int, help="numbers of blocks")
    found.add_argument("--contenders", nargs="+", default=list(CONTENDERS), metavar="NAME")
    options = found.parse_args(arguments)
    asked = cases(options.device, model=options.model, tiny=options.tiny)
    if options.depths:
        facts = to_dict(asked[0])
        asked = [Case(**facts | {"depth": depth}) for depth in options.depths]
    file, rounds = file_of("compile", options), []
    record = begun("compile", options) | {"case": described(asked)}
    where = {"device": options.device, "threads": options.threads}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        rounds.append(round_of(asked, options.contenders, **where))
        record["rows"] = summarized(rounds)
        save(record, file)
    print(plain(record, tables(record)))
    if file:
        print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
