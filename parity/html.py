"""A report as one HTML page that needs nothing but itself. Twin for a terminal: `parity.render`."""

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from parity.figures import gap_plots, groups, loss_curves
from parity.findings import Attempt, Cause, Diagnosis
from parity.markup import code, facts, listing, number, outcome, scrolling, table, text, where
from parity.render import reached
from parity.report import LEVELS, Gap, Report
from vit_spec.words import counted

CAUSES = 3  # in the banner
WORST = 30  # rows of the table of the worst tensors
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
VACUOUS = "zero on both sides, which proves nothing: is the head still untrained?"


def html(
    report: Report,
    *,
    diagnosis: Diagnosis | None = None,
    certificate: Mapping[str, Any] | None = None,
) -> str:
    """A page with the verdict first, then what explains it and everything that was measured.

    Args:
        report: what `parity.check` returned.
        diagnosis: why the sides differ; None: the report's own.
        certificate: JSON-like; shown as it is.
    """
    diagnosis = diagnosis or report.diagnosis
    failed = frozenset(map(id, report.failures))
    word = "PASS" if report.passed else "FAIL"
    sections = (
        _verdict(report, word, diagnosis),
        "" if diagnosis is None else _section("Diagnosis", _diagnosis(diagnosis)),
        _section("Summary", _summary(report, failed)),
        _section("Gaps", gap_plots(report, failed)),
        _section("Loss curves", loss_curves(report)),
        _section("Worst tensors", _worst(report, failed)),
        _section("Notes", listing(report.notes)),
        _section("Settings", _settings(report)),
        "" if certificate is None else _section("Certificate", _certificate(certificate)),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{word}: {text(report.subject)}</title>\n"
        f"<style>\n{_asset('report.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + f"\n</main>\n<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("parity").joinpath(name).read_text(encoding="utf-8")


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _verdict(report: Report, word: str, diagnosis: Diagnosis | None) -> str:
    count = len(report.gaps)
    if report.passed:
        line = _sentence(f"{reached(report)}: {count:,} quantities agree")
    elif not count:
        line = "Nothing was compared."
    else:
        first = report.failures[0]
        why = f"gap {number(first.gap)}, bound {number(first.bound)}"
        note = f" ({text(first.note)})" if first.note else ""
        place = f"{text(first.level)}, {text(first.dtype)}, {code(where(first))}"
        line = (
            f"{len(report.failures):,} of {count:,} quantities differ, the first of them in the "
            f"order of computation: {place}: "
            f"{VACUOUS if first.passed else f'{why}{note}.'}"
        )
    memory = f"{report.peak_bytes / 2**30:.1f} GiB" if report.peak_bytes else "not measured"
    pairs = (
        ("Parameters", f"{report.parameters:,}"),
        ("Level", text(report.level)),
        ("Dtypes", text(", ".join(report.dtypes))),
        ("Time", f"{report.seconds:.1f} s"),
        ("Peak memory", memory),
    )
    return (
        f'<header>\n<div class="verdict {word.lower()}"><h1><strong>{word}</strong> '
        f"{text(report.subject)}</h1>{_found(report, diagnosis)}<p>{line}</p></div>\n"
        f"{facts(pairs)}\n</header>"
    )


def _found(report: Report, diagnosis: Diagnosis | None) -> str:
    """Why a check failed and where, as far as it is known."""
    if report.passed or diagnosis is None:
        return ""
    if diagnosis.advice:
        return f"<p>{text(diagnosis.advice)}.</p>"
    causes = []
    for cause in diagnosis.causes[:CAUSES]:
        more = len(cause.places) - 1
        places = code(cause.place) + (f" and {counted(more, 'more place')}" if more > 0 else "")
        forms = f"JAX {text(cause.jax)}, PyTorch {text(cause.torch)}"
        causes.append(f"<p><strong>Cause</strong> {text(cause.what)} at {places}: {forms}.</p>")
    if len(diagnosis.causes) > CAUSES:
        causes.append(f"<p>And {counted(len(diagnosis.causes) - CAUSES, 'more cause')}.</p>")
    if causes or diagnosis.location is None:
        return "".join(causes)
    return f"<p>{text(diagnosis.location)}.</p>"  # names keep their small letters


def _diagnosis(diagnosis: Diagnosis) -> str:
    location, causes = diagnosis.location, diagnosis.causes
    none = '<p class="quiet">None was found.</p>'
    place = f"<p>{text(location)}.</p>" if location else none
    if diagnosis.advice:
        return f"<p>{text(diagnosis.advice)}.</p>"
    parts = ["<h3>Location</h3>", place, "<h3>Causes</h3>"]
    if causes:
        parts.append(f'<ol class="causes">{"".join(map(_cause, causes))}</ol>')
    if diagnosis.unexplained:
        parts += ["<p>No hypothesis explains these places:</p>", listing(diagnosis.unexplained)]
    elif causes:
        parts.append("<p>Every difference found is explained.</p>")
    else:
        parts.append(none)
    if diagnosis.ruled_out:
        head = (("Place", ""), ("Hypothesis", ""), ("Residual", "n"))
        rows = "".join(map(_attempt, diagnosis.ruled_out))
        parts += ["<h3>Ruled out, though near</h3>", table("Ruled out", head, rows)]
    if diagnosis.notes:
        parts += ["<h3>Notes on the diagnosis</h3>", listing(diagnosis.notes)]
    return "\n".join(parts)


def _sentence(line: str) -> str:
    return f"{text(line[:1].upper() + line[1:])}."


def _cause(cause: Cause) -> str:
    pairs = (
        ("JAX", text(cause.jax)),
        ("PyTorch", text(cause.torch)),
        ("Gap", number(cause.gap)),
        ("Residual after the fix", number(cause.residual)),
    )
    places = ""
    if len(cause.places) > 1:
        names = ", ".join(map(code, cause.places))
        places = f"<details><summary>All {len(cause.places)} places</summary>{names}</details>"
    title = f"<strong>{text(cause.what)}</strong> at {code(cause.place)}"
    others = "".join(f"<p>Or, explaining it as well: {text(each)}.</p>" for each in cause.rivals)
    return f"<li>{title}{facts(pairs)}{others}{places}</li>"


def _attempt(attempt: Attempt) -> str:
    return (
        f'<tr><th scope="row" class="name">{code(attempt.place)}</th>'
        f'<td>{text(attempt.hypothesis)}</td><td class="n">{number(attempt.residual)}</td></tr>'
    )


def _summary(report: Report, failed: frozenset[int]) -> str:
    head = (("Level", ""), ("Dtype", ""), ("Compared", "n"), ("Largest gap", "n"), ("Bound", "n"))
    rows = ""
    for level, dtype, gaps in groups(report):
        worst = report.worst(level, dtype) or gaps[0]
        bits = level == "weights" and not worst.gap
        rows += (
            f'<tr><th scope="row">{text(level)}</th><td>{text(dtype)}</td>'
            f'<td class="n">{len(gaps):,}</td>'
            f'<td class="n">{"same bits" if bits else number(worst.gap)}</td>'
            f'<td class="n">{number(worst.bound)}</td>'
            f'<td class="name">{"" if bits else code(where(worst))}</td>'
            f"<td>{outcome(sum(id(g) in failed for g in gaps))}</td></tr>"
        )
    return table("Summary", (*head, ("Where", "name"), ("Verdict", "")), rows)


WORST_HEAD = (
    ("Tensor", "name", "text"),
    ("Level", "", "number"),
    ("Dtype", "", "text"),
    ("Gap", "n", "number"),
    ("Bound", "n", "number"),
    ("Gap / bound", "n", "number"),
    ("Largest value", "n", "number"),
    ("Verdict", "", "text"),
)


def _badness(gap: Gap) -> float:
    """Gap over bound; what proves nothing or is not finite counts as infinitely bad."""
    if not math.isfinite(gap.gap) or (gap.vacuous and gap.level == "outputs"):
        return math.inf
    return gap.gap / gap.bound if gap.bound else (math.inf if gap.gap else 0.0)


def _worst(report: Report, failed: frozenset[int]) -> str:
    ranked = sorted(report.gaps, key=_badness, reverse=True)[:WORST]
    head = ""
    for title, style, kind in WORST_HEAD:
        order = ' aria-sort="descending"' if title == "Gap / bound" else ""
        head += f'<th scope="col" class="{style}" data-sort="{kind}"{order}>{title}</th>'
    rows = "".join(_worst_row(gap, id(gap) in failed) for gap in ranked)
    body = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    count = f"The {len(ranked)} nearest to their bound or furthest beyond it, " * bool(ranked)
    return f"<p>{count}of {len(report.gaps):,}.</p>{scrolling('Worst tensors', body)}"


def _worst_row(gap: Gap, failed: bool) -> str:
    def cell(value: float) -> str:
        key = value if math.isfinite(value) else "Infinity"  # as JavaScript spells it
        return f'<td class="n" data-value="{key}">{number(value)}</td>'

    note = f'<br><span class="quiet">{text(gap.note)}</span>' if gap.note else ""
    verdict = '<span class="bad">FAILED</span>' if failed else '<span class="ok">ok</span>'
    vacuous = f'<br><span class="quiet">{VACUOUS}</span>' if failed and gap.passed else ""
    return (
        f'<tr><th scope="row" class="name" data-value="{text(where(gap))}">'
        f"{code(where(gap))}{note}{vacuous}</th>"
        f'<td data-value="{LEVELS.index(gap.level)}">{text(gap.level)}</td>'
        f"<td>{text(gap.dtype)}</td>{cell(gap.gap)}{cell(gap.bound)}{cell(_badness(gap))}"
        f"{cell(gap.scale)}<td>{verdict}</td></tr>"
    )


def _settings(report: Report) -> str:
    if not report.settings:
        return '<p class="quiet">None.</p>'
    return facts((text(name), text(value)) for name, value in report.settings.items())


def _certificate(certificate: Mapping[str, Any]) -> str:
    content = json.dumps(certificate, indent=2, ensure_ascii=False, default=str)
    return f"<details><summary>Show the JSON</summary><pre>{text(content)}</pre></details>"
