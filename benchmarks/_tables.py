"""Tables for the terminal and for Markdown, from the same head and rows."""

from collections.abc import Mapping, Sequence
from typing import Any

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def aligned(table: Table) -> str:
    """Columns as wide as they must be: the first one flush left, the others flush right."""
    head, rows = table
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        return "  ".join(cells + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])


def markdown(table: Table) -> str:
    """The same for a page."""
    head, rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def figure(value: float | None, digits: int = 3) -> str:
    """`digits` digits that count, thousands with commas; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def with_spread(found: Mapping[str, Any] | None, factor: float = 1.0, digits: int = 3) -> str:
    """Median and quartiles as `812 (790-820)`."""
    if found is None:
        return "-"
    low, high = (figure(q * factor, digits) for q in found["quartiles"])
    return f"{figure(found['median'] * factor, digits)} ({low}-{high})"


def share(value: float | None) -> str:
    """A fraction in per cent."""
    return "-" if value is None else f"{100 * value:.1f} %"


def scaled(value: float, unit: str) -> str:
    """`788e12` FLOP/s as `788 TFLOP/s`."""
    for factor, letter in SCALES:
        if value >= factor:
            return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def gigabytes(value: float | None) -> str:
    """Bytes in GB (1e9)."""
    return "-" if value is None else f"{value / 1e9:.2f}"
