"""Memory of the process: gradients of large models are freed as they are compared."""

import contextlib
import ctypes
import resource
import sys

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
