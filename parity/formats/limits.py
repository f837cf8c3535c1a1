"""What a target cannot hold: the plain ViT, and what a format has beside it."""

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


def _or(values: Any) -> str:
    return " or ".join(repr(value) for value in _choices(values))


def _choices(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list) else [values]
