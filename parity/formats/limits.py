"""What a target cannot hold: the plain ViT, and what a format has beside it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from parity.formats.format import Json, Unsaid
from vit_spec import ViTConfig, get, variants

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


SHAPE = ("width", "depth", "mlp_width")
SIZES = ("patch_size", "image_size")


def published(pattern: str, fields: Mapping[str, Any]) -> str | None:
    """The first variant under a pattern of names that has the width, depth and MLP of `fields`.

    One of its patch size and image size is preferred.
    """
    known = {name: get(name).to_dict() for name in variants() if re.fullmatch(pattern, name)}
    found = [n for n, one in known.items() if all(one[key] == fields[key] for key in SHAPE)]
    return max(
        found, key=lambda n: [known[n][key] == fields.get(key) for key in SIZES], default=None
    )


def as_published(form: str, pattern: str, fields: Json, untold: Iterable[str]) -> str:
    """The name of the published model that a file of tensors alone is taken for.

    Raises `Unsaid` if there is none.
    """
    if name := published(pattern, fields):
        return name
    shape = ", ".join(f"{key} {fields[key]}" for key in SHAPE)
    raise Unsaid(
        f"its tensors do not say {', '.join(untold)}, and no published model of {form} has "
        f"{shape}: give a config of ours that says them by model='config.json'",
        fields,
    )


def unusual(config: ViTConfig, pattern: str) -> list[str]:
    """Reasons why a file of tensors alone would be read back as another, published model."""
    found, name = [], published(pattern, config.to_dict())
    heads = get(name).num_heads if name else config.num_heads
    if config.num_heads != heads:
        found.append(
            f"num_heads {config.num_heads} (the file says none, and its tensors are those of "
            f"{name}, which has {heads})"
        )
    return found


def _or(values: Any) -> str:
    return " or ".join(repr(value) for value in _choices(values))


def _choices(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list) else [values]
