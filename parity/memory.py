"""Memory of the process: gradients of large models are freed as they are compared."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

MMAP_THRESHOLD = -3  # of glibc's `mallopt`


def return_freed_memory() -> None:
    """Makes glibc give every freed block above 1 MiB back to the system; nothing elsewhere.

    By default it raises that limit to 32 MiB as blocks are freed and keeps what is smaller: a third
    more than a check of ViT-B needs.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 20)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_bytes() -> int | None:
    """Memory that this process may still take: of the machine, its control group, `ulimit -v`.

    None where the system does not say.
    """
    found = [_free_of_machine(), _free_of_group(), _free_of_limit()]
    return min((free for free in found if free is not None), default=None)


def _free_of_machine() -> int | None:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_of_group() -> int | None:
    """Of a container: its limit without what is in use, less the cached files among it."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        root = Path("/sys/fs/cgroup")
        numbers = [_text(root / name).strip() for name in (limit, used)]
        if not all(number.isdigit() for number in numbers):
            continue
        statistics = _text((root / used).with_name("memory.stat")).split()
        files = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(cached, "0")
        return max(0, int(numbers[0]) - int(numbers[1]) + int(files))
    return None


def _free_of_limit() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - int(pages[0]) * resource.getpagesize())


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
