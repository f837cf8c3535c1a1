"""The largest batch that a device's memory holds."""

from collections.abc import Callable

from benchmarks._cases import Case, parsed, to_dict
from benchmarks._workers import WorkerError, WorkerProcess

ALONE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
FULL = ("OutOfMemoryError", "RESOURCE_EXHAUSTED", "out of memory")  # in what the frameworks say
MOST = 1 << 20


def largest(fits: Callable[[int], bool], first: int) -> int:
    """The largest batch found: `first` doubled (or halved) as long as it fits, then in eighths.

    0 if not even one image fits.
    """
    while first and not fits(first):
        first //= 2
    size = first
    while size and 2 * size <= MOST and fits(2 * size):
        size *= 2
    for part in (2, 4, 8):
        if size and (step := first_power(size) // part) and fits(size + step):
            size += step
    return size


def first_power(size: int) -> int:
    """The largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)


def largest_batch(case: Case, contender: str, *, device: str, threads: int) -> int:
    """Of a training step on a device that nobody else uses. Raises `WorkerError`."""
    library, options = parsed(contender)
    worker: WorkerProcess | None = None

    def fits(size: int) -> bool:
        nonlocal worker
        if worker is None:
            worker = WorkerProcess(library, device=device, threads=threads, variables=ALONE)
        asked = to_dict(case) | {"batch_size": size}
        try:
            worker.ask("prepare", task="train", case=asked, options=options)
            worker.ask("warm", task="train")
        except WorkerError as error:
            worker.close()  # what it holds is gone with it
            worker = None
            if not any(text in str(error) for text in FULL):
                raise
            return False
        return True

    try:
        return largest(fits, case.batch_size)
    finally:
        if worker is not None:
            worker.close()
