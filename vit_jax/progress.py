"""How far a run is and how fast: what its checkpoints carry beside the state, and its speed."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from vit_jax.evaluation import TestResult
from vit_spec import ViTConfig
from vit_spec.flops import peak_flops, train_flops


@dataclass
class Progress:
    """JSON values that a checkpoint carries, so that a resumed run is the one that went on."""

    step: int = 0
    """Updates done."""
    skipped: int = 0
    """Of these, updates that were not finite and changed nothing."""
    accuracy: float | None = None
    """Test accuracy of the last evaluation."""
    test_images: int = 0
    """Images that it is of."""
    test: dict[str, Any] = field(default_factory=dict)
    """What else that evaluation found: `loss`, `top5` and for each class `right` and `of_class`."""
    evaluated: int = 0
    """Step of the last evaluation."""
    best_accuracy: float | None = None
    """Highest test accuracy so far."""
    best_step: int = 0
    """Step that had it."""
    seconds: float = 0.0
    """Time of all steps so far, without evaluation and compilation."""
    waited: float = 0.0
    """Of that, time in which the next batch was waited for."""
    timed: int = 0
    """Steps that `seconds` is of."""
    operations: float = 0.0
    """Of the model in these steps, as `vit_spec.flops` counts them."""
    resumes: int = 0
    """How often the run was continued."""
    pending: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the steps since the last line."""

    def note(self, found: TestResult) -> bool:
        """Takes the result of an evaluation; whether it is the best so far."""
        self.accuracy, self.test_images, self.evaluated = found.accuracy, found.images, self.step
        self.test = {name: getattr(found, name) for name in ("loss", "top5", "right", "of_class")}
        if self.best_accuracy is not None and found.accuracy <= self.best_accuracy:
            return False
        self.best_accuracy, self.best_step = found.accuracy, self.step
        return True


class Speed:
    """Images a second, share of the peak that the model's products use (MFU), share of waiting.

    MFU is defined in https://arxiv.org/abs/2204.02311, appendix B; left out where the devices' peak
    is not known. It is that of bfloat16, whatever the run computes in.
    """

    def __init__(self, config: ViTConfig, batch_size: int, progress: Progress):
        self._config, self._images, self._progress = config, batch_size, progress
        devices = jax.devices()
        peak = peak_flops(devices[0].device_kind)
        self._peak = peak and peak * len(devices)
        self._operations: dict[tuple[int, int], float] = {}  # of a step, by size of the images
        self._clock, self._wait = time.perf_counter(), 0.0
        self._before = self._sums()

    def step(self, size: tuple[int, int]) -> bool:
        """Counts one step on images of `size` (h, w) that has been dispatched.

        The first one of a size is not counted, because it compiles: then this returns True, and
        `finished(count=False)` is to be called when the devices are done with it.
        """
        p, now = self._progress, time.perf_counter()
        known = size in self._operations
        if known:
            p.seconds, p.waited = p.seconds + now - self._clock, p.waited + self._wait
            p.timed, p.operations = p.timed + 1, p.operations + self._operations[size]
        else:
            self._operations[size] = float(self._images * train_flops(self._config, size))
        self._clock, self._wait = now, 0.0
        return not known

    def finished(self, *, count: bool = True) -> None:
        """All steps are done: the time until now is theirs, if it is to `count`."""
        now = time.perf_counter()
        if count and self._progress.timed:
            self._progress.seconds += now - self._clock
        self._clock = now

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The next batch is waited for."""
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Something else than training happens."""
        start = time.perf_counter()
        yield
        self._clock += time.perf_counter() - start

    def line(self) -> dict[str, float]:
        """Of the steps since the last call; empty without any."""
        before, self._before = self._before, self._sums()
        return self._rates(*(b - a for a, b in zip(before, self._before, strict=True)))

    def total(self) -> dict[str, float]:
        """Of the whole run, also before it was resumed."""
        return self._rates(*self._sums())

    def _sums(self) -> tuple[float, float, float, float]:
        p = self._progress
        return p.seconds, p.waited, p.timed, p.operations

    def _rates(
        self, seconds: float, waited: float, steps: float, operations: float
    ) -> dict[str, Any]:
        if not steps or seconds <= 0:
            return {}
        rate = steps * self._images / seconds
        mfu = {"mfu": operations / seconds / self._peak} if self._peak else {}
        return {"images_per_second": rate, "data_wait": waited / seconds, **mfu}


def shown(rates: dict[str, float]) -> str:
    """`1,234 images/s, 40.0% MFU, 1% waiting for data`; a rate below 10 has two digits."""
    slow = rates.get("images_per_second", 10) < 10
    forms = {
        "images_per_second": "{:.2g} images/s" if slow else "{:,.0f} images/s",
        "mfu": "{:.1%} MFU",
        "data_wait": "{:.0%} waiting for data",
    }
    return ", ".join(forms[name].format(rates[name]) for name in forms if name in rates)
