"""What several benchmarks share as programs: options, the record and its file, case after case."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _machine
from benchmarks._blocks import Block, plain
from benchmarks._cases import DTYPES, Case
from benchmarks._measured import Settings, measure

SHARED = ("device", "threads", "rounds")


def parser(about: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with what all have: device, threads, rounds. `about` has the command below its first
    line, which stands in the help as it is typed."""
    lines = (about or "").strip().splitlines()
    command = next(line for line in lines if line.strip().startswith("python -m"))
    found = argparse.ArgumentParser(
        prog=" ".join(command.split()[:3]),
        description=lines[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    found.add_argument(
        "--device", choices=_machine.DEVICES, default=_machine.device(), help="what runs"
    )
    found.add_argument(
        "--threads", type=int, default=_machine.usable_cores(), help="of each contender on a CPU"
    )
    found.add_argument("--rounds", type=int, default=rounds, help="that count")
    found.add_argument("--tiny", action="store_true", help="a small model, to try the program")
    return found


def with_file(found: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds the file of the figures."""
    found.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="for all figures; a tiny run has none of its own, others benchmarks/results/...",
    )
    return found


def with_timing(found: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds what contenders in rounds need, and the file."""
    with_file(found)
    found.add_argument("--seconds", type=float, default=1.0, help="of a contender in a round")
    found.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="such as B/16@384")
    found.add_argument("--dtype", choices=DTYPES, help="instead of the device's")
    found.add_argument("--contenders", nargs="+", metavar="NAME", help="see benchmarks/_cases.py")
    found.add_argument(
        "--jax-python",
        type=_interpreter,
        default=sys.executable,
        metavar="FILE",
        help="interpreter of vit_jax's processes, to measure another JAX beside the same peer",
    )
    found.add_argument("--no-limits", action="store_true", help="do not measure the machine's")
    return found


def _interpreter(file: str) -> str:
    try:
        found = _machine.versions_of(file)
    except (OSError, ValueError, subprocess.SubprocessError):
        raise argparse.ArgumentTypeError(f"{file} is no Python; give one that has JAX") from None
    if missing := [name for name in _machine.OF_JAX if name not in found]:
        raise argparse.ArgumentTypeError(f"{file} lacks {', '.join(missing)}: install them there")
    return str(Path(shutil.which(file) or file).absolute())  # its processes start elsewhere


def settings_of(options: argparse.Namespace, **others: Any) -> Settings:
    """Settings of a command line of `with_timing`."""
    chosen = {name: getattr(options, name) for name in (*SHARED, "seconds", "tiny", "jax_python")}
    return Settings(**chosen, limits=not options.no_limits, **others)


def file_of(benchmark: str, options: argparse.Namespace) -> Path | None:
    """Where the figures go."""
    if options.json or options.tiny:
        return options.json
    return _machine.default_file(benchmark, options.device)


def begun(benchmark: str, options: argparse.Namespace) -> dict[str, Any]:
    """A new record with the command's arguments, but for paths, as its settings."""
    settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    python = settings.pop("jax_python", sys.executable)
    found = _machine.record(benchmark, settings) | {
        "hardware": _machine.hardware(options.device, options.threads)
    }
    if python != sys.executable:
        found["jax_versions"] = _machine.versions_of(python)
    return found


def save(found: Mapping[str, Any], file: Path | None) -> None:
    """Writes a record if it has a file."""
    if file:
        _machine.write(file, found)


def run_cases(
    benchmark: str,
    cases: Iterable[Case],
    options: argparse.Namespace,
    tables: Callable[[Mapping[str, Any]], list[Block]],
    more: Callable[[Case, dict[str, Any]], None] | None = None,
) -> None:
    """Measures one case after the other; prints its `tables` and writes the file after each.

    `more` adds to what was found of a case.
    """
    found, file = begun(benchmark, options), file_of(benchmark, options)
    if "jax_versions" in found:
        print("vit_jax with " + ", ".join(_machine.listed(found["jax_versions"])))
    found["cases"] = []
    for case in cases:
        print(f"measuring {case}", flush=True)
        result = measure(benchmark, case, options.contenders, settings_of(options))
        if more:
            more(case, result)
        found["cases"].append(result)
        shown = found | {"cases": [result]}
        print(plain(shown, tables(shown)) + "\n", flush=True)
        save(found, file)
    if file:
        print(f"written to {file}")
