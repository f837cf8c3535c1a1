"""`explain_pair`: localise what differs between two models, and name the causes that explain it."""

from collections.abc import Iterable, Iterator
from typing import Any

from parity.diagnosis import functions
from parity.diagnosis.embedding import of_images, of_norm_pre, of_tokens
from parity.diagnosis.finite import broken
from parity.diagnosis.localize import Localizer
from parity.diagnosis.merging import merged
from parity.diagnosis.modules import of_modules
from parity.diagnosis.running import explain_running
from parity.diagnosis.segments import (
    Identified,
    Segment,
    closest,
    effect_of,
    identify,
    rivals_of,
)  # fmt: skip
from parity.diagnosis.trace import Trace, gap_of, make_trace
from parity.diagnosis.training import explain_training
from parity.diagnosis.untransferred import not_transferred
from parity.diagnosis.vision import of_attention, of_gates, of_heads, of_pooling, of_residuals
from parity.diagnosis.weights import FEW, Unknown, not_finite, of_weights
from parity.findings import Attempt, Cause, Diagnosis
from parity.report import LEVELS
from parity.structures import check_structures, is_float, only_image, tensor
from parity.tolerance import proof_bound
from vit_spec.words import counted

DTYPE = "float64"
WHOLE = "the model"  # where no part of it differs by itself
COARSE_GAPS = 1e-9, 1e-6
"""Gaps that float32 arithmetic within float64 leaves. Its unit is 1.2e-7, which a mean over many
numbers makes smaller."""


def explain_pair(pair: Any, *, level: str = "training", steps: int = 20) -> Diagnosis:
    """Diagnoses a pair in float64, up to `level`, under `parity.precision.exact`."""
    return _Explanation(pair, level, steps).run()


class _Explanation:
    """One diagnosis, collected step by step."""

    def __init__(self, pair: Any, level: str, steps: int):
        self.pair, self.steps = pair, steps
        self.depth_of_level = LEVELS.index(level)
        self.bound = proof_bound(pair.depth)
        self.config = getattr(pair, "config", None)
        self.causes: list[Cause] = []
        self.unexplained: list[str] = []
        self.attempts: list[Attempt] = []
        self.notes: list[str] = []
        self.location: Any = None
        self.advice = ""

    def run(self) -> Diagnosis:
        finite = self._weights()
        if self.advice:
            return Diagnosis(advice=self.advice)
        jax, torch = self.pair.sides(DTYPE)
        sets = self.pair.feed.sets(DTYPE)
        if self.depth_of_level > 0 and finite and not self._random(jax, torch, sets):
            for given in sets.values():
                self._passes(jax, torch, given)
            if not self.causes and set(self.unexplained) <= {WHOLE}:
                self.unexplained.clear()
                self._functions(jax, torch, sets)
            if self.depth_of_level >= LEVELS.index("gradients"):
                self._gradients(jax, torch, sets)
            if self.depth_of_level >= LEVELS.index("optimizer") and self.config is not None:
                self._training(jax, torch)
            if self.depth_of_level >= LEVELS.index("training") and self.config is None:
                causes, unexplained = explain_running(
                    jax, torch, next(iter(sets.values())), self.bound
                )
                self.causes += causes
                self.unexplained += unexplained
        return Diagnosis(
            location=self.location,
            causes=tuple(merged(self.causes)),
            unexplained=tuple(dict.fromkeys(self.unexplained)),
            ruled_out=tuple(self.attempts),
            notes=tuple(self.notes),
        )

    def _weights(self) -> bool:
        """What differs in the weights; whether all of them are finite."""
        ours, theirs, _ = self.pair.states()
        grid = None if self.config is None else self.config.grid
        ours, theirs = ({n: tensor(a) for n, a in state.items()} for state in (ours, theirs))
        broken = not_finite(ours, theirs)
        for name, text in broken.items():
            self.unexplained.append(name)
            self.notes.append(f"{name}: {text}; what is computed from it cannot be compared")
            for state in (ours, theirs):
                state.pop(name, None)
        unknown: list[Unknown] = []
        for found in of_weights(ours, theirs, grid):
            if isinstance(found, Cause):
                self.causes.append(found)
            else:
                self.unexplained.append(found.place)
                self.attempts += found.near
                unknown.append(found)
        self.advice = not_transferred(ours, theirs, {found.place for found in unknown})
        self.notes += [f"{found.place}: {found.text}" for found in unknown[:FEW]]
        if len(unknown) > FEW:
            self.notes.append(f"{counted(len(unknown) - FEW, 'more tensor')} differ in such ways")
        return not broken

    def _random(self, jax: Any, torch: Any, sets: dict[str, Any]) -> bool:
        """Whether a side gives two answers to one question; nothing else can be told then."""
        given = next(iter(sets.values()))
        found = False
        seen: list[dict[str, Any]] = []
        for side, name in ((jax, "JAX"), (torch, "PyTorch")):
            first, second = (dict(side.outputs(given)) for _ in range(2))
            seen.append(first)
            gap = max((gap_of(tensor(first[n]), tensor(second[n])) for n in first), default=0.0)
            if gap <= self.bound or gap == float("inf"):
                continue  # NaN is not random
            found = True
            traces = [make_trace(side.name, side.calls(given), {}) for _ in range(2)]
            place = next(
                (p for p, e in traces[0].events.items()
                 if gap_of(e.output, traces[1].events[p].output) > self.bound), "the model"
            )  # fmt: skip
            texts = {"JAX": "none", "PyTorch": "none", name: "dropout or the like is still active"}
            self.causes.append(
                Cause(
                    place=place or "the model",
                    what="randomness in evaluation",
                    jax=texts["JAX"],
                    torch=texts["PyTorch"],
                    gap=gap,
                    residual=0.0,
                    places=(place or "the model",),
                )
            )
            self.notes.append(
                f"two passes of {name} with the same input differ by {gap:.1e}: switch that off "
                f"and check again, it hides everything else"
            )
        check_structures(*seen)
        return found

    def _passes(self, jax: Any, torch: Any, given: Any) -> None:
        """One forward pass of each side, part by part."""
        images = only_image(given)
        points = getattr(self.pair, "points", None)
        ours = make_trace("jax", jax.calls(given), jax.state(), points, images)
        theirs = make_trace("torch", torch.calls(given), torch.state(), images=images)
        localizer = Localizer(ours, theirs, self.bound, getattr(jax, "variables", None))
        location = localizer.locate()
        self.location = self.location or location
        self.notes += [text for text in broken(ours, theirs, location) if text not in self.notes]
        before, known = len(self.causes) + len(self.unexplained), len(self.causes)
        for a, b in _paired(self._segments(ours, theirs), self._segments(theirs, ours)):
            self._compare(identify(a, self.bound), identify(b, self.bound), localizer)
        order = {"images": -2, "embed": -1, **{path: i for i, path in enumerate(theirs.events)}}
        self.causes[known:] = sorted(
            self.causes[known:], key=lambda c: order.get(c.place.partition(" ")[0], len(order))
        )
        found = len(self.causes) + len(self.unexplained) - before
        if location and location.culprit and not found and not self.causes + self.unexplained:
            self.unexplained.append(location.culprit)
            if COARSE_GAPS[0] <= location.own_gap <= COARSE_GAPS[1]:
                self.notes.append(
                    f"{location.own_gap:.1e} is what float32 leaves: something in "
                    f"{location.culprit} may be computed in it. Flax's attention, for one, takes "
                    f"its softmax in float32 whatever the inputs are; dtype='float32' allows for it"
                )

    def _segments(self, trace: Trace, partner: Trace) -> Iterator[Segment]:
        c = self.config
        eps = 1e-6 if c is None else c.norm_eps
        yield from of_images(trace, partner, raw=getattr(self.pair.feed, "raw", False))
        if c is not None:
            yield from of_tokens(trace, c)
        yield from of_norm_pre(trace)
        yield from of_modules(trace, partner)
        yield from of_attention(trace, None if c is None else c.num_heads)
        yield from of_gates(trace)
        yield from of_residuals(trace)
        prefix = int("cls_token" in trace.state) if c is None else c.num_prefix_tokens
        yield from of_pooling(trace, prefix, eps, "" if c is None else c.pool)
        yield from of_heads(trace)

    def _compare(self, ours: Identified, theirs: Identified, localizer: Localizer) -> None:
        place = ours.segment.place
        if gap_of(ours.segment.target, theirs.segment.target) <= self.bound:
            return  # two ways to the same values
        if ours.settings is None or theirs.settings is None:
            optional = ours.segment.optional
            if (ours.settings is None) == (theirs.settings is None):
                module = place.partition(" ")[0]
                own = localizer.own_gap(module) if module in localizer.paths else None
                if optional or own is None or own <= self.bound:
                    return  # neither side is of a known form, and they agree
            self.unexplained.append(place)
            for found in (ours, theirs):
                side = "JAX" if found is ours else "PyTorch"
                self.attempts += found.as_attempts(side)
            return
        ours, theirs = closest(ours, theirs)
        forms, others = ours.settings or {}, theirs.settings or {}
        for what in dict.fromkeys([*forms, *others]):
            a, b = forms.get(what, "float64"), others.get(what, "float64")
            if a == b or what in ours.segment.ignored:
                continue
            effect = effect_of(what, ours, theirs)
            if effect > self.bound:
                self.causes.append(
                    Cause(
                        place=place or WHOLE,
                        what=what,
                        jax=a,
                        torch=b,
                        gap=effect,
                        residual=min(ours.residual, theirs.residual)
                        if what in ("arithmetic", "products", "variance")
                        else max(ours.residual, theirs.residual),
                        places=(place or WHOLE,),
                        rivals=rivals_of(what, ours, theirs),
                    )
                )

    def _functions(self, jax: Any, torch: Any, sets: dict[str, Any]) -> None:
        """Models without modules in common: only inputs and outputs are seen."""
        for given in sets.values():
            causes, attempts, differs = functions.explain(jax, torch, given, self.bound)
            self.causes += causes
            if differs and not causes:
                self.unexplained.append("output")
                self.attempts += attempts

    def _gradients(self, jax: Any, torch: Any, sets: dict[str, Any]) -> None:
        """Gradients that differ although the forward passes agree."""
        if self.causes or self.unexplained:
            return
        given = next(iter(sets.values()))
        shapes = {n: v.shape for n, v in torch.outputs(given) if is_float(v)}
        pull = self.pair.feed.cotangent(shapes, DTYPE)
        streams = (self.pair.adjusted(side.gradients(given, pull)) for side in (jax, torch))
        ours, theirs = (dict(stream) for stream in streams)
        gaps = {n: gap_of(tensor(ours[n]), tensor(theirs[n])) for n in theirs if n in ours}
        differ = [name for name, gap in gaps.items() if not gap <= self.bound]
        if differ:
            self.unexplained.append(f"gradient of {differ[-1]}")
            self.notes.append(
                f"the forward passes agree, the gradients of {len(differ)} of {len(gaps)} tensors "
                f"do not: look for a stopped or rewritten gradient after {differ[-1]}, the last of "
                f"them in the order of the model"
            )

    def _training(self, jax: Any, torch: Any) -> None:
        causes, unexplained, attempts = explain_training(
            self.pair, jax, torch, self.steps, self.bound
        )
        known = bool(self.causes or self.unexplained)
        self.causes += causes
        if not known:  # a wrong forward pass explains a wrong gradient
            self.unexplained += unexplained
            self.attempts += attempts


def _paired(
    ours: Iterable[Segment], theirs: Iterable[Segment]
) -> Iterator[tuple[Segment, Segment]]:
    """Segments of both sides at the same place with the same purpose."""
    by_key = dict(_keyed(theirs))
    for key, segment in _keyed(ours):
        if key in by_key:
            yield segment, by_key[key]


def _keyed(segments: Iterable[Segment]) -> Iterator[tuple[tuple[str, str, int], Segment]]:
    """Segments by place, purpose, and how many of that kind the place had before."""
    count: dict[tuple[str, str], int] = {}
    for segment in segments:
        key = (segment.place, next(iter(segment.knobs)))
        count[key] = count.get(key, -1) + 1
        yield (*key, count[key]), segment
