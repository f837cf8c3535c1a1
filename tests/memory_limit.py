"""How much memory a damaged file may take: more fails as `MemoryError`, or ends the process."""

import contextlib
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

BYTES = 200_000_000


@contextlib.contextmanager
def limited(count: int = BYTES) -> Iterator[None]:
    """At most `count` bytes more private and writable memory than the process has now.

    Linux counts it whether it is used or not, and no mapped file (RLIMIT_DATA, VmData). Elsewhere
    there is no limit.
    """
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held() + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def held() -> int:
    """Bytes of private and writable memory of this process."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
