"""Contenders that take turns: rounds in random order, medians and quartiles, ratios round by round.

What disturbs a machine for a while meets all contenders of a round, and leaves their ratio alone.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def in_rounds(
    run: Callable[[str], float],
    names: Sequence[str],
    rounds: int,
    *,
    deadline: float | None = None,
) -> dict[str, list[float]]:
    """`run(name)` for every name once a round, each round in another order.

    One round more goes ahead and does not count. After the first that does, no round begins that
    would not end before `deadline` (of `time.monotonic`).
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    order, shuffled, longest = list(names), random.Random(0), 0.0
    for number in range(rounds + 1):
        begin = time.monotonic()
        if number > 1 and deadline is not None and begin + longest > deadline:
            break
        shuffled.shuffle(order)
        for name in order:
            value = run(name)
            if number:
                found[name].append(value)
        longest = max(longest, time.monotonic() - begin)
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """All values, their median, and the quartiles around it."""
    low = high = values[0]
    if values[1:]:
        low, _, high = statistics.quantiles(values, method="inclusive")
    return {"median": statistics.median(values), "quartiles": [low, high], "rounds": list(values)}


def ratios(values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]) -> list[dict]:
    """Spread of `values[one] / values[other]`, each of one round, for all pairs that are there."""
    return [
        {"of": one, "by": other}
        | spread([a / b for a, b in zip(values[one], values[other], strict=True)])
        for one, other in pairs
        if values.get(one) and values.get(other)
    ]
