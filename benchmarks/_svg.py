"""A plot of bars with their quartiles, as an SVG file that a page of Markdown can show."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks._tables import figure

PLOT, RIGHT, LETTER = 400, 70, 6.6  # pixels: of the longest bar, of its figure, of a letter
ROW, TOP, BOTTOM = 24, 34, 12
INK, FILL, MARK = "#24292f", "#4c78a8", "#d1495b"


def bars(about: str, rows: Sequence[tuple[str, Mapping[str, Any]]], mark: float | None) -> str:
    """One bar a row to its median, a line over its quartiles; `mark` is a value to compare with."""
    top = max([found["quartiles"][1] for _, found in rows] + [found["median"] for _, found in rows])
    top = max(top, mark or 0.0) or 1.0
    left = round(16 + LETTER * max(len(label) for label, _ in rows))
    width = max(left + PLOT + RIGHT, round(16 + 1.2 * LETTER * len(about)))
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return left + PLOT * value / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(about)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" fill="{INK}" font-weight="bold">{escape(about)}</text>',
    ]
    for i, (label, found) in enumerate(rows):
        y, (low, high) = TOP + ROW * i, found["quartiles"]
        end, middle = x(found["median"]), y + ROW / 2
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" fill="{INK}" text-anchor="end">'
            f"{escape(label)}</text>",
            f'<rect x="{left}" y="{y + 4}" width="{end - left:.1f}" height="{ROW - 8}" '
            f'fill="{FILL}"/>',
            f'<path d="M{x(low):.1f} {middle}H{x(high):.1f}" stroke="{INK}" stroke-width="2"/>',
            f'<text x="{max(end, x(high)) + 6:.1f}" y="{middle + 4}" fill="{INK}">'
            f"{figure(found['median'])}</text>",
        ]
    if mark is not None:
        line = f"M{x(mark):.1f} {TOP}V{height - BOTTOM}"
        parts.append(f'<path d="{line}" stroke="{MARK}" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
