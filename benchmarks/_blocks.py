"""Records of `train` and `infer` as titled tables, one for each case."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks._cases import ours, parsed
from benchmarks._limits import COPY, MATMULS
from benchmarks._measured import mfu, of_copy, of_matmul
from benchmarks._rounds import ratios
from benchmarks._svg import Bar, Plot
from benchmarks._tables import Table, aligned, figure, gigabytes, markdown, scaled, share
from benchmarks._tables import with_spread as spread_text

Column = tuple[str, Callable[[dict[str, Any], dict[str, Any]], str]]
Block = tuple[str, Table, Sequence[str]]  # title, table, lines below it


def rate(found: Mapping[str, Any]) -> float:
    """Images a second of a contender's record."""
    return found["images_per_second"]["median"]


RATE: Column = ("images/s", lambda case, c: spread_text(c["images_per_second"], digits=4))
MILLISECONDS: Column = ("ms/step", lambda case, c: figure(1e3 * case["batch_size"] / rate(c)))
LATENCY: Column = ("latency, ms", MILLISECONDS[1])
MFU: Column = ("MFU", lambda case, c: share(mfu(case, rate(c))))
OF_MATMUL: Column = ("of matmul", lambda case, c: share(of_matmul(case, rate(c))))
OF_COPY: Column = ("of copy", lambda case, c: share(of_copy(case, rate(c))))
MEMORY: Column = ("peak GB", lambda case, c: gigabytes(c["memory"]["peak"]))
FIRST: Column = (
    "first step, s",
    lambda case, c: figure(c["first_seconds"]) if case["apart"] else "-",
)


def blocks(record: Mapping[str, Any], columns: Callable[[dict], Sequence[Column]]) -> list[Block]:
    """A table for each case: its contenders, with the ratio to the fastest peer."""
    return [_block(case, columns(case)) for case in record["cases"]]


def peer(case: dict[str, Any]) -> str | None:
    """The fastest contender that ours are compared with: timm in the same precision, else any."""
    others = {name: c for name, c in case["contenders"].items() if not ours(name)}
    timm = {n: c for n, c in others.items() if n.startswith("timm") and "pure" not in parsed(n)[1]}
    found = timm or others
    return max(found, key=lambda name: rate(found[name])) if found else None


def against_peer(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Spread of each contender's ratio to the peer, round by round."""
    against = peer(case)
    if against is None:
        return {}
    rounds = {name: c["images_per_second"]["rounds"] for name, c in case["contenders"].items()}
    return {r["of"]: r for r in ratios(rounds, [(name, against) for name in rounds])}


def limits_line(case: dict[str, Any]) -> str:
    """The machine's limits as they were measured beside the contenders."""
    units = {**dict.fromkeys(MATMULS, "FLOP/s"), COPY: "B/s"}
    found = [f"{n} {scaled(v['median'], units[n])}" for n, v in case["limits"].items()]
    return f"limits in this run ({case['dtype']}): {', '.join(found)}" if found else ""


def _block(case: dict[str, Any], columns: Sequence[Column]) -> Block:
    against, ratio = peer(case), against_peer(case)
    head = ["contender", *(name for name, _ in columns)]
    head += [f"x {against}"] if against else []
    rows = []
    for name, found in case["contenders"].items():
        cells = [name, *(show(case, found) for _, show in columns)]
        rows.append(cells + ([spread_text(ratio[name])] if against else []))
    known = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    head, rows = [head[i] for i in known], [[row[i] for i in known] for row in rows]
    notes = [limits_line(case)] if case["limits"] else []
    notes += [f"{name}: largest batch {n:,}" for name, n in case.get("largest", {}).items()]
    notes += [f"{name} failed: {text}" for name, text in case["failed"].items()]
    return case["case"], (head, rows), notes


def ratio_plot(record: Mapping[str, Any], what: str) -> Plot:
    """Every contender against the fastest peer, case by case."""
    found = [
        Bar(name, ratio, whose_is(name), _short(case))
        for case in record["cases"]
        for name, ratio in against_peer(case).items()
        if name != peer(case)
    ]
    return Plot(
        f"{what}: images/s relative to timm",
        "images/s relative to timm with torch.compile (longer is faster)",
        found,
        (1.0, "timm with torch.compile"),
    )


def whose_is(contender: str) -> str:
    """The colour of a contender's bar."""
    return next((name for name in ("vit_jax", "vit_torch") if contender.startswith(name)), "others")


def _short(case: dict[str, Any]) -> str:
    return f"{case['model']}, {case['tokens']} tokens, batch {case['batch_size']}"


def plain(record: Mapping[str, Any], found: Sequence[Block]) -> str:
    """For the terminal."""
    parts = [
        "\n".join([title, aligned(table), *notes]) if table[1] else "\n".join([title, *notes])
        for title, table, notes in found
    ]
    parts += [f"skipped: {text}" for text in record.get("skipped", ())]
    return "\n\n".join([f"{record['benchmark']} on {record['hardware']}", *parts])


def page(record: Mapping[str, Any], found: Sequence[Block]) -> str:
    """For Markdown."""
    parts = []
    for title, table, notes in found:
        below = "".join(f"\n{note}\n" for note in notes)
        parts.append(f"**{title}**\n\n{markdown(table) if table[1] else ''}{below}")
    parts += [f"Skipped: {text}\n" for text in record.get("skipped", ())]
    return "\n".join(parts)
