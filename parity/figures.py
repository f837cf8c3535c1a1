"""The plots of a report: gaps of every level and dtype, and loss curves."""

import math
from collections.abc import Iterable, Sequence

from parity.markup import outcome, text, where
from parity.plots import Point, line_plot, log_plot
from parity.report import Gap, Report

SIDES = {"jax": "JAX", "torch": "PyTorch"}
KEY = (
    ('<circle class="good" cx="11" cy="6" r="2.6"/>', "within its bound"),
    ('<svg class="bad" x="11" y="7"><path d="M0-6 5.5 4.5H-5.5z"/></svg>', "out of bounds"),
    ('<path class="bound" d="M3 6H19"/>', "bound"),
)
CURVES = (
    ('<path class="curve side0" d="M0 6H24"/>', SIDES["jax"]),
    ('<path class="curve side1" d="M0 6H24"/>', SIDES["torch"]),
)


def groups(report: Report) -> Iterable[tuple[str, str, tuple[Gap, ...]]]:
    for level in report.levels:
        for dtype in dict.fromkeys(g.dtype for g in report.of(level)):
            yield level, dtype, report.of(level, dtype)


def gap_plots(report: Report, failed: frozenset[int]) -> str:
    parts = [
        "<p>The largest difference of each quantity, relative to the largest value of the "
        "reference, in the order of computation.</p>",
        _key(KEY),
    ]
    for level in report.levels:
        of_level = ((dtype, gaps) for name, dtype, gaps in groups(report) if name == level)
        figures = "".join(_figure(level, dtype, gaps, failed) for dtype, gaps in of_level)
        parts.append(f'<h3>{text(level).capitalize()}</h3>\n<div class="plots">{figures}</div>')
    return "\n".join(parts) if report.gaps else '<p class="quiet">Nothing was compared.</p>'


def _figure(level: str, dtype: str, gaps: Sequence[Gap], failed: frozenset[int]) -> str:
    points = [
        Point(name=where(g), value=g.gap, bound=g.bound, failed=id(g) in failed) for g in gaps
    ]
    bad = sum(p.failed for p in points)
    plural = "quantity" if len(gaps) == 1 else "quantities"
    label = f"{level}, {dtype}: gaps of {len(gaps)} {plural}, {bad} out of bounds"
    plot = log_plot(points, label=label, axis_label="gap, log scale")
    caption = f"<strong>{text(dtype)}</strong>: {len(gaps):,} {plural}, {outcome(bad)}"
    return f"<figure><figcaption>{caption}</figcaption>{plot}</figure>"


def loss_curves(report: Report) -> str:
    figures = []
    for dtype, sides in report.curves.items():
        series = {SIDES.get(side, side): values for side, values in sides.items() if values}
        if not series:
            continue
        label = f"{dtype}: losses of {' and '.join(series)}"
        plots = line_plot(series, label=label, axis_label="loss")
        if len(series) == 2:
            pairs = zip(*series.values(), strict=False)
            gaps = [
                Point(name=f"step {i}", value=(gap := abs(a - b)), failed=not math.isfinite(gap))
                for i, (a, b) in enumerate(pairs)
            ]
            label = f"{dtype}: absolute difference of the losses, step by step"
            plots += log_plot(gaps, label=label, axis_label="absolute difference, log scale")
        caption = f"<figcaption><strong>{text(dtype)}</strong></figcaption>"
        figures.append(f"<figure>{caption}{plots}</figure>")
    if not figures:
        return '<p class="quiet">No training was compared.</p>'
    return f'{_key(CURVES)}<div class="plots">{"".join(figures)}</div>'


def _key(entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><svg width="24" height="12" aria-hidden="true">{shape}</svg>{name}</li>'
        for shape, name in entries
    )
    return f'<ul class="key">{items}</ul>'
