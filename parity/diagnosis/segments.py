"""One part of a network with a known formula, and the search for the behaviour that it shows."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from parity.diagnosis.trace import gap_of
from parity.findings import Attempt, claim, is_near
from parity.tolerance import PRACTICE

Settings = Mapping[str, str]
BUDGET = 3000
"""Combinations that are tried at most for one part."""
COARSE = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""Arithmetic that a part may have used in place of float64; the fewest digits first."""
ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Residuals up to this one are equally good, and so are those within `PRACTICE` of the best."""


@dataclass(frozen=True)
class Segment:
    """What one side made of an input, and the formula that should explain it."""

    place: str
    target: Tensor
    knobs: dict[str, tuple[str, ...]]  # behaviour -> its known forms, the usual one first
    predict: Callable[[Settings], Tensor | None]
    told: dict[str, str] = field(default_factory=dict)  # behaviours found by other means
    optional: bool = False  # a guess at the structure, whose failure says nothing
    ignored: tuple[str, ...] = ()  # behaviours that another segment reports
    slack: float = 1.0  # how much more than usual this side's arithmetic rounds


@dataclass(frozen=True)
class Identified:
    """The outcome of a search."""

    segment: Segment
    settings: dict[str, str] | None  # None: nothing fits
    residual: float
    attempts: tuple[tuple[dict[str, str], float], ...] = ()  # what comes near, nearest first
    rivals: tuple[dict[str, str], ...] = ()  # other settings that fit as well

    def as_attempts(self, side: str) -> list[Attempt]:
        """What was tried for one side, by what is unusual in it."""
        texts = []
        for settings, residual in self.attempts:
            unusual = [f"{k} {v}" for k, v in settings.items() if v != self.segment.knobs[k][0]]
            texts.append((f"{side}: {', '.join(unusual) or 'the usual form'}", residual))
        return [
            Attempt(place=self.segment.place, hypothesis=text, residual=residual)
            for text, residual in texts
        ]


def identify(segment: Segment, bound: float) -> Identified:
    """The forms of all behaviours that reproduce the target: as few unusual ones as possible."""
    attempts: list[tuple[dict[str, str], float]] = []
    tried = 0
    for unusual in range(len(segment.knobs) + 1):
        found: list[tuple[dict[str, str], float]] = []
        for settings in _combinations(segment.knobs, unusual):
            tried += 1
            if tried > BUDGET:
                break
            residual = gap_of(segment.predict(settings), segment.target)
            attempts.append((settings, residual))
            if residual <= _limit(segment, settings, bound):
                found.append((settings, residual))
        if found:
            (settings, residual), *others = sorted(found, key=lambda pair: pair[1])
            limit = max(PRACTICE * residual, ROUNDING)
            rivals = tuple({**each, **segment.told} for each, left in others if left <= limit)
            return Identified(segment, {**settings, **segment.told}, residual, rivals=rivals)
        if unusual == 0:
            coarse = _coarse(segment, attempts[0])
            if coarse:
                return coarse
    gap = attempts[0][1]  # what the usual form leaves
    attempts.sort(key=lambda pair: pair[1])
    near = tuple(pair for pair in attempts[:5] if is_near(pair[1], gap))
    return Identified(segment, None, attempts[0][1], near)


def closest(ours: Identified, theirs: Identified) -> tuple[Identified, Identified]:
    """Both sides with those of their settings that differ least: what fits equally well on one
    side is no difference where it also fits on the other."""
    if ours.settings is None or theirs.settings is None:
        return ours, theirs
    a, b = min(
        itertools.product((ours.settings, *ours.rivals), (theirs.settings, *theirs.rivals)),
        key=lambda pair: len(_differing(*pair)),
    )
    return _chosen(ours, a), _chosen(theirs, b)


def _chosen(found: Identified, settings: dict[str, str]) -> Identified:
    fits = [fit for fit in (found.settings, *found.rivals) if fit and fit is not settings]
    return replace(found, settings=settings, rivals=tuple(fits))


def _differing(ours: Settings, theirs: Settings) -> tuple[str, ...]:
    """Behaviours that are not the same on both sides."""
    return tuple(
        what
        for what in dict.fromkeys([*ours, *theirs])
        if ours.get(what, "float64") != theirs.get(what, "float64")
    )


def rivals_of(what: str, ours: Identified, theirs: Identified) -> tuple[str, ...]:
    """What explains the same values as a difference in `what` does, in the words of a cause."""
    a, b = ours.settings or {}, theirs.settings or {}
    known = {w: (a.get(w), b.get(w)) for w in _differing(a, b)}
    texts = []
    for x, y in (*((fit, b) for fit in ours.rivals), *((a, fit) for fit in theirs.rivals)):
        others = {w: (x.get(w), y.get(w)) for w in _differing(x, y)}
        if len(others) == len(known) and others.get(what) != known[what]:
            new = (
                claim(w, *map(str, forms)) for w, forms in others.items() if forms != known.get(w)
            )
            texts.append(" and ".join(new))
    return tuple(dict.fromkeys(texts))


def effect_of(what: str, ours: Identified, theirs: Identified) -> float:
    """How much one behaviour changes what a side made of its own input.

    Zero where neither side's input can be treated as the other side treats its own, while the
    outputs have one shape: the two only draw the line between their parts elsewhere.
    """
    if not (what in ours.segment.knobs and what in theirs.segment.knobs):
        return max(ours.residual, theirs.residual)  # what the usual formula leaves
    gaps = []
    for one, other in ((ours, theirs), (theirs, ours)):
        changed = _swapped(what, one, other)
        if changed is not None and changed.shape == one.segment.target.shape:
            gaps.append(gap_of(changed, one.segment.target))
    if gaps:
        return max(gaps)
    return 0.0 if ours.segment.target.shape == theirs.segment.target.shape else float("inf")


def _swapped(what: str, one: Identified, other: Identified) -> Tensor | None:
    """What one side would make of its input with one behaviour of the other's."""
    if one.settings is None or other.settings is None:
        return None
    form = other.settings[what]
    if form not in one.segment.knobs[what]:
        return None
    return one.segment.predict({**one.settings, what: form})


def _combinations(knobs: dict[str, tuple[str, ...]], unusual: int) -> Iterator[dict[str, str]]:
    usual = {name: forms[0] for name, forms in knobs.items()}
    for names in itertools.combinations(knobs, unusual):
        for forms in itertools.product(*(knobs[name][1:] for name in names)):
            yield {**usual, **dict(zip(names, forms, strict=True))}


def _coarse(segment: Segment, usual: tuple[dict[str, str], float]) -> Identified | None:
    """The usual form in coarser arithmetic, told by values that float64 would hardly produce."""
    settings, residual = usual
    for name, dtype in COARSE.items():
        limit = 64 * torch.finfo(dtype).eps
        if residual <= limit and representable(segment.target, dtype):
            told = {**settings, **segment.told, "arithmetic": name}
            return Identified(segment, told, residual)
    return None


def _limit(segment: Segment, settings: Settings, bound: float) -> float:
    """Hardware adds up rounded products in float32."""
    rounded = settings.get("products", "exact") != "exact"
    if rounded and representable(segment.target, torch.float32):
        return 64 * torch.finfo(torch.float32).eps
    return bound * segment.slack


def representable(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether all values are numbers of a coarser type."""
    return bool((values.to(dtype).to(values.dtype) == values).all())
