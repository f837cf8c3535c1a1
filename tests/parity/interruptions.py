"""Ends a conversion onto another one at every step on the disk, and says what is there then.

`python -m tests.parity.interruptions FOLDER FORMAT SUFFIX MODE...`: FOLDER has the checkpoints `a`,
whose conversion is in the place, and `b`, which comes. One line for each step: the mode, what is in
the place, and how many other files are beside it. A step is an audit event of Python about files.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from parity import convert, read, targets

ENDED = 9
STEPS = ("open", "os.mk", "os.re", "os.rm", "os.ch", "tempfile.", "shutil.", "ctypes.dlsym")


def main(folder: str, format: str, suffix: str, *modes: str) -> None:
    """Modes: `kill` the process, or `fail` the step; `-aside`: where names cannot be exchanged."""
    home, work = Path(folder), Path(folder, "work")
    states = {"old": _content(home / "a"), "new": _content(home / "b")}
    work.mkdir()
    convert(home / "a", work / f"x{suffix}", target=format)
    shutil.copytree(work, home / "before")
    exchanged = targets._exchanged
    for mode in modes:
        targets._exchanged = (lambda one, other: False) if "aside" in mode else exchanged
        step, code = 0, ENDED
        while code:
            shutil.rmtree(work)
            shutil.copytree(home / "before", work)
            step += 1
            child = os.fork()
            if not child:
                os._exit(_child(mode, step, home / "b", work / f"x{suffix}", format))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            beside = [path for path in work.iterdir() if not path.name.startswith("x")]
            print(mode, _found(work / f"x{suffix}", states), len(beside))


def _child(mode: str, step: int, src: Path, dst: Path, format: str) -> int:
    """0 if the conversion takes fewer steps."""
    count, begun = 0, False

    def hook(event: str, arguments: Any) -> None:
        nonlocal count, begun
        begun = begun or event == "tempfile.mkdtemp"  # before it, files are only read
        if begun and event.startswith(STEPS) and not (event == "open" and _reads(arguments)):
            count += 1
            if count == step:
                if "kill" in mode:
                    os._exit(ENDED)
                raise OSError(28, "No space left on device")

    os.fsync = lambda handle: None  # the machine stays on
    sys.addaudithook(hook)
    try:
        convert(src, dst, target=format)
    except OSError:
        return ENDED
    return 0 if count < step else ENDED


def _reads(arguments: tuple[Any, ...]) -> bool:
    return not arguments[2] & (os.O_WRONLY | os.O_RDWR)


def _content(path: Path) -> tuple[str, float]:
    """What tells the models apart: the activation in the config, and values of the weights."""
    header, state = read(path)
    return header.config.activation, float(np.sum(state["head.weight"]))


def _found(dst: Path, states: dict[str, tuple[str, float]]) -> str:
    if not dst.exists():
        (aside,) = dst.parent.glob(".x*/.old")
        return f"{_found(aside, states)} aside"
    found = _content(dst)
    return next((what for what, state in states.items() if state == found), "mix")


if __name__ == "__main__":
    main(*sys.argv[1:])
