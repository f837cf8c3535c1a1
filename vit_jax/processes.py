"""Many processes as one program: on each host of a TPU slice, or for each GPU, one."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

Distributed = Literal["auto", "none"]
COUNT, INDEX, ADDRESS = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"


def start_processes(distributed: Distributed) -> None:
    """Joins this process with the others of its run; call it before anything else of JAX.

    `auto`: as the variables JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID say where all three are set; else as JAX finds out itself under SLURM, on Cloud
    TPU, in Kubernetes (with the package `kubernetes`) and under Open MPI; where there is nothing of
    the kind this process is alone. `none`: it is alone.

    Raises `ValueError` where only some of the variables are set or are no numbers, `RuntimeError`
    if JAX is in use already or the others do not come.
    """
    if distributed == "none" or jax.distributed.is_initialized():
        return
    given = {name: os.environ[name] for name in (COUNT, INDEX) if name in os.environ}
    if given:
        missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in os.environ]
        if missing or not all(value.isdigit() for value in given.values()):
            problem = f"without {', '.join(missing)}" if missing else "which are not all numbers"
            raise ValueError(
                f"{', '.join(f'{n}={v}' for n, v in given.items())} {problem}: set {ADDRESS}, "
                f"{COUNT} and {INDEX}, or none of them, or give --distributed none"
            )
        jax.distributed.initialize(num_processes=int(given[COUNT]), process_id=int(given[INDEX]))
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # which is how JAX says: no cluster
            raise


def is_first() -> bool:
    """This process writes files and prints; the others are silent."""
    return jax.process_index() == 0


def from_first(number: int) -> int:
    """The number that the first process gives. All have to call this, `by_first` and `union`."""
    return int(multihost_utils.broadcast_one_to_all(np.array(number)))


def by_first(action: Callable[[], None]) -> None:
    """The first process acts. If that raises `ValueError` or `OSError`, all raise."""
    error = None
    if is_first():
        try:
            action()
        except (ValueError, OSError) as found:
            error = found
    failed = from_first(error is not None)
    if error is not None:
        raise error
    if failed:
        raise ValueError("process 0 gave up; its message says why")


def union(found: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that any process gives, as JSON knows them: their keys become strings."""
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.array(len(text))).max())
    padded = np.pad(text, (0, longest - len(text)), constant_values=ord(" "))
    texts = multihost_utils.process_allgather(padded).reshape(-1, longest)
    return {name: value for row in texts for name, value in json.loads(row.tobytes()).items()}


def end_processes() -> None:
    """Lets the processes part, so that the first may go on alone while the others end."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
