"""A report as text for a terminal."""

import math
from typing import Any

from parity.findings import Diagnosis
from parity.report import Gap, Report

LIMIT = 12  # failures that are listed in full
PLACES, NEAREST = 4, 3  # unexplained places that are listed, and hypotheses at each of them


def render(report: Report) -> str:
    """A table of the largest gap a level, the verdict, what failed first, and the diagnosis."""
    lines = [f"{report.subject}: {report.parameters:,} parameters", ""]
    rows: list[tuple[str, ...]] = [
        ("level", "dtype", "compared", "largest gap", "bound", "where", "")
    ]
    for level in report.levels:
        for dtype in dict.fromkeys(g.dtype for g in report.of(level)):
            rows.append(_row(report, level, dtype))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {2, 3, 4}
    for row in rows:
        cells = (
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    lines += ["", *(f"note: {text}" for text in report.notes)]
    lines += _verdict(report)
    if report.diagnosis is not None and not report.passed:
        lines += ["", render_diagnosis(report.diagnosis)]
    return "\n".join(lines)


def headline(report: Report) -> str:
    """What failed, in one line that begins with the place: the first cause, or what to do first,
    or where the difference begins."""
    if not report.gaps:
        return f"nothing was compared: {report.subject}"
    gap, found = report.failures[0], report.diagnosis
    if found and found.advice:
        return found.advice
    if found and found.causes:
        return str(found.causes[0])
    if found and found.location and gap.level != "weights":
        return f"{found.location.culprit or found.location.first}: {found.location}"
    return f"{_where(gap)}: {gap.level} in {gap.dtype} differ: {_why(gap)}"


def _row(report: Report, level: str, dtype: str) -> tuple[str, ...]:
    gaps = report.of(level, dtype)
    worst: Any = report.worst(level, dtype)
    failed = sum(g in report.failures for g in gaps)
    verdict = "ok" if not failed else f"{failed} FAILED"
    if level == "weights":
        largest, bound = ("same bits", "") if not failed else ("differ", "")
        return (
            level,
            dtype,
            str(len(gaps)),
            largest,
            bound,
            "" if not failed else worst.name,
            verdict,
        )
    return (
        level,
        dtype,
        str(len(gaps)),
        f"{worst.gap:.1e}",
        f"{worst.bound:.1e}",
        _where(worst),
        verdict,
    )


def _where(gap: Gap) -> str:
    return gap.name if gap.step is None else f"{gap.name}, step {gap.step}"


def reached(report: Report) -> str:
    """The last level that was compared; for each dtype where they differ, and why they do."""
    if len(report.levels) == 1:
        return report.level
    last: dict[str, list[str]] = {}  # level -> dtypes
    for dtype in report.dtypes:
        level = next((x for x in reversed(report.levels) if report.of(x, dtype)), "weights")
        last.setdefault(level, []).append(dtype)
    if list(last) == [report.level]:
        return f"up to {report.level}"
    parts = (f"up to {level} in {' and '.join(dtypes)}" for level, dtypes in last.items())
    return ", ".join(parts) + " (training keeps float32 parameters)"


def _verdict(report: Report) -> list[str]:
    cost = f"{report.seconds:.1f} s, peak memory {report.peak_bytes / 2**30:.1f} GiB"
    if report.passed:
        return [f"PASS  {reached(report)}: {len(report.gaps)} quantities agree  ({cost})"]
    lines = [f"FAIL  {len(report.failures)} of {len(report.gaps)} quantities differ  ({cost})"]
    lines.append("first, in the order of computation:")
    for gap in report.failures[:LIMIT]:
        lines.append(f"  {gap.level:9} {gap.dtype:8} {_where(gap)}: {_why(gap)}")
    if len(report.failures) > LIMIT:
        lines.append(f"  ... and {len(report.failures) - LIMIT} more")
    return lines


def _why(gap: Gap) -> str:
    if gap.vacuous and gap.passed:
        return (
            "zero on both sides, which proves nothing: is the head still untrained? "
            "Check a config, or a model with random weights, instead"
        )
    if not math.isfinite(gap.gap) and gap.note:
        return gap.note
    return f"gap {gap.gap:.1e}, bound {gap.bound:.1e}" + (f"  ({gap.note})" if gap.note else "")


def render_diagnosis(diagnosis: Diagnosis) -> str:
    """Where two models differ, the causes, and what was ruled out."""
    lines = ["diagnosis:"]
    if diagnosis.advice:
        lines.append(f"  {diagnosis.advice}")
    if diagnosis.location:
        lines.append(f"  {diagnosis.location}")
    lines += [f"  cause: {cause}" for cause in diagnosis.causes]
    for place in diagnosis.unexplained[:PLACES]:
        lines.append(f"  unexplained: {place}")
        nearest = [a for a in diagnosis.ruled_out if a.place == place][:NEAREST]
        lines += [f"    nearest: {a.hypothesis}: residual {a.residual:.1e}" for a in nearest]
    if len(diagnosis.unexplained) > PLACES:
        lines.append(f"  ... and {len(diagnosis.unexplained) - PLACES} more unexplained places")
    lines += [f"  note: {note}" for note in diagnosis.notes]
    if len(lines) == 1:
        lines.append("  no part of the models was seen to differ")
    return "\n".join(lines)
