"""How this process takes memory from the system. Only the JAX side needs this."""

import ctypes
import math
import sys

from vit_spec import ViTConfig

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h
NEVER = -1  # mallopt takes an int: at most 2 GiB, and two large steps free more at once
LARGE = 2**18  # bytes; measured: train.py digits, which gains nothing, has 2**17, Ti/16 far more


def keep_freed_memory(config: ViTConfig, batch_size: int) -> None:
    """Memory that is freed stays with this process, for the next step; call it before JAX starts.

    XLA takes the room for a step's activations anew each time. glibc hands such large blocks back
    to the system when they are freed, so that every step has to fault all of its pages in again:
    on CPUs this was a fifth of a step's time (docs/performance.md). All threads share one arena
    for it, so nothing is done where the tokens of a batch of the model are small: such short steps
    would wait for it longer than for pages. Without glibc nothing happens.
    """
    tokens = batch_size * (math.prod(config.grid) + config.num_prefix_tokens)
    if sys.platform != "linux" or 4 * tokens * config.width < LARGE:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_ARENA_MAX, 1)  # only the main arena can grow by blocks of any size
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
