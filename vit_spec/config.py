"""What a Vision Transformer is, as plain data: every field that changes what the model computes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vit_spec.strict_json import is_number, shown

MOST = 2**31


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A plain ViT (https://arxiv.org/abs/2010.11929). Image sizes in pixels, widths in channels.

    Options that change speed or memory but never the function (dtype, remat, scan, attention
    kernel) are arguments of `vit_jax.create`, not fields here. Raises `ValueError` with all
    problems at once.
    """

    image_size: int | tuple[int, int] = 224
    """Native image size, one side or (height, width). Other multiples of the patch size work too:
    the position embedding is resampled."""
    patch_size: int | tuple[int, int] = 16
    """Side of a patch, or (height, width)."""
    in_channels: int = 3
    """Channels of an image."""
    num_classes: int = 1000
    """Number of logits; 0: no head, the pooled features are returned."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads; they share `width` evenly."""
    mlp_width: int = 3072
    """Hidden channels of a block's MLP, behind the gate if it has one."""

    patch_bias: bool = True
    """The patch convolution has a bias."""
    class_token: bool = True
    """A learned token before the patches."""
    distillation_token: bool = False
    """A second one after the class token, with a position and a head of its own; the logits are the
    mean of both heads' (https://arxiv.org/abs/2012.12877)."""
    num_registers: int = 0
    """Learned tokens between those and the patches, without a position
    (https://arxiv.org/abs/2309.16588)."""
    pos_embed: Literal["learned", "sincos2d", "sincos2d_mae"] = "learned"
    """`sincos2d`: fixed, of https://arxiv.org/abs/2205.01580 (frequencies divided by width/4 - 1);
    `sincos2d_mae`: fixed, of https://arxiv.org/abs/2111.06377 (divided by width/4)."""
    class_token_position: bool = True
    """With a learned position embedding: the class token has a position of its own."""
    pos_embed_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Kernel that resamples a learned position embedding to another grid."""
    pos_embed_antialias: bool = True
    """True: Keys' a = -0.5 and renormalised edges (Pillow, JAX, `F.interpolate(antialias=True)`);
    False: a = -0.75 and clamped edges (`F.interpolate(antialias=False)`)."""
    pos_embed_offset: float = 0.0
    """Added to the new side of the grid where the resampling's scale is computed, (new + offset) /
    old: DINOv2's released code has 0.1 (https://arxiv.org/abs/2304.07193)."""

    pool: Literal["token", "mean", "map"] = "token"
    """Class token, mean of the patch tokens, or attention pooling of them
    (https://arxiv.org/abs/2106.04560)."""
    fc_norm: bool = False
    """True: the last norm acts after pooling (`fc_norm`), False: before it (`norm`)."""
    representation_size: int | None = None
    """Width of a tanh layer before the head ("pre-logits" of the original ViT); None: no layer."""
    head_bias: bool = True
    """The head has a bias; CLIP's projection to the space of images and texts has none."""

    mlp: Literal["mlp", "swiglu_packed", "swiglu"] = "mlp"
    """`swiglu`: silu(gate) * values, of two layers `fc1_g` and `fc1_x`
    (https://arxiv.org/abs/2002.05202); `swiglu_packed`: of one layer `fc1`, the gate in front."""
    pre_norm: bool = False
    """A norm of the tokens before the first block (`norm_pre`), as in CLIP
    (https://arxiv.org/abs/2103.00020)."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu"] = "gelu"
    """`gelu`: exact (erf); `gelu_tanh`: tanh approximation; `quick_gelu`: x * sigmoid(1.702 x);
    `silu`: x * sigmoid(x)."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm, added to the variance."""
    qkv_bias: bool = True
    """The qkv projection has a bias."""
    qk_norm: bool = False
    """LayerNorm of queries and keys, head by head (https://arxiv.org/abs/2302.05442)."""
    layer_scale: float | None = None
    """Initial value of LayerScale (https://arxiv.org/abs/2103.17239); None: no LayerScale."""

    dropout: float = 0.0
    """In training: dropout rate after the position embedding, the attention and both MLP layers."""
    drop_path: float = 0.0
    """In training: stochastic depth rate of the last block, rising linearly from 0 at the first."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = _problems(self)
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Native image height and width in pixels."""
        return _pair(self.image_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Patch height and width in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.grid_of(*self.image_shape)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token, distillation token and registers."""
        return int(self.class_token) + int(self.distillation_token) + self.num_registers

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the learned position embedding before those of the patches."""
        own = self.class_token and self.class_token_position
        return int(own) + int(self.distillation_token)

    @property
    def num_positions(self) -> int:
        """Rows of the learned position embedding."""
        return self.num_prefix_positions + self.grid[0] * self.grid[1]

    @property
    def feature_width(self) -> int:
        """Channels that the head takes."""
        return self.representation_size or self.width

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image; `ValueError` if it does not divide."""
        p, q = self.patch_shape
        if height <= 0 or width <= 0 or height % p or width % q:
            raise ValueError(
                f"image of {height} x {width} pixels is not a multiple of patch_size {p} x {q}: "
                f"resize it to {max(p, height // p * p)} x {max(q, width // q * q)}"
            )
        return height // p, width // q

    def replace(self, **changes: Any) -> "ViTConfig":
        """A copy with some fields changed. Raises `ValueError` for unknown fields."""
        return type(self).from_dict(dataclasses.asdict(self) | changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields = dataclasses.asdict(self).items()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ViTConfig":
        """The inverse of `to_dict`. Raises `ValueError` for a field that does not exist."""
        from vit_spec.names import unknown_names

        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise ValueError(unknown_names("config field", unknown, known))
        return cls(**fields)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _problems(c: ViTConfig) -> list[str]:
    """Everything that is wrong with a config, one sentence each."""
    found = _field_problems(c)
    if found:
        return found
    for size, patch in dict.fromkeys(zip(c.image_shape, c.patch_shape, strict=True)):
        if size % patch:
            low = size // patch * patch
            near = f"{low} or {low + patch}" if low else f"{patch}"
            found.append(f"image_size {size} is not a multiple of patch_size {patch}: use {near}")
    if c.width % c.num_heads:
        found.append(f"width {c.width} is not a multiple of num_heads {c.num_heads}")
    if c.pos_embed != "learned" and c.width % 4:
        found.append(
            f"width {c.width} is not a multiple of 4, which pos_embed {c.pos_embed!r} needs"
        )
    if c.pos_embed == "sincos2d" and c.width < 8:
        found.append(f"width {c.width} is below 8, which pos_embed 'sincos2d' needs")
    if c.pool == "token" and not c.class_token:
        found.append("pool 'token' needs class_token=True; use pool 'mean' or 'map' without one")
    found += _distillation_problems(c)
    if c.mlp != "mlp" and c.activation != "silu":
        found.append(f"mlp {c.mlp!r} needs activation 'silu', not {c.activation!r}")
    if c.mlp != "mlp" and c.pool == "map":
        found.append(f"pool 'map' has an MLP of its own, which mlp {c.mlp!r} does not define")
    return found


def _distillation_problems(c: ViTConfig) -> list[str]:
    """What DeiT's distillation token does not go with: its definition says nothing of it."""
    fields = {
        "class_token": True, "class_token_position": True, "num_registers": 0, "pool": "token",
        "pos_embed": "learned", "fc_norm": False, "representation_size": None,
    }  # fmt: skip
    return [
        f"distillation_token needs {name}={value!r}, not {getattr(c, name)!r}"
        for name, value in fields.items()
        if c.distillation_token and getattr(c, name) != value
    ]


def _field_problems(c: ViTConfig) -> list[str]:
    """Fields of the wrong type or out of range."""
    found = []
    for name, hint in get_type_hints(ViTConfig).items():
        value = getattr(c, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            found.append(f"{name} {shown(value)} is none of {', '.join(map(repr, get_args(hint)))}")
        elif hint is bool and not isinstance(value, bool):
            found.append(f"{name} {shown(value)} must be True or False")
    for name in ("image_size", "patch_size"):
        value = getattr(c, name)
        sides = value if isinstance(value, tuple) else (value, value)
        if len(sides) != 2 or not all(_is_int(s) and 0 < s < MOST for s in sides):
            found.append(f"{name} {shown(value)} must be a positive whole number or a pair of them")
    for name, low in {
        "in_channels": 1, "num_classes": 0, "width": 1, "depth": 1, "num_heads": 1,
        "mlp_width": 1, "num_registers": 0, "representation_size": 1,
    }.items():  # fmt: skip
        value = getattr(c, name)
        if name == "representation_size" and value is None:
            continue
        if not _is_int(value) or not low <= value < MOST:
            found.append(
                f"{name} {shown(value)} must be a whole number of at least {low} and below 2**31"
            )
    for name in ("dropout", "drop_path", "pos_embed_offset"):
        value = getattr(c, name)
        if not is_number(value) or not 0 <= value < 1:
            found.append(f"{name} {shown(value)} is outside [0, 1)")
    if not isinstance(c.norm_eps, float) or not 0 < c.norm_eps < 1:
        found.append(f"norm_eps {shown(c.norm_eps)} is outside (0, 1)")
    if c.layer_scale is not None and not is_number(c.layer_scale):
        found.append(f"layer_scale {shown(c.layer_scale)} must be a number or None")
    return found
