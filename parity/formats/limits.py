"""What a target cannot hold: the plain ViT, and what a format has beside it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from vit_spec import ViTConfig

PLAIN: dict[str, Any] = {  # of every field that changes the function and that sizes do not say
    "class_token": True, "distillation_token": False, "num_registers": 0, "patch_bias": True,
    "pos_embed": "learned", "class_token_position": True, "pool": "token", "fc_norm": False,
    "representation_size": None, "head_bias": True, "mlp": "mlp", "pre_norm": False,
    "activation": ["gelu", "gelu_tanh", "quick_gelu"], "qkv_bias": True, "qk_norm": False,
    "layer_scale": None,
}  # fmt: skip


def cannot(config: ViTConfig, other: Mapping[str, Any], *, who: str) -> list[str]:
    """A reason for each field that has another value than the ones the format knows.

    `other` is what the format has beside `PLAIN`: a value, a list of values, or `...` for any.
    """
    return [
        f"{name} {getattr(config, name)!r} ({who} has only {_or(values)})"
        for name, values in (PLAIN | dict(other)).items()
        if values is not ... and getattr(config, name) not in _choices(values)
    ]


HEADS = {1280: 16}  # by width; else 64 channels each


def heads_of(width: int) -> int:
    """Attention heads of the published models of a width, for files that do not say."""
    return HEADS.get(width) or max(1, width // 64)


def unusual(config: ViTConfig) -> list[str]:
    """Reasons why a file of tensors alone could not be read back: heads and grid are not in it."""
    found, heads = [], heads_of(config.width)
    if config.num_heads != heads:
        found.append(
            f"num_heads {config.num_heads} (the file says none, and width {config.width} stands "
            f"for {heads})"
        )
    patches = math.prod(config.grid)
    if config.pos_embed == "learned" and math.isqrt(patches) ** 2 != patches:
        found.append(f"image_size {config.image_size!r} (the file says only square grids)")
    return found


def _or(values: Any) -> str:
    return " or ".join(repr(value) for value in _choices(values))


def _choices(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list) else [values]
