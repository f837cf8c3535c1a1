"""timm's vision transformers: our names are theirs, so only config.json has to be told apart.

Source: `save_config_for_hf` in `timm/models/_hub.py`: architecture, model_args, pretrained_cfg.
"""

from typing import Any

from parity.formats.attributes import (
    COUNT,
    FLAG,
    IMAGE,
    NUMBER,
    NUMBERS,
    OBJECT,
    RATE,
    SHARE,
    SIDES,
    TEXT,
    TEXTS,
    WHOLE,
    checked,
    one_of,
)
from parity.formats.format import (
    ELSEWHERE,
    Format,
    Given,
    Json,
    Unsaid,
    fields_of,
    needed,
    unlisted,
)
from parity.formats.limits import cannot
from parity.formats.table import Rule
from parity.formats.timm_names import facts
from vit_spec import Header, Preprocessing, ViTConfig, get, parameters, variants
from vit_spec.parameters import Shapes
from vit_spec.preprocessing import INTERPOLATIONS
from vit_spec.published import published_preprocessing
from vit_spec.strict_json import shown

CROPS = ("center", "squash")
DEFAULT = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What timm takes where a `pretrained_cfg` does not say it."""
POOLS = {"token": "token", "avg": "mean", "map": "map"}
ARGUMENTS = {  # model_args: ours
    "img_size": "image_size", "patch_size": "patch_size", "in_chans": "in_channels",
    "num_classes": "num_classes", "embed_dim": "width", "depth": "depth", "num_heads": "num_heads",
    "qkv_bias": "qkv_bias", "qk_norm": "qk_norm", "init_values": "layer_scale",
    "class_token": "class_token", "reg_tokens": "num_registers", "fc_norm": "fc_norm",
    "drop_path_rate": "drop_path",
}  # fmt: skip
KINDS = {
    "img_size": SIDES, "patch_size": SIDES, "in_chans": WHOLE, "num_classes": COUNT,
    "embed_dim": WHOLE, "depth": WHOLE, "num_heads": WHOLE, "qkv_bias": FLAG, "qk_norm": FLAG,
    "init_values": NUMBER, "class_token": FLAG, "reg_tokens": COUNT, "fc_norm": FLAG,
    "drop_path_rate": RATE, "global_pool": TEXT, "act_layer": TEXT,
}  # fmt: skip
PRETRAINED = {
    "input_size": IMAGE, "pool": TEXT, "label_names": TEXTS, "crop_mode": one_of(CROPS),
    "interpolation": one_of(INTERPOLATIONS), "mean": NUMBERS, "std": NUMBERS, "crop_pct": SHARE,
}  # fmt: skip
CONFIG = {
    "architecture": TEXT, "pretrained_cfg": OBJECT, "model_args": OBJECT, "global_pool": TEXT,
}  # fmt: skip
IGNORED: Json = {  # said by shapes too, or about training
    "mlp_ratio": ..., "no_embed_class": ..., "dynamic_img_size": ..., "strict_img_size": ...,
    "weight_init": ..., "pre_norm": ..., "drop_rate": ..., "pos_drop_rate": ...,
    "proj_drop_rate": ..., "attn_drop_rate": ..., "patch_drop_rate": ..., "fix_init": ...,
    "final_norm": [True], "pos_embed": ["learn"], "proj_bias": [True], "norm_layer": [None],
    "scale_attn_norm": [False], "scale_mlp_norm": [False], "pool_include_prefix": [False],
    "dynamic_img_pad": [False],
}  # fmt: skip
EPS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
"""An architecture that has the epsilon."""
ABSENT = {f"vit_{name}_224" for name in (
    "small_patch14", "medium_patch16", "medium_patch32", "base_patch14", "so400m_patch14",
    "so400m_patch16", "huge_patch16",
)}  # fmt: skip
"""Variants that timm has no model of."""
NEAREST = (
    "pool", "class_token", "pre_norm", "num_registers", "patch_size", "depth", "image_size",
    "class_token_position", "activation",
)  # fmt: skip
"""What makes the name of an architecture a good one, first things first."""
OWN = (
    "blocks.0.ls1.gamma", "reg_token", "norm_pre.weight", "attn_pool.latent",
    "blocks.0.attn.q_norm.weight",
)  # fmt: skip
"""Tensors that no original release has under these names, but DINOv2's, beside its mask token."""


def matches(given: Given) -> bool:
    """Names an architecture of timm, or is a state dict with names that timm alone has."""
    shapes = given.shapes
    named = "architecture" in (given.config or {}) or (given.kind == "torch" and alone(shapes))
    return named and "patch_embed.proj.weight" in shapes


def alone(shapes: Shapes) -> bool:
    """Whether tensors have names that timm's models have and the releases they come from do not."""
    return "mask_token" not in shapes and any(name in shapes for name in OWN)


def table(config: ViTConfig) -> list[Rule]:
    """Every name is its own."""
    return [Rule(name, name) for name in parameters(config)]


def config_from(given: Given) -> Header:
    """Shapes first, then what the architecture's name, its arguments and the pooling say."""
    config = needed(given.config, ("architecture",), where="a timm checkpoint")
    where = given.folder / "config.json"
    config = checked(config, CONFIG | PRETRAINED, where=where)
    pretrained = checked(config.get("pretrained_cfg") or config, PRETRAINED, where=where)
    arguments = checked(config.get("model_args", {}), KINDS, where=where)
    stated = [arguments.get("img_size"), pretrained.get("input_size", ())[1:]]
    sizes = [(s, s) if isinstance(s, int) else (s[0], s[1]) for s in stated if s]
    sizes += given.sizes
    unlisted(
        arguments, {*ARGUMENTS, "global_pool", "act_layer"}, IGNORED, where="timm's model_args"
    )
    pool = arguments.get("global_pool") or config.get("global_pool") or pretrained.get("pool")
    said = {ARGUMENTS[k]: v for k, v in arguments.items() if k in ARGUMENTS}
    said = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    if pool in POOLS:
        said["pool"] = POOLS[pool]
    elif pool:
        raise ValueError(f"global_pool {shown(pool)} is none of {', '.join(POOLS)}")
    if "act_layer" in arguments:
        said["activation"] = arguments["act_layer"]
    try:
        fields = fields_of(given.shapes, where="a timm checkpoint", sizes=sizes)
        fields = facts(config["architecture"], fields["width"]) | fields
    except Unsaid as error:
        raise Unsaid(str(error), said) from error
    labels = config.get("label_names") or pretrained.get("label_names")
    return Header(
        config=ViTConfig.from_dict(fields | said),
        preprocessing=_preprocessing(pretrained, arguments),
        labels=tuple(labels) if labels else None,
    )


def untold(given: Given) -> set[str]:
    """What the arguments leave out, of fields that neither name nor shapes say."""
    arguments = (given.config or {}).get("model_args") or {}
    said = {ours for theirs, ours in ARGUMENTS.items() if arguments.get(theirs) is not None}
    return {*ELSEWHERE, "layer_scale"} - said


def images(given: Given) -> Preprocessing | None:
    """What the pretrained_cfg says, if it does."""
    pretrained = (given.config or {}).get("pretrained_cfg") or given.config or {}
    pretrained = checked(pretrained, PRETRAINED, where=given.folder / "config.json")
    arguments = (given.config or {}).get("model_args") or {}
    return _preprocessing(pretrained, arguments) if "mean" in pretrained else None


def config_to(header: Header) -> dict[str, Json]:
    """config.json: `timm.create_model("local-dir:DIR", pretrained=True)` loads strictly."""
    c, p = header.config, header.preprocessing
    pool = next(theirs for theirs, ours in POOLS.items() if ours == c.pool)
    arguments = {theirs: getattr(c, ours) for theirs, ours in ARGUMENTS.items()}
    arguments |= {
        "mlp_ratio": ratio(c),
        "global_pool": pool,
        "no_embed_class": not c.class_token_position,
        "act_layer": c.activation,
        "pre_norm": c.pre_norm,
        "dynamic_img_size": True,
    }
    pretrained = {
        "input_size": [c.in_channels, *header.image_shape],
        "mean": list(p.mean),
        "std": list(p.std),
        "interpolation": p.interpolation,
        "crop_pct": p.crop_fraction,
        "crop_mode": "squash" if p.squash else "center",
        "num_classes": c.num_classes,
        "fixed_input_size": False,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    content: Json = {
        "architecture": architecture(header),
        "num_classes": c.num_classes,
        "num_features": c.width,
        "global_pool": pool,
        "model_args": {k: _json(v) for k, v in arguments.items() if v is not None},
        "pretrained_cfg": pretrained,
    }
    if header.labels is not None:
        content["label_names"] = list(header.labels)
    return {"config.json": content}


def architecture(header: Header) -> str:
    """timm's model of the same width that is nearest in all that its arguments set.

    If there is none, one that has what no argument of timm's sets from JSON.
    """
    config, images = header.config, header.preprocessing

    def fits(name: str) -> bool:
        other = get(name)
        fixed = (other.norm_eps, other.mlp, other.distillation_token, other.layer_scale is None)
        return name not in ABSENT and other.width == config.width and fixed == (
            config.norm_eps, config.mlp, config.distillation_token, config.layer_scale is None,
        )  # fmt: skip

    def unlike(name: str) -> tuple[bool, ...]:
        fields = [getattr(get(name), field) != getattr(config, field) for field in NEAREST]
        return *fields, published_preprocessing(name).mean != images.mean, name.endswith(".mae")

    if names := [name for name in variants() if fits(name)]:
        return min(names, key=unlike).removesuffix(".mae")
    if config.distillation_token:
        return "deit_base_distilled_patch16_224"
    return "vit_giant_patch14_dinov2" if config.mlp == "swiglu_packed" else EPS[config.norm_eps]


def ratio(config: ViTConfig) -> float:
    """`mlp_ratio`, of which timm takes `int(embed_dim * mlp_ratio)`."""
    hidden = config.mlp_width * (2 if config.mlp == "swiglu_packed" else 1)
    exact = hidden / config.width
    return exact if int(config.width * exact) == hidden else exact * (1 + 1e-12)


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why timm's `VisionTransformer` cannot hold a model."""
    other = {
        "class_token": ..., "distillation_token": ..., "num_registers": ..., "pool": ...,
        "class_token_position": ..., "fc_norm": ..., "qkv_bias": ..., "qk_norm": ...,
        "layer_scale": ..., "pre_norm": ..., "norm_eps": list(EPS), "mlp": ["mlp", "swiglu_packed"],
        "activation": ..., "patch_bias": not config.pre_norm,
    }  # fmt: skip
    return cannot(config, other, who="timm") + _clashes(config)


def _clashes(config: ViTConfig) -> list[str]:
    """Fields that no one architecture of timm has together."""
    gated, found = config.mlp == "swiglu_packed", []
    if gated and (config.norm_eps != 1e-6 or config.distillation_token):
        found.append("mlp 'swiglu_packed' with norm_eps 1e-05 or a distillation_token")
    if config.distillation_token and config.norm_eps != 1e-6:
        found.append("distillation_token with norm_eps 1e-05")
    return found


def _preprocessing(pretrained: Json, arguments: Json) -> Preprocessing:
    """`input_size` counts where the model takes other sizes than its own."""
    size = pretrained.get("input_size", ())[1:] if arguments.get("dynamic_img_size") else ()
    return Preprocessing(
        mean=tuple(pretrained.get("mean", DEFAULT.mean)),
        std=tuple(pretrained.get("std", DEFAULT.std)),
        interpolation=pretrained.get("interpolation", DEFAULT.interpolation),
        crop_fraction=pretrained.get("crop_pct", DEFAULT.crop_fraction),
        squash=pretrained.get("crop_mode") == "squash",
        size=(size[0], size[1]) if size else None,
    )


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


FORMAT = Format(
    name="timm",
    kind="safetensors",
    about="directory of timm, as `push_to_hf_hub` and `local-dir:` have it",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    file="model.safetensors",
    untold=untold,
    images=images,
    usual=DEFAULT,
    variants=True,
)
