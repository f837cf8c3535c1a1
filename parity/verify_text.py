"""A verification as text for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parity import changing

if TYPE_CHECKING:
    from parity.verify import Verification

WIDTH = 40  # characters of a recorded value


def text(verification: "Verification") -> str:
    """What changed, the largest gap a level, recorded and now, then the verdict."""
    recorded, conversion = verification.recorded, verification.now is None
    subject = recorded["target"]["path"] if conversion else recorded["subject"]
    lines = [f"{verification.path}: {recorded['kind']} of {subject}, {recorded['date']}", ""]
    if "change" in recorded:
        lines[1:] = [changing.text(recorded["change"]), ""]
    changes = [
        (c.what, _short(c.recorded), _short(c.now), "MISMATCH" if c.matters else "")
        for c in verification.changes
    ]
    if changes:
        lines += [*aligned([("changed", "recorded", "now", ""), *changes]), ""]
    else:
        lines += ["nothing changed: same weights, versions, devices and settings", ""]
    if verification.now is not None:
        lines += [*aligned(_levels(recorded, verification.now), right=(2, 3, 4)), ""]
    return "\n".join([*lines, _verdict(verification)])


def aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> list[str]:
    """Rows as lines of columns; those in `right` end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _levels(recorded: Any, now: Any) -> list[tuple[str, ...]]:
    before, after = ({(r["level"], r["dtype"]): r for r in c["levels"]} for c in (recorded, now))
    rows = [("level", "dtype", "recorded", "now", "bound", "where", "")]
    for level, dtype in dict.fromkeys([*before, *after]):
        old, new = before.get((level, dtype)), after.get((level, dtype))
        row: Any = new or old
        step = "" if row.get("step") is None else f", step {row['step']}"
        failed = row["failures"] and f"{row['failures']} FAILED"
        rows.append(
            (
                level,
                dtype,
                _gap(old, "largest_gap"),
                _gap(new, "largest_gap"),
                _gap(row, "bound"),
                f"{row['name']}{step}",
                "not run now" if new is None else failed or "ok",
            )
        )
    return rows


def _verdict(verification: "Verification") -> str:
    mismatches = [c for c in verification.changes if c.matters]
    report = verification.report
    entries = "entry differs" if len(mismatches) == 1 else "entries differ"
    problems = [f"{len(mismatches)} {entries} from the certificate"] if mismatches else []
    if report is not None and not report.passed:
        problems.append(
            f"{len(report.failures)} of {len(report.gaps)} quantities differ now: "
            "`parity check` says where and why"
        )
    if problems:
        return f"FAIL  {'; '.join(problems)}"
    if report is None:
        count = sum(verification.recorded["tensors"].values())
        return f"PASS  the same files, {count} tensors bit for bit the same"
    what = f"up to {report.level}" if len(report.levels) > 1 else report.level
    return f"PASS  {what}: {len(report.gaps)} quantities agree, of the same weights"


def _gap(row: Any, key: str) -> str:
    if row is None:
        return "-"
    return row[key] if isinstance(row[key], str) else f"{row[key]:.1e}"


def _short(value: str) -> str:
    value = value or "the same"
    return value if len(value) <= WIDTH else value[: WIDTH - 3] + "..."
