"""A notice that the machine goes away: SIGTERM, or what the coordinator of several hosts heard."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to end."""


class Preemption:
    """Whether a notice has come; within its block a SIGTERM is one and ends nothing itself.

    Of several processes all learn of it at the same step (`jax.distributed` passes it on).
    """

    def __init__(self) -> None:
        self.noticed = False
        self._before: Any = None
        main = threading.current_thread() is threading.main_thread()
        self._alone = jax.process_count() == 1
        self._listens = self._alone and main

    def __enter__(self) -> "Preemption":
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def at(self, step: int) -> bool:
        """Whether to end after `step`; every process must ask at every step."""
        return self.noticed if self._alone else multihost_utils.reached_preemption_sync_point(step)

    def _notice(self, *_: Any) -> None:
        self.noticed = True
