"""Speed and memory of `parity convert` beside cp, transformers and timm on the same weights.

Every measurement is a process of its own, from start to the end of its `fsync`, in rounds: each
method once a round, in random order, after one round that does not count. transformers and timm
load and write nothing. The source is in the page cache. A ratio is of two methods of one round: the
time of the first by that of the second; `in the process` is without its start and its imports.
`computing` are the seconds of processors, which other programs on the machine change less. With
`--memory` each conversion runs once, there and back, in a limited address space (Linux).

    python -m benchmarks.convert --model L/16 --rounds 7 --json convert.json
    python -m benchmarks.convert --model G/14 --memory
"""

import argparse
import dataclasses
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _blocks, _machine
from benchmarks._machine import installed
from benchmarks._rounds import ratios, spread
from benchmarks._svg import Bar, Plot
from benchmarks._tables import figure, with_spread
from parity import containers, convert
from vit_spec import Header, full_name, get, parameters

FORMATS = ("hf_vit", "big_vision", "timm")
PACKAGES = ("numpy", "safetensors", "torch", "transformers", "timm")
OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""  # what torchvision's Python files ask for if it was built for another torch
TRANSFORMERS = """
import sys, time
from transformers import ViTForImageClassification
begin = time.perf_counter()
model = ViTForImageClassification.from_pretrained(sys.argv[1])
print("load", time.perf_counter() - begin)
"""
TIMM = """
import sys, time, timm
begin = time.perf_counter()
model = timm.create_model(sys.argv[2], num_classes=int(sys.argv[3]))
timm.models.load_checkpoint(model, sys.argv[1])
print("load", time.perf_counter() - begin)
"""
CONVERT = """
import sys, time, parity
begin = time.perf_counter()
parity.convert(sys.argv[1], sys.argv[2], target=sys.argv[3], certificate=False)
print("convert", time.perf_counter() - begin)
"""
MEASURED = """
import sys
from parity.cli import main
code = main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith(("VmPeak", "VmHWM")):
        print(line, end="", file=sys.stderr)
sys.exit(code)
"""
PEAKS = ("VmHWM_kB", "VmPeak_kB")
ALONE = ", in the process"  # after its imports
PAIRS = (
    *((f"parity {name}", other) for name in FORMATS for other in ("cp", "cp, fsync")),
    ("parity hf_vit, certificate", "cp, fsync"),
    ("parity hf_vit", "transformers load"),
    ("parity timm", "timm load"),
    (f"parity.convert hf_vit{ALONE}", f"transformers load{ALONE}"),
    (f"parity.convert timm{ALONE}", f"timm load{ALONE}"),
)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table and writes the JSON."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        size = make(folder / "ours", options.model)
        need, free = 2 * size, shutil.disk_usage(folder).free
        if free < need:
            sys.exit(f"{folder} has {free / 1e9:.1f} GB free; {need / 1e9:.1f} more are needed")
        print(f"{options.model}: {size / 1e9:.2f} GB in float32\n")
        if options.memory:
            largest = max(map(math.prod, parameters(get(options.model)).values())) * 4
            print(f"largest tensor x 4 + 400 MB: {largest * 4 / 1e6 + 400:.0f} MB")
            found = memory(folder, options.limit)
            _finish(options, {"bytes": size, "largest_tensor": largest, "conversions": found})
            return
        convert(folder / "ours", folder / "hf", target="hf_vit", certificate=False)
        methods = {
            method: command
            for method, command in commands(folder, options.model).items()
            if any(text in method for text in options.only)
        }
        times, computing = measure(methods, folder / "out", options)
    found = {"bytes": size, "seconds": times, "computing": computing}
    print(_blocks.plain(_record(options), tables(found)))
    ratios = [{"of": row["of"], "by": row["by"], "ratios": row["rounds"], "median": row["median"]}
              for row in _ratios(times)]  # fmt: skip
    _finish(options, found | {"ratios": ratios})


def _ratios(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    return ratios(seconds, PAIRS)


def tables(record: Mapping[str, Any]) -> list[_blocks.Block]:
    """Times of all methods, and ratios of those that belong together."""
    if "conversions" in record:
        rows = [[row["of"], figure(row["seconds"]), *(f"{row[k] / 1e3:.0f}" for k in PEAKS)]
                for row in record["conversions"]]  # fmt: skip
        title = f"{record['bytes'] / 1e9:.2f} GB in float32, in a limited address space"
        return [(title, (["conversion", "seconds", "resident MB", "addresses MB"], rows), ())]
    size, rows = record["bytes"] / 1e9, []
    for method, seconds in record["seconds"].items():
        middle, computing = statistics.median(seconds), record["computing"].get(method)
        cost = figure(statistics.median(computing)) if computing else "-"
        rows.append([method, with_spread(spread(seconds)), figure(size / middle), cost])
    head = ["method", "seconds", "GB/s", "computing, s"]
    pairs = [[f"{r['of']} / {r['by']}", with_spread(r)] for r in _ratios(record["seconds"])]
    return [
        (f"{size:.2f} GB in float32", (head, rows), ()),
        ("round by round", (["time of / time of", "ratio"], pairs), ()),
    ]


def plot(record: Mapping[str, Any]) -> Plot:
    """Ratios of times."""
    found = [] if "conversions" in record else _ratios(record["seconds"])
    rows = [Bar(f"{row['of']} / {row['by']}", row) for row in found]
    title = "Conversion (A) against copying or loading (B): time of A / time of B"
    return Plot(title, "time of A / time of B (shorter is faster)", rows, (1.0, "equally fast"))


def _finish(options: argparse.Namespace, record: dict[str, Any]) -> None:
    if options.json:
        _machine.write(options.json, _record(options) | record)


def make(folder: Path, model: str) -> int:
    """A checkpoint of random values, written tensor by tensor; its size in bytes."""
    header = Header(config=dataclasses.replace(get(model), activation="gelu_tanh"))
    shapes = parameters(header.config)
    infos = {name: containers.Info.of("float32", shape) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    folder.mkdir()
    containers.write(
        folder / "model.safetensors",
        "safetensors",
        infos,
        lambda name: rng.standard_normal(shapes[name], np.float32) * np.float32(0.02),
        metadata={"format": "pt", "vitwin": header.to_json()},
    )
    (folder / "config.json").write_text(header.to_json(), encoding="utf-8")
    return sum(info.nbytes for info in infos.values())


def commands(folder: Path, model: str) -> dict[str, list[str]]:
    """The methods; OUT stands for what they write."""
    file, python = str(folder / "ours" / "model.safetensors"), sys.executable
    parity = [python, "-m", "parity", "convert"]
    ours = [*parity, "--no-verify", str(folder / "ours"), "OUT", "--to"]
    found = {"cp": ["cp", file, "OUT"]}
    found["cp, fsync"] = ["sh", "-c", 'cp "$0" "$1" && sync "$1"', file, "OUT"]
    found |= {f"parity {name}": [*ours, name, "--no-certificate"] for name in FORMATS}
    for name in ("hf_vit", "timm"):
        found[f"parity.convert {name}"] = [python, "-c", CONVERT, str(folder / "ours"), "OUT", name]
    found["parity hf_vit, certificate"] = [*ours, "hf_vit"]
    found["parity convert --help"] = [*parity, "--help"]
    prelude = "" if not installed("torchvision") or _imports("torchvision") else OPERATORS
    if installed("transformers"):
        script = [python, "-c", prelude + TRANSFORMERS, str(folder / "hf")]
        found["transformers load"] = script
    if installed("timm"):
        config = get(model)
        arguments = [full_name(model), str(config.num_classes)]
        found["timm load"] = [python, "-c", prelude + TIMM, file, *arguments]
    return found


def measure(
    methods: dict[str, list[str]], out: Path, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every method in every round, and those that its process computed."""
    times: dict[str, list[float]] = {method: [] for method in methods}
    computing: dict[str, list[float]] = {method: [] for method in methods}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or nothing is compiled before it is run
    order, shuffled = list(methods), random.Random(0)
    for number in range(options.rounds + 1):
        shuffled.shuffle(order)
        for method in order:
            command = [str(out) if part == "OUT" else part for part in methods[method]]
            begin, before = time.perf_counter(), _computed()
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            seconds, spent = time.perf_counter() - begin, _computed() - before
            if result.returncode:
                sys.exit(f"{method} failed: {result.stderr[-2000:]}")
            if number:
                times[method].append(seconds)
                computing[method].append(spent)
                for line in result.stdout.splitlines():
                    if line.startswith(("load ", "convert ")):
                        times.setdefault(method + ALONE, []).append(float(line.split()[1]))
            _remove(out)
            os.sync()  # the next one does not wait for this one's data
    return times, computing


def _computed() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(folder: Path, limit: int) -> list[dict[str, object]]:
    """Each format there and back under `ulimit -v`, in kilobytes; prints peaks and seconds.

    The certificates that are written compare every bit. Resident memory counts mapped pages, too.
    """
    print(f"ulimit -v {limit}\n\n{'conversion':32} {'seconds':>8} {'resident':>9} {'addresses':>9}")
    rows: list[dict[str, object]] = []
    ours, there, back = folder / "ours", folder / "there", folder / "back"
    for name in (*FORMATS, "orbax"):
        for source, target, arguments in ((ours, there, ["--to", name]), (there, back, [])):
            limited = f'ulimit -v {limit} && exec "$0" "$@"'
            command = ["sh", "-c", limited, sys.executable, "-c", MEASURED, "convert"]
            command += ["--no-verify", str(source), str(target), *arguments]
            begin = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True)
            seconds = time.perf_counter() - begin
            if result.returncode:
                sys.exit(f"{' '.join(command[7:])} failed: {result.stderr[-2000:]}")
            peaks = {line.split()[0]: int(line.split()[1]) for line in result.stderr.splitlines()}
            resident, addresses = peaks["VmHWM:"], peaks["VmPeak:"]
            what = f"{name}, {'there' if arguments else 'back'}"
            print(f"{what:32} {seconds:8.1f} {resident / 1e3:6.0f} MB {addresses / 1e3:6.0f} MB")
            rows.append(
                {"of": what, "seconds": seconds, "VmHWM_kB": resident, "VmPeak_kB": addresses}
            )
        _remove(there)
        _remove(back)
    return rows


def _remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    out.with_name(out.name + ".parity.json").unlink(missing_ok=True)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in ("model", "rounds", "threads")}
    found = _machine.record("convert", settings, packages=PACKAGES)
    return found | {"hardware": _machine.hardware("cpu", options.threads)}


def _imports(package: str) -> bool:
    command = [sys.executable, "-c", f"import {package}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convert", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default="L/16", help="variant of timm (default: L/16)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of OpenMP, for the others")
    parser.add_argument("--dir", metavar="DIR", help="on the disk to be measured; default: /tmp")
    parser.add_argument(
        "--only", metavar="TEXT", nargs="+", default=[""], help="methods whose name has it"
    )
    parser.add_argument("--memory", action="store_true", help="memory of conversions, there, back")
    parser.add_argument("--limit", type=int, default=3_000_000, metavar="KB", help="of --memory")
    parser.add_argument("--json", metavar="FILE")
    return parser


if __name__ == "__main__":
    main()
