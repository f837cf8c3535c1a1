"""The loop of the fuzzers: inputs by number, a time, figures at the end."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.damage import Failure

SHOWN = 20  # failures that are printed
Read = Callable[[int, str], tuple[str, Failure | None, Path]]
"""Of an input's number and seed: its name, what is wrong with how it is read, where it lies."""


def fuzz(about: str | None, inputs: int, reading: Callable[[Path], AbstractContextManager[Read]]):
    """Runs the given number of inputs in a folder, prints the figures; 1 if there were failures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--inputs", type=int, default=inputs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=480, help="stop after this time")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that fail")
    options = parser.parse_args()
    counts, begin = Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, reading(Path(folder)) as read:
        for i in range(options.inputs):
            if time.monotonic() - begin > options.seconds:
                break
            name, found, place = read(i, f"{options.seed} {i}")
            counts["inputs"] += 1
            if found is None:
                continue
            counts["failures"] += 1
            counts[f"{name}: {found[0]}"] += 1
            if options.keep:
                kept = options.keep / f"{options.seed}-{i}-{name.replace(' ', '-')}"
                options.keep.mkdir(parents=True, exist_ok=True)
                if place.is_dir():
                    shutil.copytree(place, kept, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy(place, kept)
            if counts["failures"] <= SHOWN:
                print(f"{options.seed} {i} {name}: {found[0]}: {found[1]}", file=sys.stderr)
    print(f"{time.monotonic() - begin:.0f} s", dict(counts))
    return 1 if counts["failures"] else 0
