"""Options of the JAX side: they change speed and memory, never the function."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

Remat = Literal["none", "dots", "full"]
AttentionKernel = Literal["auto", "xla", "cudnn"]
FLOATS = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model computes what its config says."""

    dtype: Any = None
    """Type of activations and matrix products; None: that of the parameters. Norms and softmax
    compute in at least float32."""
    param_dtype: Any = jnp.float32
    """Type of the parameters. float64 needs JAX's x64 mode."""
    remat: Remat = "none"
    """What the backward pass computes again: nothing, all but matrix products, or whole blocks."""
    scan: bool = False
    """Run the blocks as one compiled loop: compile time no longer grows with depth."""
    attention: AttentionKernel = "auto"
    """Attention kernel. `cudnn`: NVIDIA's flash attention, for float16 and bfloat16 on GPUs of
    compute capability 8.0 and up. `auto`: `cudnn` where it can run, else `xla`."""

    def __post_init__(self) -> None:
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _float_type(name, getattr(self, name)))
        if jnp.float64 in (self.dtype, self.param_dtype) and not jax.config.jax_enable_x64:
            raise ValueError(
                "float64 needs JAX's x64 mode: wrap the code in `with jax.enable_x64(True):`"
            )
        for name, allowed in (("remat", get_args(Remat)), ("attention", get_args(AttentionKernel))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is none of {', '.join(map(repr, allowed))}"
                )

    @property
    def compute_dtype(self) -> Any:
        """The type that activations have."""
        return self.param_dtype if self.dtype is None else self.dtype


def _float_type(name: str, value: Any) -> Any:
    """The dtype of a name or type. Raises `ValueError` unless it is one of `FLOATS`."""
    try:
        found = jnp.dtype(value)
    except TypeError:
        found = None
    if found is None or found.name not in FLOATS:
        raise ValueError(f"{name} {value!r} is none of {', '.join(map(repr, FLOATS))}")
    return found
