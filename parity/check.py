"""`check`: is a JAX model the same function as a PyTorch model, and does it train the same?"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.diagnosis.diagnose import explain_pair
from parity.diagnosis.finite import overflow
from parity.environment import environment, models, now
from parity.findings import Diagnosis
from parity.gaps import over_steps, practice, proof, same_bits
from parity.memory import peak_bytes
from parity.pair import Pair, Pick, Prepares, make_pair
from parity.precision import exact
from parity.report import LEVELS, Gap, Report
from parity.rules import Rule
from parity.sides import Measurements
from parity.structures import check_structures, is_float
from parity.wide_sums import HALVES, NOTE
from vit_spec import OptimConfig
from vit_spec.names import unknown_name
from vit_spec.training_state import digest

DTYPES = ("float64", "float32", "bfloat16", "float16")
TRAINABLE = ("float64", "float32")  # in half precision, training keeps float32 parameters
ADAM_EPSILON = 1e-4
"""Larger than in training, for a sharper check. Adam multiplies the rounding noise of a gradient
near zero (the bias of the keys, whose gradient is zero in exact arithmetic) by up to lr / epsilon,
and an epsilon in the wrong place shows the more the larger it is."""
Progress = Callable[[str], None]


def check(
    model: Any,
    twin: Any = None,
    *,
    level: str = "training",
    dtype: str | Iterable[str] = "float64",
    batch_size: int = 3,
    steps: int = 20,
    seed: int = 0,
    inputs: Any = None,
    rules: Iterable[Rule] = (),
    image_outputs: bool = False,
    jax_kwargs: Mapping[str, Any] | None = None,
    torch_kwargs: Mapping[str, Any] | None = None,
    jax_output: Pick | None = None,
    torch_output: Pick | None = None,
    preprocess: Prepares | None = None,
    training: tuple[Any, Any] | None = None,
    optim: OptimConfig | None = None,
    explain: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Compares a JAX model with a PyTorch model, up to `level`.

    Args:
        model: a twin of this project, a checkpoint directory, or a config or a variant's name,
            which stand for random weights that no part of the model can hide behind. Or any other
            JAX model: a Flax NNX module, or a function `(params, *inputs)` with its parameters,
            as a pair, such as `(linen_model.apply, variables)`.
        twin: what to compare it with; None: the model itself, carried to the other framework.
            For any other JAX model: any `torch.nn.Module`.
        level: `weights`, `outputs`, `layers`, `gradients`, `optimizer` or `training`; each
            includes those before it (see docs/numerics.md).
        dtype: `float64` is the proof; `float32`, `bfloat16` and `float16` compare both sides with
            the float64 result. One or several.
        batch_size: images in a batch, at least 2; odd, so that unequal parts of it show.
        steps: optimizer steps of the `training` level.
        seed: of all inputs.
        inputs: for models that are not this project's twins: NumPy arrays in any structure, a
            tuple for positional arguments, a dict for keywords; `parity.Image(array)` marks images
            (b, H, W, c) that PyTorch takes as (b, c, H, W).
        rules: of such models, where names do not mirror (`parity.Rule`).
        image_outputs: outputs of rank 4 of such models are images, too.
        jax_kwargs, torch_kwargs: keywords that only one of such models takes, such as
            `{"deterministic": True}`; arrays in NumPy.
        jax_output, torch_output: where such models return other structures, functions that pick
            what is compared, such as `lambda output: output.logits`.
        preprocess: the preprocessing of either side, JAX's first, None for none: functions of
            8-bit images (b, H, W, c), float64, that return what the model takes.
        optim: the optimizer of the levels `optimizer` and `training`, which decides how long its
            schedule is; None: AdamW with everything switched on. Not for other models than twins.
        training: modules or objects with the functions of `vit_jax.training` and of
            `vit_torch.training` that are to be checked in place of those.
        explain: where something differs, localise it and look for the cause.
        progress: called with a line of text before each level.

    Raises:
        ValueError: unknown level or dtype, rules that match nothing, or models that cannot be a
            pair or return other structures.
    """
    dtypes, rules = _checked(level, dtype, batch_size, steps), tuple(rules)
    others = {
        "rules": rules,
        "image_outputs": image_outputs,
        "jax_kwargs": jax_kwargs,
        "torch_kwargs": torch_kwargs,
        "jax_output": jax_output,
        "torch_output": torch_output,
        "preprocess": preprocess,
        "training": training,
    }
    given = models(model, twin, inputs=inputs, **others, optim=optim)
    with exact():
        pair = make_pair(
            model,
            twin,
            given=inputs,
            batch_size=batch_size,
            seed=seed,
            **others,
        )
        report = check_pair(
            pair,
            level=level,
            dtypes=dtypes,
            steps=steps,
            optim=optim,
            progress=progress,
            explain=explain,
        )
    return replace(report, models=given)


def check_pair(
    pair: Pair,
    *,
    level: str,
    dtypes: tuple[str, ...] = ("float64",),
    steps: int = 20,
    optim: OptimConfig | None = None,
    progress: Progress | None = None,
    explain: bool = True,
) -> Report:
    """`check` of a pair that has been made, under the settings of `parity.precision.exact`."""
    start = time.perf_counter()
    if not pair.parameters:  # functions: nothing to train
        level = LEVELS[min(LEVELS.index(level), LEVELS.index("gradients"))]
    levels = LEVELS[: LEVELS.index(level) + 1]
    run = _Run(pair, steps, optim or optim_config(steps), progress or (lambda line: None))
    gaps = tuple(run.gaps(levels, dtypes))
    report = Report(
        subject=pair.subject,
        parameters=pair.parameters,
        level=level,
        dtypes=dtypes,
        gaps=gaps,
        settings={"batch_size": pair.feed.batch_size, "steps": steps, "seed": pair.feed.seed},
        notes=(*pair.notes, *run.notes),
        curves=run.curves,
        config=None if (config := getattr(pair, "config", None)) is None else config.to_dict(),
        digests=run.digests,
        environment=environment(getattr(pair, "torch_model", None)),
    )
    if explain and not report.passed:
        run.progress("what failed")
        known = level if optim is None else min(level, "gradients", key=LEVELS.index)
        diagnosis = explain_pair(pair, level=known, steps=steps)
        report = replace(report, diagnosis=_with_precision(diagnosis, report, pair))
    seconds = time.perf_counter() - start
    return replace(report, seconds=seconds, peak_bytes=peak_bytes(), date=now())


def _with_precision(diagnosis: Diagnosis, report: Report, pair: Pair) -> Diagnosis:
    """A note where float64 has no fault: the arithmetic of a coarser type is to blame."""
    coarse = [gap for gap in report.failures if gap.dtype != "float64" and gap.note]
    if diagnosis.causes or diagnosis.unexplained or len(coarse) < len(report.failures):
        return diagnosis
    first = coarse[0]
    agree, what = "in float64 both sides agree", f"{first.name} does not ({first.note})"
    if math.isfinite(first.gap):
        why = f"{what}: the arithmetic of the side that is further away loses digits"
    elif where := overflow(pair, first.dtype):
        why = where
    else:
        why = what
    note = f"{agree}; in {first.dtype} {why}"
    return replace(diagnosis, notes=(*diagnosis.notes, note))


class _Run:
    """One check of one pair."""

    def __init__(self, pair: Pair, steps: int, optim: OptimConfig, progress: Progress):
        self.pair, self.feed, self.steps, self.progress = pair, pair.feed, steps, progress
        self.optim = optim
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.notes: list[str] = []
        self.digests: dict[str, str] = {}
        self.updates: Iterator[list[Gap]] = iter(())
        self.first_updates: list[list[Gap]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unlike: list[str] = []  # outputs of other shapes, which nothing can be pulled through

    def gaps(self, levels: tuple[str, ...], dtypes: tuple[str, ...]) -> Iterator[Gap]:
        """The gaps of all levels, `weights` once and the others for each dtype."""
        self.progress("weights")
        yield from self._weights()
        for dtype in dtypes:
            sides = self.pair.sides(dtype)
            self.updates = self._updates(dtype, sides)
            for level in levels[1:]:
                if level in ("optimizer", "training") and dtype not in TRAINABLE:
                    continue
                if self.unlike and level not in ("outputs", "layers"):
                    continue
                self.progress(f"{level} in {dtype}")
                yield from getattr(self, f"_{level}")(dtype, sides)
            self.notes += sides[1].sums.notes
            if "gradients" in levels and dtype in HALVES:
                self.notes.append(NOTE.format(dtype=dtype))
        if self.unlike:
            self.notes.append(
                f"outputs have other shapes, {self.unlike[0]}: nothing beyond layers is compared"
            )

    def _compare(
        self,
        level: str,
        dtype: str,
        streams: list[Measurements],
        label: str = "",
        terms: Callable[[], int] = lambda: 1,
    ) -> Iterator[Gap]:
        streams = [_labelled(self.pair.adjusted(stream), label) for stream in streams]
        if dtype == "float64":
            yield from proof(level, *streams, depth=self.pair.depth)
        else:
            yield from practice(level, dtype, *streams, depth=self.pair.depth, terms=terms)

    def _weights(self) -> Iterator[Gap]:
        """Both sides hold the same bits, and a round trip through the other layout keeps them."""
        states = self.pair.states()
        self.digests = {"jax": digest(states[0]), "torch": digest(states[1])}
        for name in dict.fromkeys([*states[1], *states[0]]):
            yield same_bits(name, *(state.get(name) for state in states))

    def _outputs(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        for label, given in self.feed.sets(dtype).items():
            seen: list[dict[str, np.ndarray]] = [{} for _ in sides]
            streams = [_kept(s.outputs(given), kept) for s, kept in zip(sides, seen, strict=True)]
            yield from self._compare("outputs", dtype, streams, label)
            ours, theirs, *_ = seen
            check_structures(ours, theirs)
            self.shapes |= {n: value.shape for n, value in theirs.items() if is_float(value)}
            if not self.shapes:
                raise ValueError("there is no output to compare: neither model returned an array")
            self.unlike += [
                f"{name} (JAX {value.shape}, PyTorch {theirs[name].shape})"
                for name, value in ours.items()
                if value.shape != theirs[name].shape
            ]

    def _layers(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        for label, given in self.feed.sets(dtype).items():
            yield from self._compare("layers", dtype, self.pair.layers(sides, given), label)

    def _gradients(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        pull = self.feed.cotangent(self.shapes, dtype)
        for label, given in self.feed.sets(dtype).items():
            streams = [s.gradients(given, pull) for s in sides]
            terms = _terms(sides)
            yield from self._compare("gradients", dtype, streams, label, terms)

    def _optimizer(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        """The first updates of the training run: by warmup's first rate, 0, and by the second."""
        self.first_updates = list(itertools.islice(self.updates, 2))
        yield from over_steps("optimizer", self.first_updates)

    def _training(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        yield from over_steps("training", itertools.chain(self.first_updates, self.updates))
        for label, given in self.feed.sets(dtype).items():
            yield from self._compare("training", dtype, self.pair.running(sides, given), label)

    def _updates(self, dtype: str, sides: list[Any]) -> Iterator[list[Gap]]:
        """The gaps after each step of the optimizer, as the steps are made."""
        batches = [self.feed.batches(self.shapes, self.steps, dtype) for _ in sides]
        runs = [s.train(self.optim, b) for s, b in zip(sides, batches, strict=True)]
        curves = self.curves[dtype] = {s.name: [] for s in sides[:2]}
        for streams in zip(*runs, strict=True):
            recorded = [_recorded(s, c) for s, c in zip(streams, curves.values(), strict=False)]
            measured = [*recorded, *streams[2:]]
            yield list(self._compare("training", dtype, measured, terms=_terms(sides)))


def optim_config(steps: int) -> OptimConfig:
    """The optimizer of the levels `optimizer` and `training`: everything in it is switched on."""
    return OptimConfig(
        lr=1e-3,
        warmup_steps=steps // 5,
        total_steps=steps,
        weight_decay=0.05,
        eps=ADAM_EPSILON,
        clip_norm=1.0,
        label_smoothing=0.1,
        ema_decay=0.9,
    )


def _terms(sides: list[Any]) -> Callable[[], int]:
    """How many numbers the longest sum over rows had in PyTorch's backward passes so far."""
    return lambda: sides[1].sums.terms


def _kept(stream: Measurements, values: dict[str, np.ndarray]) -> Measurements:
    for name, value in stream:
        values[name] = value
        yield name, value


def _labelled(stream: Measurements, label: str) -> Measurements:
    for name, value in stream:
        yield (f"{name} @ {label}" if label else name), value


def _recorded(stream: Measurements, losses: list[float]) -> Measurements:
    for name, value in stream:
        if name == "loss":
            losses.append(float(value))
        yield name, value


def _checked(
    level: str, dtype: str | Iterable[str], batch_size: int, steps: int
) -> tuple[str, ...]:
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    problems = [] if level in LEVELS else [unknown_name("level", level, LEVELS)]
    problems += [unknown_name("dtype", d, DTYPES) for d in dtypes if d not in DTYPES]
    if not dtypes:
        problems.append(f"no dtype given: choose from {', '.join(DTYPES)}")
    if batch_size < 2:
        problems.append(
            f"batch_size {batch_size} must be at least 2: one image hides mixed-up axes"
        )
    if steps < 1:
        problems.append(f"steps {steps} must be at least 1")
    if problems:
        raise ValueError("; ".join(problems))
    return dtypes
