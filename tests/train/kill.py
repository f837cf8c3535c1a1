"""Kills a training run with SIGKILL again and again, and compares its end with that of one left
alone: the same bits in every tensor, the same lines of metrics.

    python -m tests.train.kill --kills 20 --seed 0
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
TIMES = ("images_per_second", "data_wait", "mfu")
MODES = ("start", "step", "save", "save")  # before the first step, at any moment, inside a save
LIMIT = 300  # seconds for a program to get where it is to be killed


@dataclass
class Outcome:
    """What happened."""

    kills: list[str] = field(default_factory=list)
    inside_saves: int = 0
    lost: list[int] = field(default_factory=list)  # steps that each kill cost
    differences: list[str] = field(default_factory=list)


def start(out: Path, data: Path, steps: int, every: int) -> subprocess.Popen[bytes]:
    """The training program on tiny digits, with a line of metrics each step."""
    settings = {
        "optim.total-steps": steps, "optim.warmup-steps": 4, "checkpoint.every": every,
        "log-every": 1, "eval-every": 3 * every + 1, "model.depth": 1, "model.width": 32,
        "model.num-heads": 2, "model.mlp-width": 32, "model.dropout": 0.1, "batch-size": 32,
        "data-dir": data, "out": out,
    }  # fmt: skip
    arguments = ["digits", "--resume"]
    arguments += [x for name, value in settings.items() for x in (f"--{name}", str(value))]
    script = (
        "import sys, train; train.check_twin = lambda *_: True; sys.exit(train.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *arguments]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def lines(out: Path) -> list[dict[str, float]]:
    """Whole lines of metrics so far."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def last_step(out: Path) -> int:
    return max((int(line["step"]) for line in lines(out)), default=0)


def saves(out: Path) -> tuple[list[int], bool]:
    """Steps of the complete checkpoints, and whether one is being written."""
    names = [p.name for p in (out / "checkpoints").glob("*")]
    return sorted(int(n) for n in names if n.isdigit()), any("tmp" in n for n in names)


def kill(process: subprocess.Popen[bytes], out: Path, mode: str, target: int, delay: float) -> bool:
    """Waits for the moment and kills; whether that was inside a save."""
    deadline, stale = time.monotonic() + LIMIT, set((out / "checkpoints").glob("*tmp*"))
    if mode != "start":
        while process.poll() is None and last_step(out) < target:
            time.sleep(0.002)
        while process.poll() is None and mode == "save" and not saves(out)[1]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no save within {LIMIT} s")
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return bool(set((out / "checkpoints").glob("*tmp*")) - stale)


def run(folder: Path, *, kills: int, seed: int, steps: int, every: int) -> Outcome:
    """Both runs in `folder`, and how they compare."""
    whole, killed, data = folder / "whole", folder / "killed", folder / "data"
    if start(whole, data, steps, every).wait():
        raise RuntimeError((folder / "whole.log").read_text())
    rng, outcome = random.Random(seed), Outcome()
    targets = sorted(rng.sample(range(2, steps - every), kills))
    for target in targets:
        mode = rng.choice(MODES)
        delay = rng.uniform(0, {"start": 8, "step": 0.03, "save": 0.01}[mode])
        before = last_step(killed)
        process = start(killed, data, steps, every)
        inside = kill(process, killed, mode, target, delay)
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError((folder / "killed.log").read_text())
        reached, complete = last_step(killed), saves(killed)[0]
        outcome.kills.append(mode)
        outcome.inside_saves += inside
        lost = 0 if mode == "start" and reached == before else reached - max(complete, default=0)
        outcome.lost.append(lost)
        print(f"kill {len(outcome.kills)}: {mode}, inside a save: {inside}, at step {reached}, "
              f"complete {complete}", flush=True)  # fmt: skip
    if start(killed, data, steps, every).wait():
        raise RuntimeError((folder / "killed.log").read_text())
    outcome.differences = compare(whole, killed, steps)
    return outcome


def compare(whole: Path, killed: Path, steps: int) -> list[str]:
    """What differs between the ends of two runs."""
    found = []
    models = [load_file(out / "model.safetensors") for out in (whole, killed)]
    for name in {**models[0], **models[1]}:  # the file's own bytes hold metadata in any order
        a, b = (model.get(name) for model in models)
        if a is None or b is None or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            found.append(name)
    states = [
        json.loads((out / "checkpoints" / str(steps) / "run" / "metadata").read_text())["body"]
        for out in (whole, killed)
    ]
    found += [f"{key} of the last checkpoint" for key in ("digests", "data") if
              states[0][key] != states[1][key]]  # fmt: skip
    if not states[0]["digests"]:
        found.append("no digests")
    kept = [
        [{k: v for k, v in line.items() if k not in TIMES} for line in lines(out)]
        for out in (whole, killed)
    ]
    if kept[0] != kept[1]:
        found.append(f"metrics: {len(kept[0])} and {len(kept[1])} lines")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), **vars(options))
    modes = {mode: outcome.kills.count(mode) for mode in dict.fromkeys(MODES)}
    print(
        f"{len(outcome.kills)} kills {modes}, {outcome.inside_saves} inside a save; steps lost: "
        f"{sum(outcome.lost)} in all, {max(outcome.lost)} at most, saved every {options.every}"
    )
    print("bit-identical: " + ("no: " + ", ".join(outcome.differences) if outcome.differences
                               else "yes"))  # fmt: skip
    return bool(outcome.differences)


if __name__ == "__main__":
    sys.exit(main())
