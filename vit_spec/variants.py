"""The table of variants, in timm's naming grammar: `vit_{size}_patch{patch}_{image size}`."""

from typing import Any

from vit_spec.config import ViTConfig
from vit_spec.names import unknown_name

# name: letters, width, depth, heads, MLP width. Source of each row:
# Ti, S: DeiT (https://arxiv.org/abs/2012.12877); M: big_vision's M; B, L, H: ViT, table 1
# (https://arxiv.org/abs/2010.11929); So400m: https://arxiv.org/abs/2305.13035;
# g, G: Scaling ViTs, table 2 (https://arxiv.org/abs/2106.04560).
SIZES: dict[str, tuple[str, int, int, int, int]] = {
    "tiny": ("Ti", 192, 12, 3, 768),
    "small": ("S", 384, 12, 6, 1536),
    "medium": ("M", 512, 12, 8, 2048),
    "base": ("B", 768, 12, 12, 3072),
    "large": ("L", 1024, 24, 16, 4096),
    "so400m": ("So400m", 1152, 27, 16, 4304),
    "huge": ("H", 1280, 32, 16, 5120),
    "giant": ("g", 1408, 40, 16, 6144),
    "gigantic": ("G", 1664, 48, 16, 8192),
}
PATCHES: dict[str, tuple[tuple[int, int], ...]] = {  # size: (patch, image size)
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


def _table() -> dict[str, ViTConfig]:
    return {
        f"vit_{size}_patch{patch}_{image}": ViTConfig(
            image_size=image,
            patch_size=patch,
            width=width,
            depth=depth,
            num_heads=heads,
            mlp_width=mlp,
        )
        for size, (_, width, depth, heads, mlp) in SIZES.items()
        for patch, image in PATCHES[size]
    }


_VARIANTS = _table()
ALIASES = {
    f"{SIZES[size][0]}/{patch}" + ("" if image == 224 else f"@{image}"): (
        f"vit_{size}_patch{patch}_{image}"
    )
    for size in SIZES
    for patch, image in PATCHES[size]
}


def variants() -> list[str]:
    """Names of all variants, small to large."""
    return list(_VARIANTS)


def full_name(name: str) -> str:
    """The variant's name of an alias such as `B/16` (at 224 pixels) or `B/16@384`.

    Raises `ValueError` listing the near names if there is no such variant.
    """
    full = ALIASES.get(name.removesuffix("@224"), name)
    if full not in _VARIANTS:
        known = [*_VARIANTS, *ALIASES]
        raise ValueError(unknown_name("variant", name, known) + " (all: `parity variants`)")
    return full


def get(name: str, **overrides: Any) -> ViTConfig:
    """The config of a variant or alias, with some fields of `ViTConfig` overridden."""
    return _VARIANTS[full_name(name)].replace(**overrides)


def get_if_no_path(name: str) -> ViTConfig:
    """`get` of a name that is no path: the `ValueError` says that none is there either."""
    try:
        return get(name)
    except ValueError as error:
        raise ValueError(f"there is no file or directory {name}; {error}") from error


def resolve(config_or_name: ViTConfig | str) -> ViTConfig:
    """A config as it is, or the one of a name."""
    return get(config_or_name) if isinstance(config_or_name, str) else config_or_name
