"""What a worker can repeat and time, and the memory of its process."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.memory import peak_bytes


def _nothing() -> None:
    pass


@dataclass(kw_only=True)
class Work:
    """Something prepared that can be run again and again."""

    run: Callable[[int], None]
    """Runs that many steps; all is done when it returns."""
    amount: float = 1.0
    """What a step does: images, operations or bytes."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was found while it was prepared."""
    rest: Callable[[], None] = _nothing
    """Gives back what was kept for the next step, so that others on the device have room."""
    peak: Callable[[Callable[[], None]], dict[str, Any]] | None = None
    """Memory of the device while something runs; None: that of the process is meant."""


def resident(run: Callable[[], None]) -> dict[str, Any]:
    """Bytes of this process that were resident before `run`, and at most while it ran.

    Where the system cannot forget an earlier peak (it is Linux that can), the peak is that of the
    whole process so far, and `since_start` says so.
    """
    gc.collect()
    before = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run()
        return {"kind": "resident", "before": before, "peak": peak_bytes(), "since_start": True}
    run()
    return {"kind": "resident", "before": before, "peak": _status("VmHWM") or peak_bytes()}


def _status(name: str) -> int:
    file = Path("/proc/self/status")
    for line in file.read_text().splitlines() if file.exists() else []:
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
