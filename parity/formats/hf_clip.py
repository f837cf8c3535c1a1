"""transformers' CLIPVisionModel and CLIPVisionModelWithProjection: `modeling_clip.py`.

The projection is our head, without a bias. Of a whole CLIPModel the vision tower is read.
"""

from dataclasses import replace

from parity.formats import huggingface as hf
from parity.formats.attributes import OBJECT, checked
from parity.formats.format import Format, Given, Json
from parity.formats.limits import cannot
from parity.formats.table import Rule, modules, parts, reshaped
from vit_spec import Header, Preprocessing, ViTConfig

TOWER, LAYER = "vision_model.", "encoder.layers.{i}"
DEFAULTS = {
    "intermediate_size": 3072, "projection_dim": 512, "patch_size": 32, "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}  # fmt: skip
IGNORED: Json = {"vision_use_head": ..., "bos_token_id": ..., "eos_token_id": ...}
TEXT = (r"text_model\..*", r"text_projection\..*", r"logit_(scale|bias)", r".*position_ids")
DEFAULT = Preprocessing(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    crop_fraction=1.0,
)


def matches(given: Given) -> bool:
    """Says its config `clip` or `clip_vision_model`."""
    return given.model_type in ("clip", "clip_vision_model")


def aliases(given: Given) -> dict[str, str]:
    """The names of a file: the table's prefix comes and goes with the projection."""
    prefix = TOWER if "visual_projection.weight" in given.shapes else ""
    return {
        name: prefix + name.removeprefix(TOWER)
        for name in given.shapes
        if name != "visual_projection.weight"
    }


def encoder(p: str) -> list[Rule]:
    """Blocks of CLIP and SigLIP, and their patches; `p` is the prefix of every name."""
    return [
        *modules({"patch_embed.proj": f"{p}embeddings.patch_embedding"}),
        *parts(
            "blocks.{i}.attn.qkv", [f"{p}{LAYER}.self_attn.{part}_proj" for part in ("q", "k", "v")]
        ),
        *modules(
            {
                "blocks.{i}.norm1": f"{p}{LAYER}.layer_norm1",
                "blocks.{i}.attn.proj": f"{p}{LAYER}.self_attn.out_proj",
                "blocks.{i}.norm2": f"{p}{LAYER}.layer_norm2",
                "blocks.{i}.mlp.fc1": f"{p}{LAYER}.mlp.fc1",
                "blocks.{i}.mlp.fc2": f"{p}{LAYER}.mlp.fc2",
                "norm": f"{p}post_layernorm",
            }
        ),
    ]


def table(config: ViTConfig) -> list[Rule]:
    """With the projection, every other name has the prefix `vision_model.`."""
    p, d = TOWER if config.num_classes else "", config.width
    return [
        Rule("cls_token", f"{p}embeddings.class_embedding", reshaped((1, 1, d), (d,))),
        Rule(
            "pos_embed", f"{p}embeddings.position_embedding.weight", reshaped((1, -1, d), (-1, d))
        ),
        *modules({"norm_pre": f"{p}pre_layrnorm"}),  # so it is spelled there
        *encoder(p),
        Rule("head.weight", "visual_projection.weight"),
    ]


def vision(given: Given) -> Given:
    """The vision tower's config of a config of both towers."""
    config = given.config or {}
    if "vision_config" not in config:
        return given
    said = checked(config, {"vision_config": OBJECT}, where=given.folder / "config.json")
    inner = {k: v for k, v in said.get("vision_config", {}).items() if k != "model_type"}
    return replace(given, config=inner | {"model_type": f"{given.model_type}_vision_model"})


def config_from(given: Given) -> Header:
    """The attributes of the vision tower."""
    if "classifier.weight" in given.shapes:
        raise ValueError(
            "CLIPForImageClassification's classifier takes the mean of tokens that the last norm "
            "has not seen, which no head of ours does: leave it out with leave_out='classifier.*'"
        )
    given = vision(given)
    attributes, fields = hf.read(given, DEFAULTS, ignored=IGNORED, where="transformers CLIP")
    projection = given.shapes.get("visual_projection.weight", (0,))
    config = ViTConfig(
        **fields,
        num_classes=projection[0],
        head_bias=projection[0] == 0,
        pre_norm=True,
        patch_bias=False,
        mlp_width=attributes["intermediate_size"],
        activation=hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        pos_embed_antialias=False,
    )
    return Header(config=config, preprocessing=hf.preprocessing_from(given, DEFAULT))


def config_to(header: Header) -> dict[str, Json]:
    """config.json and preprocessor_config.json."""
    c = header.config
    name = "CLIPVisionModelWithProjection" if c.num_classes else "CLIPVisionModel"
    content = hf.written(c, "clip_vision_model", name) | {
        "intermediate_size": c.mlp_width,
        "hidden_act": hf.HIDDEN_ACT[c.activation],
        "layer_norm_eps": c.norm_eps,
        "attention_dropout": 0.0,
        "projection_dim": c.num_classes or 512,
    }
    return {
        "config.json": content,
        "preprocessor_config.json": hf.preprocessing_to(header, "CLIPImageProcessor"),
    }


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why CLIP's vision tower cannot hold a model."""
    other = {"patch_bias": False, "pre_norm": True, "head_bias": config.num_classes == 0}
    return cannot(config, other, who="transformers' CLIP")


FORMAT = Format(
    name="hf_clip",
    kind="safetensors",
    about="directory of transformers' CLIPVisionModel, with or without projection; also read: "
    "CLIPModel, its vision tower",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    ignored=TEXT,
    aliases=aliases,
    file="model.safetensors",
    sharded=True,
    untold=hf.untold("dropout", "drop_path"),
    images=hf.images,
    usual=DEFAULT,
)
