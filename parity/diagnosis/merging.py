"""One cause for all places that it explains."""

import re
from dataclasses import replace

from parity.findings import Cause

_BLOCK = re.compile(r"\d+")


def merged(causes: list[Cause]) -> list[Cause]:
    """One cause for all places that differ in the same way, numbers of blocks apart."""
    found: list[Cause] = []
    for cause in causes:
        for i, known in enumerate(found):
            if (both := _both(known, cause)) is not None:
                found[i] = both
                break
        else:
            found.append(cause)
    return found


def _both(known: Cause, cause: Cause) -> Cause | None:
    """What explains both places, if they are alike and something does."""
    if _BLOCK.sub("#", known.place) != _BLOCK.sub("#", cause.place):
        return None
    for one, other in ((known, cause), (cause, known)):
        explanations = {other.claim, *other.rivals}
        if one.claim in explanations:
            return replace(
                one,
                place=known.place,
                gap=max(known.gap, cause.gap),
                residual=max(known.residual, cause.residual),
                places=tuple(dict.fromkeys((*known.places, *cause.places))),
                rivals=tuple(rival for rival in one.rivals if rival in explanations),
            )
    return None
