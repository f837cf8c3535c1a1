"""State dicts of the original releases: DeiT, DeiT III, MAE, DINO, DINOv2. Names near to ours.

Sources: `models.py` and `models_v2.py` of facebookresearch/deit, `models_vit.py` of mae,
`vision_transformer.py` of dino and of dinov2. All published ones have epsilon 1e-6 and the exact
GELU. Encoders of MAE and DINO without head have the same tensors, and so have timm's models.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from parity.formats import trained
from parity.formats.format import ELSEWHERE, Format, Given, inferred
from parity.formats.limits import as_published, cannot, published, unusual
from parity.formats.table import Rule, aside, leaves, modules
from parity.formats.timm import alone
from vit_spec import Header, Preprocessing, ViTConfig, get
from vit_spec.parameters import Shapes

IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=224 / 256
)
DINO_HEAD = re.compile(r"(^|\.)head\.(mlp\.\d+|last_layer)\.")
GAMMA = "blocks.{i}.gamma_"
MODULES = (
    "patch_embed.proj", "blocks.{i}.norm1", "blocks.{i}.attn.qkv", "blocks.{i}.attn.proj",
    "blocks.{i}.norm2", "norm", "fc_norm", "head", "head_dist",
)  # fmt: skip
UNTOLD = ("num_heads", "activation", "norm_eps", "pool")  # by tensors alone
SHAPED = ("image_size", "class_token_position", "layer_scale")  # of which they say a part
MLP = modules({name: name for name in ("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc2")})


def usual(config: ViTConfig) -> list[Rule]:
    """Names that all have, which are ours."""
    names = [Rule(name, name) for name in ("cls_token", "dist_token", "pos_embed")]
    return names + modules({name: name for name in MODULES})


def plain(config: ViTConfig) -> list[Rule]:
    """DeiT, MAE and DINO."""
    return usual(config) + MLP


def deit3(config: ViTConfig) -> list[Rule]:
    """LayerScale under other names."""
    scales = [Rule(f"blocks.{{i}}.ls{n}.gamma", f"{GAMMA}{n}") for n in (1, 2)]
    return plain(config) + scales


def dinov2(config: ViTConfig) -> list[Rule]:
    """A gated MLP is `w12`, the gate in front, and `w3`; the token for masked training is kept
    beside the model."""
    scales = [f"blocks.{{i}}.ls{n}.gamma" for n in (1, 2)]
    gated = leaves("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.w12")
    gated += leaves("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3")
    return [
        *usual(config),
        Rule("reg_token", "register_tokens"),
        Rule((), "mask_token", aside("mask_token", (1, config.width))),
        *(Rule(name, name) for name in scales),
        *(gated if config.mlp == "swiglu_packed" else MLP),
    ]


def has_dino_head(given: Given) -> bool:
    """Whether DINO's projection head lies in the backbone or beside it."""
    return any(DINO_HEAD.search(name) for name in (*given.shapes, *given.around))


def _format(
    name: str,
    about: str,
    matches: Callable[[Shapes], bool],
    table: Callable[[ViTConfig], list[Rule]],
    other: Mapping[str, Any],
    known: str,
    *,
    preprocessing: Preprocessing = IMAGENET,
    resampling: Callable[[Shapes], Mapping[str, Any]] = lambda shapes: {},
    ignored: tuple[str, ...] = (),
) -> Format:
    def is_release(given: Given) -> bool:
        shapes = given.shapes
        own = given.kind == "torch" and "blocks.0.attn.qkv.weight" in shapes and not alone(shapes)
        fits = matches(shapes) and (name == "dino" or not has_dino_head(given))
        of = trained.script(given.said)
        fits = fits and of in (None, name, name.removesuffix("3"))
        return own and "architecture" not in (given.config or {}) and fits

    def config_from(given: Given) -> Header:
        shapes = given.shapes
        gated = "blocks.0.mlp.w12.weight" in shapes
        widest = ViTConfig(mlp="swiglu_packed", activation="silu") if gated else ViTConfig()
        fields = inferred(table(widest), given, where=f"the {name} file")
        model = as_published(name, known, fields, UNTOLD)
        fields |= {"num_heads": get(model).num_heads, **resampling(shapes)}
        config = ViTConfig.from_dict(fields)
        return Header(config=config, preprocessing=images(given) or preprocessing)

    def images(given: Given) -> Preprocessing | None:
        return trained.images(given.said, preprocessing)

    def expresses(config: ViTConfig) -> list[str]:
        allowed = {"norm_eps": 1e-6, "activation": "gelu", "qkv_bias": ..., **other}
        return cannot(config, allowed, who=name) + unusual(config, known)

    return Format(
        name=name,
        kind="torch",
        about=about,
        matches=is_release,
        config_from=config_from,
        table=table,
        expresses=expresses,
        ignored=ignored,
        images=images,
        usual=preprocessing,
        variants=True,
        untold=lambda given: (*UNTOLD, *SHAPED, *ELSEWHERE),
        model=lambda config: published(known, config.to_dict()) or "",
    )


def _of_dinov2(shapes: Shapes) -> dict[str, Any]:
    """The hub's settings: models with registers are resampled with antialias and no offset."""
    registers = "register_tokens" in shapes or "reg_token" in shapes
    return {"pos_embed_antialias": registers, "pos_embed_offset": 0.0 if registers else 0.1}


HEADLESS = ("mask_token", "decoder_embed.weight", "head.weight", "blocks.0.gamma_1")

DEIT = _format(
    "deit",
    "state dict of facebookresearch/deit, distilled or not",
    lambda s: "head.weight" in s and "fc_norm.weight" not in s and "blocks.0.gamma_1" not in s,
    plain,
    {"distillation_token": ...},
    r"deit_.*",
)
DEIT3 = _format(
    "deit3",
    "state dict of facebookresearch/deit, DeiT III",
    lambda s: "blocks.0.gamma_1" in s,
    deit3,
    {"layer_scale": ..., "class_token_position": False},
    r"deit3_.*",
    preprocessing=Preprocessing(mean=IMAGENET.mean, std=IMAGENET.std, crop_fraction=1.0),
)
MAE = _format(
    "mae",
    "state dict of facebookresearch/mae, fine-tuned; also read: pre-trained, its encoder",
    lambda s: (
        "fc_norm.weight" in s
        or "decoder_embed.weight" in s
        or not any(name in s for name in HEADLESS)
    ),
    plain,
    {"fc_norm": ..., "pool": ["token", "mean"]},
    r"vit_.*\.mae",
    ignored=(r"decoder_.*", r"mask_token"),
)
DINO = _format(
    "dino",
    "state dict of facebookresearch/dino, the backbone",
    lambda s: not any(name in s for name in HEADLESS),
    plain,
    {"num_classes": 0},
    r"vit_(small|base)_patch(8|16)_224",
    resampling=lambda shapes: {"pos_embed_antialias": False, "pos_embed_offset": 0.1},
)
DINOV2 = _format(
    "dinov2",
    "state dict of facebookresearch/dinov2, with or without registers",
    lambda s: len(s.get("mask_token", ())) == 2,
    dinov2,
    {
        "num_classes": 0,
        "num_registers": ...,
        "layer_scale": ...,
        "mlp": ["mlp", "swiglu_packed"],
        "activation": ["gelu", "silu"],
    },
    r"vit_.*_dinov2",
    resampling=_of_dinov2,
)
ALL = (DEIT, DEIT3, MAE, DINO, DINOV2)
