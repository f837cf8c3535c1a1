"""What a check is at, while it runs."""

import threading
from types import TracebackType
from typing import TextIO

PATIENCE = 2.0  # seconds


class Progress:
    """Called with what begins, writes it to `stream`; the end of the `with` block ends the last.

    On a terminal it is one line that the next one overwrites. In a log it is a plain line for
    whatever takes longer than `patience` seconds, written as soon as those are over.
    """

    def __init__(self, stream: TextIO, *, patience: float = PATIENCE):
        self.stream, self.patience = stream, patience
        self.on_terminal = stream.isatty()
        self.timer: threading.Timer | None = None

    def __call__(self, what: str) -> None:
        line = f"checking {what} ..."
        if self.on_terminal:
            self._write(f"\r\x1b[2K{line}")
            return
        self._stop()
        self.timer = threading.Timer(self.patience, self._write, [f"{line}\n"])
        self.timer.daemon = True
        self.timer.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if self.on_terminal:
            self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        print(text, end="", file=self.stream, flush=True)

    def _stop(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer.join()  # a line that is being written is written whole
