"""A worker: a process of one contender that prepares and times what it is asked for.

It reads a request a line, as JSON, and answers each with a line. What libraries print goes to the
standard error stream. It ends when its input does.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from benchmarks._cases import Case
from benchmarks._work import Work, resident

SIDES = {
    "vit_jax": "benchmarks._jax_side",
    "vit_torch": "benchmarks._torch_side",
    "timm": "benchmarks._torch_side",
    "limits": "benchmarks._limits",
    "parity": "benchmarks._check_side",
}


class Worker:
    """The answers; each method is a request."""

    def __init__(self, library: str, device: str):
        self.library, self.device, self.works = library, device, dict[str, Work]()

    def load(self) -> dict[str, Any]:
        """Imports what the library needs."""
        self.side: Any = importlib.import_module(SIDES[self.library])
        return {}

    def prepare(self, task: str, case: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Makes a work, `task` its kind and from now on its name, and measures its first memory."""
        self.works.pop(task, None)
        if self.library == "limits":
            work = self.side.LIMITS[task](case["dtype"], self.device, **options)
        elif self.library == "parity":
            work = self.side.prepared(Case(**case), options)
        else:
            given = (Case(**case), options, self.device)
            named = given if self.library == "vit_jax" else (self.library, *given)
            work = getattr(self.side, task)(*named)
        self.works[task] = work
        return {"amount": work.amount, "facts": work.facts}

    def warm(self, task: str) -> dict[str, Any]:
        """Runs the first step, timed, and a second one with its memory measured."""
        work, first = self.works[task], self._timed(task, 1)
        return {"first_seconds": first, "memory": (work.peak or resident)(lambda: work.run(1))}

    def once(self, task: str) -> dict[str, Any]:
        """Runs the first step, timed and with its memory measured."""
        work, times = self.works[task], list[float]()
        memory = (work.peak or resident)(lambda: times.append(self._timed(task, 1)))
        return {"seconds": times[0], "memory": memory, "facts": work.facts}

    def time(self, task: str, steps: int) -> dict[str, Any]:
        """Seconds of that many steps, after one more that makes ready what rested."""
        work = self.works[task]
        if self.device != "cpu":
            work.run(1)
        seconds = self._timed(task, steps)
        work.rest()
        return {"seconds": seconds}

    def _timed(self, task: str, steps: int) -> float:
        begin = time.perf_counter()
        self.works[task].run(steps)
        return time.perf_counter() - begin


def main() -> None:
    """Answers until the input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # any failure of a contender is a result of the benchmark
            answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print(json.dumps(answer), file=channel, flush=True)
    os._exit(0)  # neither framework's way of shutting down is of interest


if __name__ == "__main__":
    main()
