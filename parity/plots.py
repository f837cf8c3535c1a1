"""Plots of a report as inline SVG.

An SVG here has no viewBox: x is in percent and y in pixels, so that a plot takes the width of the
page while its points and letters keep their size, on a phone as on paper. Only lines need a box
that stretches, and their stroke does not stretch with it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from parity.markup import number, text

LIMIT = 2000  # points of a plot; more are thinned
NUMBERED = 6  # failures of a plot that are named on its axis
LEFT, RIGHT = 2.0, 98.0  # percent of the width: room for half a point at both ends
AREA = 170.0  # pixels of the logarithmic or linear part
BAND = 24.0  # pixels of the bands for zero and for what is not finite


@dataclass(frozen=True, kw_only=True)
class Point:
    """One quantity of a plot."""

    name: str
    value: float
    bound: float | None = None
    failed: bool = False

    @property
    def title(self) -> str:
        bound = "" if self.bound is None else f", bound {number(self.bound)}"
        return f"{self.name}: {number(self.value)}{bound}{', FAILED' * self.failed}"


@dataclass(kw_only=True)
class _Axis:
    """The y axis: a band for NaN and infinity on top, the scale, a band for zero below."""

    low: float
    high: float
    log: bool
    odd: bool  # has a band for what is not finite
    zero: bool  # has a band for zero
    ticks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def top(self) -> float:
        return 8 + BAND * self.odd

    @property
    def area(self) -> float:
        return AREA if self.high > self.low else 0.0

    @property
    def height(self) -> float:
        return self.top + self.area + BAND * self.zero + 8

    def y(self, value: float) -> float:
        if not math.isfinite(value):
            return 12.0
        if self.log and value <= 0:
            return self.height - 12
        place = (math.log10(value) if self.log else value) - self.low
        return self.top + self.area * (1 - place / (self.high - self.low))


def _log_axis(values: Sequence[float]) -> _Axis:
    logs = [math.log10(v) for v in values if math.isfinite(v) and v > 0]
    axis = _Axis(
        low=math.floor(min(logs, default=0)),
        high=math.ceil(max(logs, default=0)),
        log=True,
        odd=any(not math.isfinite(v) for v in values),
        zero=any(v <= 0 for v in values),
    )
    if logs:
        axis.high = max(axis.high, axis.low + 2)
        low, high = int(axis.low), int(axis.high)
        for exponent in range(low, high + 1, math.ceil((high - low) / 6)):
            y = axis.top + axis.area * (high - exponent) / (high - low)
            axis.ticks.append((y, f"1e{exponent:+03d}"))
    if axis.odd:
        axis.ticks.append((axis.y(math.nan), "NaN, ∞"))
    if axis.zero:
        axis.ticks.append((axis.y(0), "zero"))
    return axis


def _linear_axis(values: Sequence[float]) -> _Axis:
    finite = [min(max(v, -1e300), 1e300) for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axis = _Axis(
        low=low - pad, high=high + pad, log=False, odd=len(finite) < len(values), zero=False
    )
    if not finite:
        axis.high = axis.low
    else:
        rough = (axis.high - axis.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
        axis.ticks = [(axis.y(i * step), f"{i * step:.6g}") for i in range(first, last + 1)]
    if axis.odd:
        axis.ticks.append((axis.y(math.nan), "NaN, ∞"))
    return axis


def _x(index: int, count: int) -> float:
    return LEFT + (RIGHT - LEFT) * index / (count - 1) if count > 1 else 50.0


def thinned(values: Sequence[float], keep: Iterable[int] = (), limit: int = LIMIT) -> list[int]:
    """Indices to draw: all in `keep`, and the largest and the smallest of every neighbourhood."""
    count = len(values)
    if count <= limit:
        return list(range(count))
    chosen = {0, count - 1, *keep}
    size = math.ceil(2 * count / limit)

    def height(index: int) -> float:
        return values[index] if math.isfinite(values[index]) else math.inf

    for start in range(0, count, size):
        hood = range(start, min(start + size, count))
        chosen |= {max(hood, key=height), min(hood, key=height)}
    return sorted(chosen)


def log_plot(points: Sequence[Point], *, label: str, axis_label: str) -> str:
    """Points over their order on a logarithmic scale, with their bounds as a line."""
    count = len(points)
    bounds = [p.bound for p in points if p.bound is not None]
    axis = _log_axis([*(p.value for p in points), *(b for b in bounds if math.isfinite(b))])
    failed = [i for i, p in enumerate(points) if p.failed]
    shown = thinned([p.value for p in points], failed)
    body = [_stretched(f'<path class="bound" d="{_bound_path(points, axis)}"/>', axis.height)]
    for index in sorted(shown, key=lambda i: points[i].failed):  # failures on top
        body.append(_mark(points[index], _x(index, count), axis.y(points[index].value)))
    numbered = _numbered(points, failed)
    for i, index in enumerate(numbered, 1):
        x = f"{_x(index, count):.2f}%"
        body.append(
            f'<line class="tick" x1="{x}" x2="{x}" y1="{axis.height:.0f}" '
            f'y2="{axis.height + 4:.0f}"/>'
            f'<text class="bad" x="{x}" y="{axis.height + 15:.0f}">{i}</text>'
        )
    names = [points[0].name, points[-1].name][: min(count, 2)]
    below = "".join(
        f'<li>{text(points[i].name)}: <span class="n">{number(points[i].value)}</span></li>'
        for i in numbered
    )
    if below:
        more = len(failed) - len(numbered)
        rest = f"<p>{more:,} more out of bounds.</p>" if more else ""
        below = f'<ol class="failed">{below}</ol>{rest}'
    if len(shown) < count:
        below += (
            f"<p>{len(shown):,} of {count:,} are drawn: all out of bounds, and the largest and "
            "smallest of their neighbours.</p>"
        )
    return _frame(axis, "".join(body), names, label, axis_label, 20 * bool(numbered)) + below


def line_plot(series: Mapping[str, Sequence[float]], *, label: str, axis_label: str) -> str:
    """Curves over each other on a linear scale, the later ones dashed."""
    axis = _linear_axis([v for values in series.values() for v in values])
    count = max(map(len, series.values()))
    lines, marks = [], []
    for i, (name, values) in enumerate(series.items()):
        shown = thinned(values)
        path = ""
        for finite, run in groupby(shown, key=lambda k, v=values: math.isfinite(v[k])):
            at = [(_x(k, count), axis.y(values[k]), k) for k in run]
            if finite:
                path += "M" + "L".join(f"{x:.2f} {y:.1f}" for x, y, _ in at)
            for x, y, k in at:
                point = Point(name=f"{name}, step {k}", value=values[k], failed=not finite)
                if not finite or count <= 60:
                    marks.append(_mark(point, x, y, f"side{i}"))
        lines.append(f'<path class="curve side{i}" d="{path}"/>')
    names = ["step 0", f"step {count - 1}"][: min(count, 2)]
    body = _stretched("".join(lines), axis.height) + "".join(marks)
    return _frame(axis, body, names, label, axis_label)


def _bound_path(points: Sequence[Point], axis: _Axis) -> str:
    path, count, start, pen = "", len(points), 0, False
    for bound, run in groupby(points, key=lambda p: p.bound):
        end = start + len(list(run))
        if bound is None or not math.isfinite(bound):
            pen = False
        else:
            left = 0.0 if start == 0 else (_x(start - 1, count) + _x(start, count)) / 2
            right = 100.0 if end == count else (_x(end - 1, count) + _x(end, count)) / 2
            path += f"{'L' if pen else 'M'}{left:.2f} {axis.y(bound):.1f}H{right:.2f}"
            pen = True
        start = end
    return path


def _numbered(points: Sequence[Point], failed: Sequence[int]) -> list[int]:
    """The failures named on the axis: the first, then the largest that leave room to each other."""

    def badness(index: int) -> float:
        value, bound = points[index].value, points[index].bound or 0.0
        if not math.isfinite(value):
            return math.inf
        return value / bound if bound else math.inf

    chosen: list[int] = list(failed[:1])
    for index in sorted(failed[1:], key=badness, reverse=True):
        if len(chosen) == NUMBERED:
            break
        x = _x(index, len(points))
        if all(abs(x - _x(other, len(points))) >= 5 for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def _mark(point: Point, x: float, y: float, style: str = "good") -> str:
    title = f"<title>{text(point.title)}</title>"
    if point.failed:
        shape = '<path d="M0-6 5.5 4.5H-5.5z"/>'
        return f'<svg class="bad" x="{x:.2f}%" y="{y:.1f}">{title}{shape}</svg>'
    return f'<circle class="{style}" cx="{x:.2f}%" cy="{y:.1f}" r="2.6">{title}</circle>'


def _stretched(lines: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 100 {height:.0f}" width="100%" height="{height:.0f}" '
        f'preserveAspectRatio="none">{lines}</svg>'
    )


def _frame(
    axis: _Axis, body: str, ends: Sequence[str], label: str, axis_label: str, below: int = 0
) -> str:
    height = f"{axis.height:.0f}"
    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>' for y, _ in axis.ticks
    )
    names = "".join(f'<text x="50" y="{y + 4:.1f}">{t}</text>' for y, t in axis.ticks)
    return (
        f'<div class="plot"><p class="unit">{text(axis_label)}</p>'
        f'<svg class="scale" aria-hidden="true" width="54" height="{height}">{names}</svg>'
        f'<svg class="area" role="img" aria-label="{text(label)}" width="100%" '
        f'height="{axis.height + below:.0f}">'
        f'<rect class="paper" width="100%" height="{height}"/>{grid}{body}</svg>'
        f'<p class="ends">{"".join(f"<span>{text(name)}</span>" for name in ends)}</p></div>'
    )
