"""The numerical settings under which both sides are compared, and what they were before."""

import contextlib
from collections.abc import Iterator

import jax
import torch


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """JAX with float64 and full-precision products, PyTorch without TF32; restored at the end."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
