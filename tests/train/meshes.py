"""Losses of one float64 training run over meshes and numbers of processes, against one device.

    python -m tests.train.meshes             the whole table
    python -m tests.train.meshes --reduced   what the test runs

A process is `mesh_losses`; several are joined over jax.distributed with gloo on this machine.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
ONE = {"one device": (1, 1, 1)}
PURE = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "tensor 8": (1, 1, 8)}
MIXED = {
    "data 2, fsdp 4": (2, 4, 1), "data 4, tensor 2": (4, 1, 2), "fsdp 2, tensor 4": (1, 2, 4),
    "data 2, fsdp 2, tensor 2": (2, 2, 2),
}  # fmt: skip
SWIGLU = {"mlp": "swiglu_packed", "activation": "silu", "num_registers": 2, "qk_norm": True}
MAP = {"class_token": False, "pool": "map"}
SCAN = {"scan": True, "remat": "full"}
# processes, model's fields, options, meshes
Job = tuple[int, dict[str, Any], dict[str, Any], dict[str, tuple[int, int, int]]]
FULL: list[Job] = [
    (1, {}, SCAN, ONE | PURE | MIXED),
    (2, {}, SCAN, PURE | MIXED),
    (4, {}, SCAN, PURE | MIXED),
    (1, {}, {}, PURE | MIXED),
    (1, SWIGLU, {}, ONE | MIXED),
    (1, MAP, {}, ONE | MIXED),
]
REDUCED: list[Job] = [
    (1, {"depth": 1}, SCAN, ONE | {"data 2, fsdp 2, tensor 2": (2, 2, 2)}),
    (2, {"depth": 1}, SCAN, {"fsdp 8": (1, 8, 1)}),
]


def run(job: Job) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by mesh of one job: the losses and the averaged parameters at the end."""
    processes, fields, options, cases = job
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.npz"
        asked = json.dumps({"cases": cases, "fields": fields, "options": options, "out": out})
        command = [sys.executable, "-m", "tests.train.mesh_losses", asked]
        environments = [environment(processes, 8 // processes, i) for i in range(processes)]
        if processes > 1:
            port = free_port()
            for each in environments:
                each["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
        running = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=e,
                stdout=subprocess.DEVNULL,  # gloo tells of its connections there
                stderr=subprocess.PIPE,
                text=True,
            )
            for e in environments
        ]
        try:
            for process in running:
                errors = process.communicate()[1]
                if process.returncode:
                    raise RuntimeError(errors)
        finally:
            for process in running:  # each waits for the others
                process.kill()
        with np.load(out) as file:
            flat = dict(file)
    return {
        case: {k.partition("/")[2]: v for k, v in flat.items() if k.startswith(f"{case}/")}
        for case in cases
    }


def environment(processes: int, devices: int, index: int) -> dict[str, str]:
    """Variables of one process, whose programs are those that users run."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    found = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    found.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    if processes > 1:
        found |= {"JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(index)}
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def rows(jobs: list[Job]) -> Iterator[tuple[Job, str, float, float, float]]:
    """Job, mesh, last loss, largest gap of a loss and of an averaged parameter."""
    references: dict[str, Any] = {}
    for job in jobs:
        results = run(job)
        model = json.dumps(job[1])
        truth = references.setdefault(model, results.get("one device"))
        for case, arrays in results.items():
            gaps = {name: float(np.abs(a - truth[name]).max()) for name, a in arrays.items()}
            losses = gaps.pop("losses")
            yield job, case, float(arrays["losses"][-1]), losses, max(gaps.values())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reduced", action="store_true")
    jobs = REDUCED if parser.parse_args().reduced else FULL
    print("| processes | model, options | mesh | last loss | gap of losses | of parameters |")
    print("|---|---|---|---|---|---|")
    for (processes, fields, options, _), case, loss, gap, parameters in rows(jobs):
        said = ", ".join(f"{k} {v}" for k, v in {**fields, **options}.items()) or "plain"
        figures = f"{loss:.12f} | {gap:.1e} | {parameters:.1e}"
        print(f"| {processes} | {said} | {case} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
