"""`check`: is a JAX model the same function as a PyTorch model, and does it train the same?"""

import itertools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

import vit_jax
import vit_torch
from parity import inputs
from parity.compare import over_steps, practice, proof
from parity.null_gradients import explained, joined
from parity.pair import Model, make_pair
from parity.precision import exact
from parity.report import LEVELS, Gap, Report
from parity.sides import JaxSide, Measurements, TorchSide
from parity.twins import weights
from vit_spec import OptimConfig, ViTConfig, count_parameters
from vit_spec.layout import to_jax_layout, to_torch_layout
from vit_spec.names import unknown_name

DTYPES = ("float64", "float32", "bfloat16", "float16")
TRAINABLE = (
    "float64",
    "float32",
)  # half precision has no optimizer levels: training keeps float32 parameters
ADAM_EPSILON = 1e-5
"""Larger than in training, for a sharper check. Adam multiplies the rounding noise of a gradient
near zero (the bias of the keys, whose gradient is zero in exact arithmetic) by up to lr / epsilon,
and an epsilon in the wrong place shows the more the larger it is."""
Progress = Callable[[str], None]


def check(
    model: Model | ViTConfig | str | os.PathLike[str],
    twin: Model | str | os.PathLike[str] | None = None,
    *,
    level: str = "training",
    dtype: str | Iterable[str] = "float64",
    batch_size: int = 2,
    steps: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compares both sides on random inputs, up to `level`.

    Args:
        model: a live twin, a checkpoint directory, or a config or a variant's name, which stand
            for random weights that no part of the model can hide behind.
        twin: what to compare it with; None: the model itself, carried to the other framework.
        level: `weights`, `outputs`, `layers`, `gradients`, `optimizer` or `training`; each
            includes those before it (see DESIGN and docs/numerics.md).
        dtype: `float64` is the proof; `float32`, `bfloat16` and `float16` compare both sides with
            the float64 result. One or several.
        batch_size: images in a batch, at least 2.
        steps: AdamW steps of the `training` level.
        seed: of all inputs.
        progress: called with a line of text before each level.

    Raises:
        ValueError: unknown level or dtype, or models that cannot be a pair.
    """
    dtypes = _checked(level, dtype, batch_size, steps)
    start = time.perf_counter()
    with exact():
        jax_model, torch_model, subject = make_pair(model, twin, seed)
        config = torch_model.config
        run = _Run(
            config, jax_model, torch_model, batch_size, steps, seed, progress or (lambda line: None)
        )
        gaps = [gap for gap in run.gaps(LEVELS[: LEVELS.index(level) + 1], dtypes)]
    return Report(
        subject=subject,
        parameters=count_parameters(config),
        level=level,
        dtypes=dtypes,
        gaps=tuple(gaps),
        settings={"batch_size": batch_size, "steps": steps, "seed": seed},
        notes=explained(config) if "gradients" in LEVELS[: LEVELS.index(level) + 1] else (),
        curves=run.curves,
        seconds=time.perf_counter() - start,
        peak_bytes=peak_bytes(),
    )


class _Run:
    """One check of one pair."""

    def __init__(
        self,
        config: ViTConfig,
        jax_model: vit_jax.ViT,
        torch_model: vit_torch.ViT,
        batch_size: int,
        steps: int,
        seed: int,
        progress: Progress,
    ):
        self.config, self.jax_model, self.torch_model = config, jax_model, torch_model
        self.batch_size, self.steps, self.seed, self.progress = batch_size, steps, seed, progress
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.updates: Iterator[list[Gap]] = iter(())
        self.first_updates: list[list[Gap]] = []

    def gaps(self, levels: tuple[str, ...], dtypes: tuple[str, ...]) -> Iterator[Gap]:
        """The gaps of all levels, `weights` once and the others for each dtype."""
        self.progress("weights")
        yield from self._weights()
        for dtype in dtypes:
            sides = self._sides(dtype)
            self.updates = self._updates(dtype, sides)
            for level in levels[1:]:
                if level in ("optimizer", "training") and dtype not in TRAINABLE:
                    continue
                self.progress(f"{level} in {dtype}")
                yield from getattr(self, f"_{level}")(dtype, sides)

    def _sides(self, dtype: str) -> list[Any]:
        """JAX and PyTorch in `dtype`; below float64 also PyTorch in float64."""
        sides: list[Any] = [JaxSide(self.jax_model, dtype), TorchSide(self.torch_model, dtype)]
        return sides if dtype == "float64" else [*sides, TorchSide(sides[1].model, "float64")]

    def _compare(
        self, level: str, dtype: str, streams: list[Measurements], label: str = ""
    ) -> Iterator[Gap]:
        streams = [_labelled(joined(stream, self.config), label) for stream in streams]
        if dtype == "float64":
            yield from proof(level, *streams, depth=self.config.depth)
        else:
            yield from practice(level, dtype, *streams, depth=self.config.depth)

    def _weights(self) -> Iterator[Gap]:
        """Both sides hold the same bits, and a round trip through the other layout keeps them."""
        torch_state = weights(self.torch_model)
        jax_state = weights(self.jax_model)
        names = [(name, rank) for name, rank in vit_jax.api.names(self.jax_model)]
        there_and_back = to_torch_layout(to_jax_layout(torch_state, names))
        for name in dict.fromkeys([*torch_state, *jax_state]):
            states = (jax_state, torch_state, there_and_back)
            yield _same_bits(name, *(state.get(name) for state in states))

    def _outputs(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        for label, images in self._image_sets(dtype).items():
            yield from self._compare("outputs", dtype, [s.outputs(images) for s in sides], label)

    def _layers(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        for label, images in self._image_sets(dtype).items():
            yield from self._compare("layers", dtype, [s.layers(images) for s in sides], label)

    def _gradients(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        pull = rounded(inputs.cotangent(self.config, self.batch_size, self.seed), dtype)
        for label, images in self._image_sets(dtype).items():
            yield from self._compare(
                "gradients", dtype, [s.gradients(images, pull) for s in sides], label
            )

    def _optimizer(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        """The first updates of the training run: by warmup's first rate, 0, and by the second."""
        self.first_updates = list(itertools.islice(self.updates, 2))
        yield from over_steps("optimizer", self.first_updates)

    def _training(self, dtype: str, sides: list[Any]) -> Iterator[Gap]:
        yield from over_steps("training", itertools.chain(self.first_updates, self.updates))

    def _updates(self, dtype: str, sides: list[Any]) -> Iterator[list[Gap]]:
        """The gaps after each AdamW step, as the steps are made."""
        optim = OptimConfig(
            lr=1e-3,
            warmup_steps=self.steps // 5,
            total_steps=self.steps,
            weight_decay=0.05,
            eps=ADAM_EPSILON,
            clip_norm=1.0,
            label_smoothing=0.1,
            ema_decay=0.9,
        )
        runs = [s.train(optim, self._batches(dtype)) for s in sides]
        curves = self.curves[dtype] = {s.name: [] for s in sides[:2]}
        for streams in zip(*runs, strict=True):
            recorded = [_recorded(s, c) for s, c in zip(streams, curves.values(), strict=False)]
            yield list(self._compare("training", dtype, [*recorded, *streams[2:]]))

    def _image_sets(self, dtype: str) -> dict[str, np.ndarray]:
        sets = inputs.image_sets(self.config, self.batch_size, self.seed)
        return {label: rounded(images, dtype) for label, images in sets.items()}

    def _batches(self, dtype: str) -> Iterator[inputs.Batch]:
        for batch in inputs.batches(self.config, self.batch_size, self.steps, self.seed):
            masks = {site: rounded(mask, dtype) for site, mask in batch.masks.items()}
            yield inputs.Batch(rounded(batch.images, dtype), batch.labels, masks)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Float64 values that `dtype` can hold, so that every precision sees the same numbers."""
    return array.astype(np.dtype(dtype)).astype(np.float64)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _labelled(stream: Measurements, label: str) -> Measurements:
    for name, value in stream:
        yield (f"{name} @ {label}" if label else name), value


def _recorded(stream: Measurements, losses: list[float]) -> Measurements:
    for name, value in stream:
        if name == "loss":
            losses.append(float(value))
        yield name, value


def _same_bits(
    name: str, jax: np.ndarray | None, torch: np.ndarray | None, back: np.ndarray | None
) -> Gap:
    note, gap, scale = "", 0.0, 0.0
    if jax is None or torch is None or back is None:
        gap, note = np.inf, f"only {'PyTorch' if jax is None else 'JAX'} has it"
    elif jax.shape != torch.shape or jax.dtype != torch.dtype:
        gap, note = np.inf, f"JAX {jax.dtype} {jax.shape}, PyTorch {torch.dtype} {torch.shape}"
    else:
        scale = float(np.abs(torch.astype(np.float64)).max(initial=0.0))
        for other, what in ((jax, "differ"), (back, "are changed by the round trip")):
            if np.ascontiguousarray(other).tobytes() != np.ascontiguousarray(torch).tobytes():
                count = np.count_nonzero(other != torch)
                gap, note = (
                    max(count / max(1, torch.size), 1e-300),
                    f"{count} of {torch.size} values {what}",
                )
    return Gap(
        level="weights",
        dtype=torch.dtype.name if torch is not None else "",
        name=name,
        gap=gap,
        bound=0.0,
        scale=scale,
        note=note,
    )


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
