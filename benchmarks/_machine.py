"""Where and with what a benchmark ran, and the file that its figures are written to."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OF_JAX = ("numpy", "jax", "jaxlib", "flax", "optax")
PACKAGES = (*OF_JAX, "torch", "timm", "transformers", "triton")
DEVICES = ("cpu", "gpu", "tpu")
VARIABLES = (
    "XLA_FLAGS", "LIBTPU_INIT_ARGS", "TORCHINDUCTOR_MAX_AUTOTUNE", "LD_PRELOAD", "CC", "CXX"
)  # fmt: skip


@cache
def device() -> str:
    """`gpu`, `tpu` or `cpu`, found without importing a framework."""
    if _gpus():
        return "gpu"
    return "tpu" if any(Path("/dev").glob("accel[0-9]*")) else "cpu"


@cache
def _gpus() -> tuple[str, ...]:
    """Name, memory and driver of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    return tuple(result.stdout.strip().splitlines()) if result.returncode == 0 else ()


def accelerator() -> str | None:
    """Name of the first GPU, such as `NVIDIA H200`; None without one."""
    return _gpus()[0].partition(",")[0].strip() if _gpus() else None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware(on: str, threads: int) -> str:
    """A line that names what ran, for the head of a table."""
    if on == "gpu":
        return f"one {accelerator() or 'GPU'}"
    return f"{threads} core(s) of {processor()}" if on == "cpu" else "TPU"


def record(
    benchmark: str,
    settings: Mapping[str, Any],
    *,
    packages: Iterable[str] = PACKAGES,
) -> dict[str, Any]:
    """What every file of results begins with: benchmark, date, machine, versions and settings."""
    return {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "system": platform.platform(), "processor": processor(), "cores": os.cpu_count(),
            "usable_cores": usable_cores(), "accelerators": list(_gpus()),
        },
        "versions": {"python": platform.python_version()} | {p: installed(p) for p in packages},
        "settings": {
            **settings,
            "load_average": os.getloadavg(),
            "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        },
    }  # fmt: skip


def versions_of(python: str) -> dict[str, str]:
    """Version of another interpreter and those of `OF_JAX` that it has."""
    program = (
        "import json, platform; from importlib.metadata import distributions\n"
        "found = {d.metadata['Name'].lower(): d.version for d in distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    return {name: found[name] for name in ("python", *OF_JAX) if name in found}


def listed(versions: Mapping[str, str | None]) -> list[str]:
    """`jax 0.10.2` and the like, of what is installed."""
    return [f"{name} {version}" for name, version in versions.items() if version]


def write(file: str | os.PathLike[str], found: Mapping[str, Any]) -> None:
    """Writes a record whole or not at all, so that one killed while it writes loses nothing."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def default_file(benchmark: str, on: str, folder: Path = RESULTS) -> Path:
    """`train-nvidia-h200-2026-11-21.json`, say."""
    name = (accelerator() or on) if on == "gpu" else on
    return folder / f"{benchmark}-{name.lower().replace(' ', '-')}-{time.strftime('%Y-%m-%d')}.json"


def processor() -> str:
    """The processor's name, as the system gives it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def installed(package: str) -> str | None:
    """Version of a package; None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
