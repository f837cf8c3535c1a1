"""The table of variants, in timm's naming grammar: `vit_{size}_patch{patch}_{image size}`."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from vit_spec.config import ViTConfig
from vit_spec.names import unknown_name, unknown_names

# name: letters, width, depth, heads, MLP width. Source of each row:
# Ti, S: DeiT (https://arxiv.org/abs/2012.12877); M: big_vision's M; B, L, H: ViT, table 1
# (https://arxiv.org/abs/2010.11929); So400m: https://arxiv.org/abs/2305.13035;
# g, G: Scaling ViTs, table 2 (https://arxiv.org/abs/2106.04560);
# giantopt: SigLIP 2 (https://arxiv.org/abs/2502.14786).
SIZES: dict[str, tuple[str, int, int, int, int]] = {
    "tiny": ("Ti", 192, 12, 3, 768),
    "small": ("S", 384, 12, 6, 1536),
    "medium": ("M", 512, 12, 8, 2048),
    "base": ("B", 768, 12, 12, 3072),
    "large": ("L", 1024, 24, 16, 4096),
    "so400m": ("So400m", 1152, 27, 16, 4304),
    "huge": ("H", 1280, 32, 16, 5120),
    "giant": ("g", 1408, 40, 16, 6144),
    "giantopt": ("g-opt", 1536, 40, 16, 6144),
    "gigantic": ("G", 1664, 48, 16, 8192),
}
Patches = dict[str, tuple[tuple[int, int], ...]]  # size: (patch, image size)
PATCHES: Patches = {
    "tiny": ((16, 224), (16, 384)),
    "small": ((8, 224), (14, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    "medium": ((16, 224), (32, 224)),
    "base": ((8, 224), (14, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    "large": ((14, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    "so400m": ((14, 224), (16, 224)),
    "huge": ((14, 224), (16, 224)),
    "giant": ((14, 224),),
    "gigantic": ((14, 224),),
}
_DEIT: Patches = {"tiny": ((16, 224),), "small": ((16, 224),), "base": ((16, 224), (16, 384))}
_DEIT3: Patches = {
    "small": ((16, 224), (16, 384)), "medium": ((16, 224),), "base": ((16, 224), (16, 384)),
    "large": ((16, 224), (16, 384)), "huge": ((14, 224),),
}  # fmt: skip
_DINOV2: Patches = dict.fromkeys(("small", "base", "large", "giant"), ((14, 518),))
_SIGLIP: Patches = {
    "base": ((16, 224), (16, 256), (16, 384), (16, 512)),
    "large": ((16, 256), (16, 384)),
    "so400m": ((14, 224), (14, 378)),
}
_SIGLIP2: Patches = {  # new in SigLIP 2, with the tanh form of GELU
    "base": ((32, 256),), "large": ((16, 512),),
    "so400m": ((16, 256), (16, 384), (16, 512)), "giantopt": ((16, 256), (16, 384)),
}  # fmt: skip
_CLIP: Patches = {
    "base": ((32, 224), (32, 384), (32, 448), (16, 224), (16, 384)),
    "large": ((14, 224), (14, 336)), "huge": ((14, 224), (14, 336)),
}  # fmt: skip
_OPENAI: Patches = {"base": ((32, 224), (16, 224)), "large": ((14, 224), (14, 336))}
_MAE: Patches = {"base": ((16, 224),), "large": ((16, 224),), "huge": ((14, 224),)}

_FEATURES: dict[str, Any] = {"num_classes": 0}
_DEIT3_FIELDS = {"class_token_position": False, "layer_scale": 1e-6}
_DINOV2_FIELDS = {"layer_scale": 1e-5, **_FEATURES}
_GIANT = {"width": 1536, "num_heads": 24, "mlp_width": 4096, "mlp": "swiglu_packed",
          "activation": "silu"}  # fmt: skip
_REGISTERS = {"num_registers": 4, "class_token_position": False}
_MAP = {"class_token": False, "pool": "map", **_FEATURES}
_GAP = {"class_token": False, "pool": "mean", **_FEATURES}
_TANH = {"activation": "gelu_tanh"}
_CLIP_FIELDS = {"pre_norm": True, "patch_bias": False, "norm_eps": 1e-5}
_QUICK = {"activation": "quick_gelu"}

# name, what differs from a plain ViT, rows; all as in timm. DINOv2's released code resamples with
# pos_embed_antialias=False and pos_embed_offset=0.1, its registers' code as timm does.
# CLIP's own projection has no bias (head_bias=False); timm gives it one of zero.
FAMILIES: tuple[tuple[str, dict[str, Any], Patches], ...] = (
    ("vit_{size}_patch{patch}_{image}", {}, PATCHES),
    ("vit_{size}_patch{patch}_{image}.mae", _FEATURES, _MAE),
    ("deit_{size}_patch{patch}_{image}", {}, _DEIT),
    ("deit_{size}_distilled_patch{patch}_{image}", {"distillation_token": True}, _DEIT),
    ("deit3_{size}_patch{patch}_{image}", _DEIT3_FIELDS, _DEIT3),
    ("vit_{size}_patch{patch}_dinov2", _DINOV2_FIELDS, _DINOV2),
    ("vit_{size}_patch{patch}_reg4_dinov2", {**_DINOV2_FIELDS, **_REGISTERS}, _DINOV2),
    ("vit_{size}_patch{patch}_siglip_{image}", _MAP, _SIGLIP),
    ("vit_{size}_patch{patch}_siglip_{image}", {**_MAP, **_TANH}, _SIGLIP2),
    ("vit_{size}_patch{patch}_siglip_gap_{image}", _GAP, _SIGLIP),
    ("vit_{size}_patch{patch}_siglip_gap_{image}", _GAP, {"so400m": ((14, 448), (14, 896))}),
    ("vit_{size}_patch{patch}_siglip_gap_{image}", {**_GAP, **_TANH}, _SIGLIP2),
    ("vit_{size}_patch{patch}_clip_{image}", _CLIP_FIELDS, _CLIP),
    ("vit_{size}_patch{patch}_clip_quickgelu_{image}", {**_CLIP_FIELDS, **_QUICK}, _OPENAI),
)
# name: what differs from its family: DINOv2's giant, and the width of CLIP's common space.
ROWS: dict[str, dict[str, Any]] = {
    "vit_giant_patch14_dinov2": _GIANT,
    "vit_giant_patch14_reg4_dinov2": _GIANT,
    "vit_base_patch32_clip_quickgelu_224": {"num_classes": 512},
    "vit_base_patch16_clip_quickgelu_224": {"num_classes": 512},
    "vit_large_patch14_clip_quickgelu_224": {"num_classes": 768},
    "vit_large_patch14_clip_quickgelu_336": {"num_classes": 768},
}


@cache
def _table() -> dict[str, ViTConfig]:
    found = {}
    for template, fields, patches in FAMILIES:
        for size, (_, width, depth, heads, mlp) in SIZES.items():
            for patch, image in patches.get(size, ()):
                name = template.format(size=size, patch=patch, image=image)
                found[name] = ViTConfig(
                    **{
                        "image_size": image,
                        "patch_size": patch,
                        "width": width,
                        "depth": depth,
                        "num_heads": heads,
                        "mlp_width": mlp,
                        **fields,
                        **ROWS.get(name, {}),
                    }
                )
    return found


ALIASES = {
    f"{SIZES[size][0]}/{patch}" + ("" if image == 224 else f"@{image}"): (
        f"vit_{size}_patch{patch}_{image}"
    )
    for size in PATCHES
    for patch, image in PATCHES[size]
}


def variants() -> list[str]:
    """Names of all variants, family by family, each small to large."""
    return list(_table())


def full_name(name: str) -> str:
    """The variant's name of an alias such as `B/16` (at 224 pixels) or `B/16@384`.

    Raises `ValueError` listing the near names if there is no such variant.
    """
    full = ALIASES.get(name.removesuffix("@224"), name)
    if full not in _table():
        known = [*_table(), *ALIASES]
        raise ValueError(unknown_name("variant", name, known) + " (all: `parity variants`)")
    return full


def get(name: str, **overrides: Any) -> ViTConfig:
    """The config of a variant or alias, with some fields of `ViTConfig` overridden."""
    return _table()[full_name(name)].replace(**overrides)


def get_if_no_path(name: str) -> ViTConfig:
    """`get` of a name that is no path: the `ValueError` says that none is there either."""
    try:
        return get(name)
    except ValueError as error:
        raise ValueError(f"there is no file or directory {name}; {error}") from error


def resolve(
    config_or_name: ViTConfig | str,
    fields: Mapping[str, Any] | None = None,
    *,
    options: Iterable[str] = (),
) -> ViTConfig:
    """A config as it is, or the one of a name; with some `fields` changed.

    `options` are what else may be given beside fields, for the message. Raises `ValueError` for an
    unknown variant or field, with the near names.
    """
    config = get(config_or_name) if isinstance(config_or_name, str) else config_or_name
    known = [f.name for f in dataclasses.fields(config)]
    unknown = [name for name in fields or {} if name not in known]
    if unknown:
        raise ValueError(unknown_names("option or field", unknown, [*options, *known]))
    return config.replace(**fields) if fields else config
