"""What a check says while it runs, on a terminal and in a log."""

import io
import time

from parity.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_plain_line_for_what_takes_long_and_for_nothing_else():
    log = io.StringIO()
    with Progress(log, patience=0.2) as show:
        show("weights")
        show("outputs in float64")
        time.sleep(0.6)
        assert log.getvalue() == "checking outputs in float64 ...\n"  # while it still runs
        show("layers in float64")
    time.sleep(0.4)
    assert log.getvalue() == "checking outputs in float64 ...\n"


def test_a_terminal_has_one_line_that_is_gone_in_the_end():
    terminal = Terminal()
    with Progress(terminal) as show:
        show("weights")
        show("outputs in float64")
    lines = terminal.getvalue().split("\r\x1b[2K")
    assert lines == ["", "checking weights ...", "checking outputs in float64 ...", ""]
