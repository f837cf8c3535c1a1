"""The outcome of the mutants as text and as JSON."""

from typing import Any

from parity.mutants.run import DTYPES, ELSEWHERE, Scores


def render(scores: Scores) -> str:
    """One line a bug, then the shares, the other tolerances and the false alarms."""
    lines = []
    if scores.scores:
        width = max(len(s.mutant.name) for s in scores.scores)
        lines.append(f"{'bug':{width}}  {'  '.join(f'{d:9}' for d in DTYPES)}  named  logits")
        group = ""
        for s in scores.scores:
            if s.mutant.group != group:
                group = s.mutant.group
                lines.append(f"-- {group}")
            caught = "  ".join(f"{s.caught[d] or '-':9}" for d in DTYPES)
            named = "yes" if s.named else "NO"
            lines.append(f"{s.mutant.name:{width}}  {caught}  {named:5}  {s.logits:.0e}".rstrip())
        lines += ["", *_shares(scores)]
    alarms = _alarms(scores) if scores.seeds else ["no healthy pair was checked for false alarms"]
    lines += ["", *alarms]
    reasons = [f"{what} {scores.share(what):.1%}, at least {least:.0%} are needed"
               for what, least in scores.missed.items()]  # fmt: skip
    reasons += [f"{len(scores.alarms)} false alarms"] if scores.alarms else []
    verdict = f"FAIL: {'; '.join(reasons)}" if reasons else "PASS"
    return "\n".join([*lines, "", verdict])


def to_json(scores: Scores) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "bugs": [
            {
                "name": s.mutant.name,
                "group": s.mutant.group,
                "caught": s.caught,
                "named": s.named,
                "logits": s.logits,
                "causes": [str(cause) for cause in s.diagnosis.causes],
            }
            for s in scores.scores
        ],
        "shares": {what: scores.share(what) for what in (*DTYPES, "named")},
        "tolerances": {f"{t:g}": scores.elsewhere(t) for t in ELSEWHERE},
        "healthy pairs": scores.seeds,
        "false alarms": [vars(alarm) for alarm in scores.alarms],
        "closest": {f"{d} {level}": ratio for (d, level), ratio in scores.closest.items()},
        "passed": scores.passed,
    }


def _shares(scores: Scores) -> list[str]:
    count = len(scores.scores)
    lines = [f"caught of {count} bugs, and named by the diagnosis:"]
    for what in (*DTYPES, "named"):
        lines.append(f"  {what:22} {_part(scores.share(what), count)}")
    lines.append("caught by a tolerance on float32 logits alone, as used elsewhere:")
    for tolerance in ELSEWHERE:
        lines.append(f"  {tolerance:<22g} {_part(scores.elsewhere(tolerance), count)}")
    return lines


def _part(share: float, count: int) -> str:
    return f"{round(share * count):4} of {count}  {share:6.1%}"


def _alarms(scores: Scores) -> list[str]:
    lines = [f"healthy pairs: {scores.seeds} seeds, {len(scores.alarms)} false alarms"]
    for (dtype, level), ratio in scores.closest.items():
        lines.append(f"  {dtype:8} {level:9} largest gap {ratio:.2f} of the bound")
    for alarm in scores.alarms[:12]:
        lines.append(
            f"  FALSE ALARM seed {alarm.seed} {alarm.dtype} {alarm.level} {alarm.name}: "
            f"{alarm.excess:.2f} of the bound"
        )
    return lines
