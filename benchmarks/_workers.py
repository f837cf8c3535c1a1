"""The parent's side of the workers: one process a contender, idle while another one is timed."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
ROOT = Path(__file__).parents[1]
LONG = 1800.0  # seconds that an answer may take where there is no deadline


class WorkerError(RuntimeError):
    """A worker that answered with an error, ended, or did not answer in time."""


class WorkerProcess:
    """A process of `benchmarks._worker` that has begun to import what `library` needs.

    `deadline` (of `time.monotonic`) ends all waiting for answers.
    """

    def __init__(
        self,
        library: str,
        *,
        device: str,
        threads: int,
        deadline: float | None = None,
        variables: dict[str, str] | None = None,
        python: str = sys.executable,
    ):
        self.library, self.deadline = library, deadline
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - until closed
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks._worker", library, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,  # `select` must see all that has arrived
            cwd=ROOT,
            env=environment(device, threads) | (variables or {}),
        )
        self.arrived = b""
        self.send("load")
        self.loaded = False

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends a request and waits. Raises `WorkerError`."""
        self.send(do, **request)
        return self.answer()

    def send(self, do: str, **request: Any) -> None:
        """Sends a request whose answer is waited for later. Raises `WorkerError`."""
        stdin: Any = self.process.stdin
        if stdin.closed:
            raise WorkerError("its process was ended before")
        try:
            stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def answer(self) -> dict[str, Any]:
        """The answer to the last request. Raises `WorkerError`."""
        if not self.loaded:
            self.loaded = True
            self.answer()
        found = json.loads(self._line())
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def _line(self) -> bytes:
        stdout: Any = self.process.stdout
        begin = time.monotonic()
        end = begin + LONG if self.deadline is None else self.deadline
        while b"\n" not in self.arrived:
            wait = max(0.0, end - time.monotonic())
            if not select.select([stdout], [], [], wait)[0]:
                self.close()
                raise WorkerError(f"no answer within {time.monotonic() - begin:.0f} s")
            part = stdout.read(1 << 16)
            if not part:
                raise WorkerError(self._last_words())
            self.arrived += part
        line, _, self.arrived = self.arrived.partition(b"\n")
        return line

    def close(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f"its process ended with {code}: {lines[-1] if lines else 'it wrote nothing'}"


def environment(device: str, threads: int) -> dict[str, str]:
    """The variables of a worker: as many threads for both frameworks, no memory taken ahead."""
    return os.environ | {
        "JAX_PLATFORMS": PLATFORMS[device],
        "TF_CPP_MIN_LOG_LEVEL": "2",  # XLA's C++ log is not ours
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a GPU
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(threads),
        "NPROC": str(threads),  # what XLA's CPU client asks for the size of its pool
    }


@contextlib.contextmanager
def closing_all(workers: dict[str, WorkerProcess]) -> Iterator[None]:
    """Ends whatever is in `workers` at the end."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.close()


def each(
    workers: dict[str, WorkerProcess],
    names: Iterable[str],
    failed: dict[str, str],
    do: Callable[[WorkerProcess, str], Any],
) -> dict[str, Any]:
    """`do(worker, name)` one after the other; one that fails is closed and told in `failed`."""
    found = {}
    for name in names:
        try:
            found[name] = do(workers[name], name)
        except WorkerError as error:
            failed[name] = str(error)
            workers.pop(name).close()
    return found
