"""The machine's limits, measured beside the contenders: a large matrix product, a large copy."""

from collections.abc import Callable
from typing import Any

from benchmarks._work import Work

SIDES = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the matrices
COPIED = {"cpu": 1 << 28, "gpu": 1 << 32, "tpu": 1 << 32}  # bytes, many times what caches hold
TINY = 16  # a tiny run's matrices have sides that many times smaller, and its copy as few bytes


def jax_matmul(dtype: str, device: str, *, tiny: bool) -> Work:
    """Square matrices of random numbers in JAX; the amount is operations."""
    import jax
    import jax.numpy as jnp

    side = SIDES[device] // (TINY if tiny else 1)
    one, other = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in (0, 1))
    product = jax.jit(jnp.matmul)

    def run(steps: int) -> None:
        found = None
        for _ in range(steps):
            found = product(one, other)
        jax.block_until_ready(found)

    return Work(run=run, amount=2.0 * side**3)


def torch_matmul(dtype: str, device: str, *, tiny: bool) -> Work:
    """The same in PyTorch, float32 as the models have it: TF32 on a GPU."""
    import torch

    torch.set_float32_matmul_precision("high" if device == "gpu" else "highest")
    side, place = SIDES[device] // (TINY if tiny else 1), _place(device)
    one, other = (torch.randn(side, side).to(place, getattr(torch, dtype)) for _ in range(2))
    result = torch.empty_like(one)
    return Work(run=_torch(device, lambda: torch.mm(one, other, out=result)), amount=2.0 * side**3)


def torch_copy(dtype: str, device: str, *, tiny: bool) -> Work:
    """A copy within the device's memory; the amount is bytes, read and written both counted."""
    import torch

    size = COPIED[device] // (TINY if tiny else 1)
    source = torch.ones(size // 4, device=_place(device))
    target = torch.empty_like(source)
    return Work(run=_torch(device, lambda: target.copy_(source)), amount=2.0 * size)


def _place(device: str) -> str:
    return "cuda" if device == "gpu" else "cpu"


def _torch(device: str, one: Callable[[], Any]) -> Callable[[int], None]:
    import torch

    def run(steps: int) -> None:
        for _ in range(steps):
            one()
        if device == "gpu":
            torch.cuda.synchronize()

    return run


LIMITS = {"jax matmul": jax_matmul, "torch matmul": torch_matmul, "torch copy": torch_copy}
MATMULS = ("jax matmul", "torch matmul")
"""Limits of arithmetic: the higher one counts."""
COPY = "torch copy"
"""Limit of the memory's bandwidth."""
ON_TPU = ("jax matmul",)
