"""Why running statistics of BatchNorm differ after a training step: each side's own formula.

Shapes: c channels.
"""

from typing import Any

import numpy as np

from parity.diagnosis.trace import gap_of
from parity.findings import Cause
from parity.running_state import Stepped, momentum, stepped
from parity.structures import tensor

OVER = ("over n values", "over n - 1 values")
WHAT = "momentum"
VARIANCE = "variance of the batch in the running one"


def explain_running(
    jax: Any, torch: Any, given: Any, bound: float
) -> tuple[list[Cause], list[str]]:
    """Causes, and statistics that nothing explains."""
    ours, theirs = stepped(jax, given), stepped(torch, given)
    causes: list[Cause] = []
    unexplained: list[str] = []
    kept = ours.kept | theirs.kept
    for name in (n for n in theirs.new if n in ours.new and n not in kept):
        n, gap = theirs.counts.get(name), gap_of(tensor(ours.new[name]), tensor(theirs.new[name]))
        if gap <= bound:
            continue
        a, b = (_identified(side, name, n, bound) for side in (ours, theirs))
        if a is None or b is None:
            unexplained.append(f"state {name}")
            continue
        place = name.rpartition(".")[0]
        (share, form, left), (other, other_form, other_left) = a, b
        residual = max(left, other_left)
        if abs(share - other) > np.sqrt(bound):
            texts = f"{1 - share:.6g}", f"{other:.6g} (that is {1 - other:.6g} in Flax's terms)"
            causes.append(_cause(place, WHAT, texts, gap, residual))
        if (form, other_form) not in ((None, None), OVER) and form != other_form:
            causes.append(_cause(place, VARIANCE, (str(form), str(other_form)), gap, residual))
    return causes, unexplained


def _identified(
    side: Stepped, name: str, n: int | None, bound: float
) -> tuple[float, str | None, float] | None:
    """The batch's share in a statistic, how its variance was taken, and what that leaves."""
    if name not in side.batch:
        return None
    old, new, batch = side.old[name], side.new[name], side.batch[name]
    forms = {None: 1.0} if n is None else {OVER[0]: 1.0, OVER[1]: n / (n - 1)}
    found = []
    for form, factor in forms.items():
        share = momentum(old, new, batch * factor)
        guess = old + share * (batch * factor - old)
        found.append((gap_of(tensor(guess), tensor(new)), share, form))
    residual, share, form = min(found, key=lambda each: each[0])
    return (share, form, residual) if residual <= bound else None


def _cause(place: str, what: str, texts: tuple[str, str], gap: float, residual: float) -> Cause:
    jax, torch = texts
    return Cause(
        place=place, what=what, jax=jax, torch=torch, gap=gap, residual=residual, places=(place,)
    )
