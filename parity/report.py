"""What a check found, as values. `parity.render` turns them into text."""

import math
from dataclasses import dataclass, field
from typing import Any

from parity.findings import Diagnosis

LEVELS = ("weights", "outputs", "layers", "gradients", "optimizer", "training")
"""Each level includes those before it."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The largest difference of one compared quantity between the two sides."""

    level: str
    dtype: str
    name: str  # measuring point, parameter (PyTorch's name) or loss
    gap: float  # largest difference, relative to the largest value of the reference
    bound: float  # largest allowed `gap`
    scale: float  # largest absolute value of the reference
    step: int | None = None  # of the first failure, or of the largest gap, in levels with steps
    note: str = ""

    @property
    def passed(self) -> bool:
        """NaN and infinity never pass."""
        return math.isfinite(self.gap) and self.gap <= self.bound

    @property
    def vacuous(self) -> bool:
        """Both sides are zero everywhere, so that nothing was compared."""
        return self.scale == 0 and self.gap == 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of `parity.check`."""

    subject: str
    parameters: int
    level: str
    dtypes: tuple[str, ...]
    gaps: tuple[Gap, ...]  # in the order of computation
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was compared in a special way, and why
    curves: dict[str, dict[str, list[float]]] = field(
        default_factory=dict
    )  # dtype -> side -> losses
    diagnosis: Diagnosis | None = None  # of what failed
    seconds: float = 0.0
    peak_bytes: int = 0  # resident memory of the process
    # what a certificate needs beside that, see `parity.environment`
    models: dict[str, Any] = field(default_factory=dict)  # what `check` was given
    config: dict[str, Any] | None = None  # of twins
    digests: dict[str, str] = field(default_factory=dict)  # side -> SHA-256 of its weights
    environment: dict[str, Any] = field(default_factory=dict)  # versions, device, precision
    date: str = ""  # of the end, UTC

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that were run."""
        return tuple(level for level in LEVELS if any(g.level == level for g in self.gaps))

    @property
    def failures(self) -> tuple[Gap, ...]:
        """Gaps out of bounds, and outputs that are zero on both sides, as they were computed."""
        empty = {"outputs"}
        if all(g.vacuous for g in self.of("gradients")):
            empty.add("gradients")
        return tuple(g for g in self.gaps if not g.passed or (g.vacuous and g.level in empty))

    @property
    def passed(self) -> bool:
        """Everything that was compared agrees, and something was."""
        return bool(self.gaps) and not self.failures

    def of(self, level: str, dtype: str | None = None) -> tuple[Gap, ...]:
        """The gaps of one level, and of one dtype if given."""
        return tuple(g for g in self.gaps if g.level == level and dtype in (None, g.dtype))

    def worst(self, level: str, dtype: str | None = None) -> Gap | None:
        """The gap nearest to its bound, or furthest beyond it."""

        def badness(gap: Gap) -> float:
            if not math.isfinite(gap.gap):
                return math.inf
            return gap.gap / gap.bound if gap.bound else (math.inf if gap.gap else 0.0)

        return max(self.of(level, dtype), key=badness, default=None)

    @property
    def largest_gap(self) -> float:
        """The largest gap of all that was compared, at every level and in every dtype, relative
        to the largest value of the reference. Infinite where there is NaN, infinity or another
        shape, and where outputs are zero on both sides; NaN if nothing was compared.

        A bound of 1e-11 is for float64 alone; in lower precision, `worst` has each gap's own.
        """
        failed = frozenset(map(id, self.failures))
        gaps = (
            math.inf if not math.isfinite(g.gap) or (g.passed and id(g) in failed) else g.gap
            for g in self.gaps
        )
        return max(gaps, default=math.nan)
