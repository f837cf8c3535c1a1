"""What a diagnosis found, as values. `parity.render` and `parity.html` turn them into text."""

from dataclasses import dataclass


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
        text = f"first difference: {self.first}, gap {self.gap:.1e} (bound {self.bound:.1e})"
        if not self.culprit:
            return f"{text}; no module differs when fed the same input"
        own = f"fed the same input, {self.culprit} itself differs by {self.own_gap:.1e}"
        if self.first not in (self.culprit, "output") and self.culprit:
            own = f"{self.first} only inherits it: {own}"
        if self.reached:
            own += f", already before {self.reached}: look at what that one is given"
        elif self.sound:
            own += f", while its parts agree ({', '.join(self.sound)}): look between them"
        return f"{text}; {own}"


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
            f" (and {plural(len(self.places) - 1, 'more place')})" if len(self.places) > 1 else ""
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


def plural(count: int, thing: str) -> str:
    """`1 place`, `2 places`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A hypothesis that does not explain a gap."""

    place: str
    hypothesis: str
    residual: float

    def __str__(self) -> str:
        return f"{self.place}: {self.hypothesis}: residual {self.residual:.1e}"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where two sides differ and why, as far as the catalogue knows."""

    location: Location | None = None  # None: nothing differs, or no module could be compared
    causes: tuple[Cause, ...] = ()  # in the order of execution; each with a residual within bounds
    unexplained: tuple[str, ...] = ()  # places that differ and that no hypothesis explains
    ruled_out: tuple[Attempt, ...] = ()  # best hypotheses at those places, nearest first
    notes: tuple[str, ...] = ()

    @property
    def explained(self) -> bool:
        """Every difference that was found has a cause."""
        return not self.unexplained
