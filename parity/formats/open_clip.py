"""open_clip's vision tower: `VisionTransformer` in `open_clip/transformer.py`, 3.3.

Of a checkpoint of both towers the visual one is read, and written alone. Layer norms have epsilon
1e-5 there, or what `norm_kwargs` says.
"""

from dataclasses import replace
from typing import Any

from parity.formats.attributes import (
    EPSILON,
    FLAG,
    NUMBER,
    NUMBERS,
    OBJECT,
    RATIO,
    SIDES,
    TEXT,
    WHOLE,
    checked,
    one_of,
)
from parity.formats.format import Format, Given, Json, Unsaid, inferred, unlisted
from parity.formats.hf_clip import DEFAULT
from parity.formats.limits import cannot
from parity.formats.table import Rule, modules, reshaped
from parity.operations import permute
from vit_spec import Header, Preprocessing, ViTConfig
from vit_spec.preprocessing import INTERPOLATIONS

EPS = 1e-5
CONFIG = "open_clip_config.json"
LAYER = "visual.transformer.resblocks.{i}"
TOWER: Json = {
    "image_size": 224, "layers": 12, "width": 768, "patch_size": 16, "head_width": 64,
    "mlp_ratio": 4.0, "ls_init_value": None, "pool_type": "tok", "no_ln_pre": False,
    "norm_kwargs": None,
}  # fmt: skip
IGNORED: Json = {
    "patch_dropout": ..., "output_tokens": ..., "input_patchnorm": [False], "eos_token_id": ...,
    "global_average_pool": [False], "attentional_pool": [False], "final_ln_after_pool": [False],
    "pos_embed_type": ["learnable"], "timm_model_name": [None], "act_kwargs": [None, {}],
}  # fmt: skip


KINDS = {
    "image_size": SIDES, "layers": WHOLE, "width": WHOLE, "patch_size": WHOLE, "head_width": WHOLE,
    "mlp_ratio": RATIO, "ls_init_value": NUMBER, "pool_type": TEXT, "no_ln_pre": FLAG,
    "norm_kwargs": OBJECT,
}  # fmt: skip
PREPROCESS = {
    "size": SIDES, "mean": NUMBERS, "std": NUMBERS, "resize_mode": TEXT,
    "interpolation": one_of(INTERPOLATIONS),
}  # fmt: skip


def matches(given: Given) -> bool:
    """Has the names of OpenAI's release, which open_clip keeps."""
    return {"visual.class_embedding", "visual.conv1.weight"} <= set(given.shapes)


def table(config: ViTConfig) -> list[Rule]:
    """The projection is our head, transposed and without a bias."""
    d = config.width
    return [
        Rule("cls_token", "visual.class_embedding", reshaped((1, 1, d), (d,))),
        Rule("pos_embed", "visual.positional_embedding", reshaped((1, -1, d), (-1, d))),
        Rule("patch_embed.proj.weight", "visual.conv1.weight"),
        Rule("blocks.{i}.attn.qkv.weight", f"{LAYER}.attn.in_proj_weight"),
        Rule("blocks.{i}.attn.qkv.bias", f"{LAYER}.attn.in_proj_bias"),
        Rule("blocks.{i}.ls1.gamma", f"{LAYER}.ls_1.gamma"),
        Rule("blocks.{i}.ls2.gamma", f"{LAYER}.ls_2.gamma"),
        *modules(
            {
                "norm_pre": "visual.ln_pre",
                "blocks.{i}.norm1": f"{LAYER}.ln_1",
                "blocks.{i}.attn.proj": f"{LAYER}.attn.out_proj",
                "blocks.{i}.norm2": f"{LAYER}.ln_2",
                "blocks.{i}.mlp.fc1": f"{LAYER}.mlp.c_fc",
                "blocks.{i}.mlp.fc2": f"{LAYER}.mlp.c_proj",
                "norm": "visual.ln_post",
            }
        ),
        Rule("head.weight", "visual.proj", permute(1, 0)),
    ]


def config_from(given: Given) -> Header:
    """Sizes from the shapes; heads, activation and pooling from open_clip_config.json."""
    content = given.files.get(CONFIG)
    if content is None:
        raise Unsaid(
            f"there is no {CONFIG} beside the file, so its activation is not known (OpenAI has "
            "quick_gelu, most others gelu): give a config by model='config.json'"
        )
    where = given.folder / CONFIG
    content = checked(content, {"model_cfg": OBJECT, "preprocess_cfg": OBJECT}, where=where)
    model = checked(
        content.get("model_cfg", {}), {"vision_cfg": OBJECT, "quick_gelu": FLAG}, where=where
    )
    said = model.get("vision_cfg", {})
    unlisted(said, TOWER, IGNORED, where=f"vision_cfg of {CONFIG}")
    tower = TOWER | checked(said, KINDS, where=where)
    if tower["pool_type"] != "tok":
        raise ValueError(f"pool_type {tower['pool_type']!r} of {CONFIG}: only 'tok' is known")
    norms = checked(tower["norm_kwargs"] or {}, {"eps": EPSILON}, where=where)
    unlisted(norms, ("eps",), {}, where=f"norm_kwargs of {CONFIG}")
    width, size = given.shapes["visual.conv1.weight"][0], tower["image_size"]
    size = (size, size) if isinstance(size, int) else (size[0], size[1])
    stated = replace(given, sizes=(size, *given.sizes))
    fields = inferred(
        table(ViTConfig(width=width, num_heads=1)), stated, where="the open_clip file"
    )
    config = ViTConfig.from_dict(
        fields
        | {
            "num_heads": width // tower["head_width"],
            "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
            "norm_eps": norms.get("eps", EPS),
            "pos_embed_antialias": True,
            "layer_scale": tower["ls_init_value"],
        }
    )
    return Header(config=config, preprocessing=images(given) or DEFAULT)


def images(given: Given) -> Preprocessing | None:
    """What open_clip_config.json says, if it does."""
    content, where = given.files.get(CONFIG) or {}, given.folder / CONFIG
    said = checked(content, {"preprocess_cfg": OBJECT}, where=where).get("preprocess_cfg")
    return _preprocessing(checked(said, PREPROCESS, where=where)) if said else None


def config_to(header: Header) -> dict[str, Json]:
    """open_clip_config.json; of the text tower there is nothing."""
    c, p = header.config, header.preprocessing
    size: Any = list(c.image_shape) if c.image_shape[0] != c.image_shape[1] else c.image_shape[0]
    tower = {
        "image_size": size,
        "layers": c.depth,
        "width": c.width,
        "head_width": c.width // c.num_heads,
        "patch_size": c.patch_shape[0],
        "mlp_ratio": c.mlp_width / c.width,
    }
    if c.layer_scale is not None:
        tower["ls_init_value"] = c.layer_scale
    if c.norm_eps != EPS:
        tower["norm_kwargs"] = {"eps": c.norm_eps}
    model = {
        "embed_dim": c.num_classes,
        "quick_gelu": c.activation == "quick_gelu",
        "vision_cfg": tower,
    }
    preprocess: Json = {
        "mean": list(p.mean),
        "std": list(p.std),
        "interpolation": p.interpolation,
        "resize_mode": "squash" if p.squash else "shortest",
    }
    if p.size:
        preprocess["size"] = list(p.size)
    return {CONFIG: {"model_cfg": model, "preprocess_cfg": preprocess}}


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why open_clip's tower cannot hold a model."""
    other = {
        "patch_bias": False, "pre_norm": True, "head_bias": False, "norm_eps": ...,
        "activation": ["gelu", "quick_gelu"], "layer_scale": ..., "in_channels": 3,
    }  # fmt: skip
    reasons = cannot(config, other, who="open_clip")
    if not config.num_classes:
        reasons.append("num_classes 0 (its projection is always there)")
    if config.patch_shape[0] != config.patch_shape[1]:
        reasons.append(f"patch_size {config.patch_size!r} (its patches are square)")
    ratio = config.mlp_width / config.width
    if int(config.width * ratio) != config.mlp_width:
        reasons.append(f"mlp_width {config.mlp_width} (no mlp_ratio gives it)")
    return reasons


def _preprocessing(content: Json) -> Preprocessing:
    mode = content.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ValueError(f"resize_mode {mode!r} of {CONFIG} is neither 'shortest' nor 'squash'")
    size = content.get("size")
    return Preprocessing(
        mean=tuple(content.get("mean", DEFAULT.mean)),
        std=tuple(content.get("std", DEFAULT.std)),
        interpolation=content.get("interpolation", "bicubic"),
        crop_fraction=1.0,
        squash=mode == "squash",
        size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
    )


FORMAT = Format(
    name="open_clip",
    kind="safetensors",
    about="directory of open_clip, its vision tower",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    ignored=(r"(?!visual\.).*",),
    file="open_clip_model.safetensors",
    images=images,
    usual=DEFAULT,
)
