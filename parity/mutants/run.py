"""Plants every bug, checks, diagnoses, and counts; and checks healthy pairs for false alarms."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from parity.check import check_pair
from parity.diagnosis.diagnose import explain_pair
from parity.findings import Diagnosis
from parity.mutants.data import DATA
from parity.mutants.model import MODEL
from parity.mutants.mutant import SUBJECT, Mutant, Plant
from parity.mutants.tokens import TOKENS
from parity.mutants.training import TRAINING
from parity.pair import TwinPair
from parity.precision import exact
from parity.report import LEVELS

MUTANTS: tuple[Mutant, ...] = (*MODEL, *TOKENS, *DATA, *TRAINING)
DTYPES = ("float64", "float32", "bfloat16")
ELSEWHERE = (1e-1, 5e-2, 4e-2, 1e-3, 1e-5)
"""Absolute tolerances on float32 logits in other projects' tests (docs/numerics.md names them)."""
TARGETS = {"float64": 1.0, "float32": 0.95, "named": 0.9}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """What the checks made of one bug."""

    mutant: Mutant
    caught: dict[str, str]  # dtype -> cheapest level that fails; "" if none does
    named: bool
    diagnosis: Diagnosis
    logits: float  # largest absolute gap of the float32 logits, native grid


@dataclass(frozen=True)
class Alarm:
    """A level of a healthy pair that failed."""

    seed: int
    dtype: str
    level: str
    name: str
    excess: float  # gap / bound


@dataclass(frozen=True)
class Scores:
    """The outcome of `measure`."""

    scores: tuple[Score, ...]
    alarms: tuple[Alarm, ...]
    seeds: int  # healthy pairs that were checked
    closest: dict[tuple[str, str], float]  # dtype, level -> largest gap / bound of a healthy pair

    def share(self, what: str) -> float:
        """Share of the bugs caught in a dtype, or `named` by the diagnosis."""
        hits = [s.named if what == "named" else bool(s.caught[what]) for s in self.scores]
        return sum(hits) / max(1, len(hits))

    def elsewhere(self, tolerance: float) -> float:
        """Share of the bugs that a tolerance on the logits catches."""
        return sum(s.logits > tolerance for s in self.scores) / max(1, len(self.scores))

    @property
    def missed(self) -> dict[str, float]:
        """Targets that are not met. They are shares of the whole list; of a part of it, float64
        must catch all."""
        if not self.scores:
            return {}
        whole = len(self.scores) == len(MUTANTS)
        targets = TARGETS if whole else {"float64": TARGETS["float64"]}
        return {what: least for what, least in targets.items() if self.share(what) < least}

    @property
    def passed(self) -> bool:
        """All targets are met, and no healthy pair failed."""
        return not self.alarms and not self.missed


def measure(
    mutants: Iterable[Mutant] = MUTANTS,
    *,
    seeds: int = 200,
    steps: int = 20,
    progress: Progress | None = None,
) -> Scores:
    """Scores every mutant, and checks `seeds` healthy pairs at every level in every dtype."""
    show = progress or (lambda line: None)
    mutants = tuple(mutants)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for models of this size
    try:
        return _measure(mutants, seeds, steps, show)
    finally:
        torch.set_num_threads(threads)


def _measure(mutants: tuple[Mutant, ...], seeds: int, steps: int, show: Progress) -> Scores:
    with exact():
        scores = []
        for i, mutant in enumerate(mutants):
            show(f"bug {i + 1} of {len(mutants)}: {mutant.name}")
            scores.append(score(mutant, steps=steps))
        alarms: list[Alarm] = []
        closest: dict[tuple[str, str], float] = {}
        for seed in range(seeds):
            show(f"healthy pair {seed + 1} of {seeds}")
            alarms += false_alarms(Plant(SUBJECT, seed).pair(), steps, closest)
    return Scores(tuple(scores), tuple(alarms), seeds, closest)


def score(mutant: Mutant, *, seed: int = 0, steps: int = 20) -> Score:
    """Checks and diagnoses one bug, under `parity.precision.exact`."""
    pair = mutant.pair(seed)
    caught = {}
    for dtype in DTYPES:
        report = check_pair(pair, level="training", dtypes=(dtype,), steps=steps, explain=False)
        failed = {gap.level for gap in report.failures}
        caught[dtype] = next((level for level in LEVELS if level in failed), "")
    diagnosis = explain_pair(pair, steps=steps)
    return Score(mutant, caught, is_named(mutant, diagnosis), diagnosis, logits_gap(pair))


def is_named(mutant: Mutant, diagnosis: Diagnosis) -> bool:
    """The diagnosis gives the bug's behaviour, place and words, and nothing else."""
    causes = [cause for cause in diagnosis.causes if cause.what not in mutant.also]
    right = [
        cause.what == mutant.what
        and mutant.place in cause.place
        and any(mutant.words in text for text in (cause.jax, cause.torch))
        for cause in causes
    ]
    return bool(right) and all(right) and not diagnosis.unexplained


def logits_gap(pair: TwinPair) -> float:
    """What a test of the logits sees: float32, the native grid, largest absolute difference."""
    jax, torch, _ = pair.sides("float32")
    images = next(iter(pair.feed.sets("float32").values()))
    ours, theirs = (dict(side.outputs(images))["logits"] for side in (jax, torch))
    return float(np.abs(ours - theirs).max())


def false_alarms(pair: TwinPair, steps: int, closest: dict[tuple[str, str], float]) -> list[Alarm]:
    """Levels of a healthy pair that fail; `closest` collects the largest gap / bound."""
    alarms = []
    for dtype in DTYPES:
        report = check_pair(pair, level="training", dtypes=(dtype,), steps=steps, explain=False)
        for level in report.levels[1:]:
            worst = report.worst(level)
            if worst is None:
                continue
            excess = worst.gap / worst.bound
            closest[dtype, level] = max(closest.get((dtype, level), 0.0), excess)
            if not worst.passed:
                alarms.append(Alarm(pair.feed.seed, dtype, level, worst.name, excess))
    return alarms
