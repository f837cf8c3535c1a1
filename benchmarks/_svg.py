"""A plot of bars with their quartiles, as an SVG file that a page of Markdown can show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks._tables import figure

PLOT, LETTER = 420, 6.7  # pixels: of the axis, of a letter
ROW, BAR, GROUP, LINE = 24, 14, 22, 20  # heights
INK, QUIET, GRID, MARK = "#1f2328", "#59636e", "#d8dee4", "#b42318"
COLOURS = {"vit_jax": "#1f6feb", "vit_torch": "#8b5cf6", "vitwin": "#1f6feb", "others": "#9aa4af"}
"""Whose bar it is: ours in colour, those of others in grey."""


@dataclass(frozen=True)
class Bar:
    """A row: what was measured, with median and quartiles, and whose it is."""

    label: str
    found: Mapping[str, Any]
    whose: str = "vitwin"  # of `COLOURS`
    group: str = ""  # a heading above this row and those after it that have the same


@dataclass(frozen=True)
class Plot:
    """Bars on one axis from zero."""

    title: str
    axis: str  # what is measured, with its unit and which way is better
    bars: Sequence[Bar]
    mark: tuple[float, str] | None = None  # a value to compare with, and what it is


def drawn(plot: Plot) -> str:
    """The plot: title, legend, bars to the medians, axis; figures have a column of their own."""
    marks = [plot.mark[0]] if plot.mark else []
    highest = max([*marks, *(v for b in plot.bars for v in (b.found["median"], _high(b)))])
    step = nice(highest)
    ticks = [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]
    left = round(16 + LETTER * max(len(b.label) for b in plot.bars))
    figures = left + PLOT + 64  # where the column of figures ends
    legend = list(_legend(plot))
    width = max(figures + 12, round(16 + 1.15 * LETTER * len(plot.title)), legend[-1][1])
    top = 2 * LINE + 22
    rows = list(_rows(plot.bars, top))
    bottom = rows[-1][0] + ROW
    height = bottom + 2 * LINE + 6

    def x(value: float) -> float:
        return left + PLOT * value / ticks[-1]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(plot.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(8, 20, plot.title, 'font-size="14" font-weight="bold"'),
        *(shape for shape, _ in legend),
    ]
    for tick in ticks:
        parts.append(f'<path d="M{x(tick):.1f} {top}V{bottom}" stroke="{GRID}"/>')
        style = f'text-anchor="middle" fill="{QUIET}"'
        parts.append(_text(x(tick), bottom + 16, f"{tick:g}", style))
    parts.append(_text(left, bottom + 36, plot.axis, f'fill="{QUIET}"'))
    for y, bar in rows:
        if isinstance(bar, str):
            halo = 'paint-order="stroke" stroke="#fff" stroke-width="4"'  # over the grid
            parts.append(_text(8, y + 15, bar, f'font-weight="bold" fill="{QUIET}" {halo}'))
            continue
        (low, high), end, middle = bar.found["quartiles"], x(bar.found["median"]), y + ROW / 2
        parts += [
            _text(left - 8, middle + 4, bar.label, 'text-anchor="end"'),
            f'<rect class="bar" x="{left}" y="{middle - BAR / 2:g}" width="{end - left:.1f}" '
            f'height="{BAR}" fill="{COLOURS[bar.whose]}"/>',
            _whisker(x(low), x(high), middle),
            _text(figures, middle + 4, figure(bar.found["median"]), 'text-anchor="end"'),
        ]
    for value in marks:
        line = f'<path d="M{x(value):.1f} {top}V{bottom}" stroke='
        parts += [f'{line}"#fff" stroke-width="4"/>', f'{line}"{MARK}" stroke-width="2"/>']
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice(highest: float) -> float:
    """A round distance of ticks: four to eight of them reach `highest`."""
    power = 10.0 ** math.floor(math.log10(highest / 5))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * 7 >= highest)


def _high(bar: Bar) -> float:
    return bar.found["quartiles"][1]


def _rows(bars: Sequence[Bar], y: float) -> Iterator[tuple[float, Bar | str]]:
    """Bars and the headings of their groups with the height that each begins at."""
    group = ""
    for bar in bars:
        if bar.group != group:
            group = bar.group
            yield y, group
            y += GROUP
        yield y, bar
        y += ROW


def _legend(plot: Plot) -> Iterator[tuple[str, int]]:
    """Shapes with their words in one line, each with where it ends."""
    x, y, quiet = 8, 2 * LINE - 4, f'fill="{QUIET}"'
    whose = list(dict.fromkeys(bar.whose for bar in plot.bars))
    entries = [*(whose if len(whose) > 1 else ()), "median, quartiles"]
    entries += [f"{figure(plot.mark[0], 1)} = {plot.mark[1]}"] if plot.mark else []
    for words in entries:
        if words in COLOURS:
            size = f'width="16" height="10" fill="{COLOURS[words]}"'
            shape = f'<rect x="{x}" y="{y - 5}" {size}/>'
        elif plot.mark and words.endswith(plot.mark[1]):
            shape = f'<path d="M{x} {y}h16" stroke="{MARK}" stroke-width="2"/>'
        else:
            shape = _whisker(x, x + 16, y)
        end = round(x + 22 + LETTER * len(words))
        yield f"{shape}\n{_text(x + 22, y + 4, words, quiet)}", end + 8
        x = end + 16


def _whisker(low: float, high: float, y: float) -> str:
    ends = "".join(f"M{end:.1f} {y - 3:g}v6" for end in (low, high))
    style = f'stroke="{INK}" stroke-width="1.5" fill="none"'
    return f'<path d="M{low:.1f} {y:g}H{high:.1f}{ends}" {style}/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'
