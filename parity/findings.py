"""What a diagnosis found, as values. `parity.render` and `parity.html` turn them into text."""

import math
from dataclasses import dataclass

from vit_spec.words import counted, some


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where two models first differ."""

    first: str  # first measuring point out of bounds, in the order of execution
    gap: float  # there, relative to PyTorch's largest value
    bound: float
    culprit: str  # smallest module that differs when both sides get the same input; "" if none
    own_gap: float  # of `culprit`, fed the same input on both sides
    sound: tuple[str, ...] = ()  # parts of `culprit` that agree when fed the same input
    reached: str = ""  # the first of them that already gets another input

    def __str__(self) -> str:
        gap = f"gap {self.gap:.1e} (bound {self.bound:.1e})"
        if not self.culprit:
            return f"First difference: {self.first}, {gap}; given equal inputs, no module differs"
        own = f"given equal inputs, {self.culprit}"
        itself = self.first in (self.culprit, "output")
        if itself:
            start = f"First difference: {self.first}, {gap}; {own}"
        else:
            start = f"{self.first} is the first point that differs, {gap}, but not the cause: {own}"
        if self.reached:
            before = f"{start} already differs before {self.reached}"
            return f"{before}. Look between {self.culprit}'s input and {self.reached}"
        start += " itself differs" if itself else " differs"
        start += f" by {self.own_gap:.1e}" if math.isfinite(self.own_gap) else ""
        if self.sound:
            start += f", while its parts agree ({some(self.sound, 4)}). Look between them"
        return start


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A difference in behaviour that explains a gap."""

    place: str  # where it is seen first: a module, a parameter, or a part of the training step
    what: str  # the behaviour in question, e.g. "activation"
    jax: str  # how JAX behaves, e.g. "tanh GELU"
    torch: str  # how PyTorch behaves
    gap: float  # relative gap at this place as it is
    residual: float  # what is left of it once both sides behave the same
    places: tuple[str, ...] = ()  # all places with this cause
    rivals: tuple[str, ...] = ()  # other causes that explain the same values, in words

    def __str__(self) -> str:
        more = (
            f" (and {counted(len(self.places) - 1, 'more place')})" if len(self.places) > 1 else ""
        )
        rivals = f" (or, explaining it as well, {'; or '.join(self.rivals)})" if self.rivals else ""
        return (
            f"{self.place}{more}: {self.claim}{rivals}; "
            f"gap {self.gap:.1e}, residual after the fix {self.residual:.1e}"
        )

    @property
    def claim(self) -> str:
        """What the cause says, without where and how much."""
        return claim(self.what, self.jax, self.torch)


def claim(what: str, jax: str, torch: str) -> str:
    """A difference in behaviour in words."""
    return f"{what}: JAX {jax}, PyTorch {torch}"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A hypothesis that does not explain a gap, but most of it."""

    place: str
    hypothesis: str
    residual: float

    def __str__(self) -> str:
        return f"{self.place}: {self.hypothesis}: residual {self.residual:.1e}"


NEAR = 0.1


def is_near(residual: float, gap: float) -> bool:
    """Whether a hypothesis that leaves `residual` of a gap explains most of it."""
    return residual <= NEAR * min(gap, 1.0)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where two sides differ and why, as far as the catalogue knows."""

    location: Location | None = None  # None: nothing differs, or no module could be compared
    causes: tuple[Cause, ...] = ()  # in the order of execution; each with a residual within bounds
    unexplained: tuple[str, ...] = ()  # places that differ and that no hypothesis explains
    ruled_out: tuple[Attempt, ...] = ()  # hypotheses that come near there, nearest first
    notes: tuple[str, ...] = ()
    advice: str = ""  # what to do before anything else can be told

    @property
    def explained(self) -> bool:
        """Every difference that was found has a cause."""
        return not self.unexplained
