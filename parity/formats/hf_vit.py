"""transformers' ViTModel and ViTForImageClassification: `modeling_vit.py`, names of version 4.

Version 5 renames in memory, and saves and loads these names. The pooler of `ViTModel` is our
tanh layer: without a head, both return it.
"""

from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json
from parity.formats.limits import cannot
from parity.formats.table import Rule, aside, modules
from vit_spec import Header, Preprocessing, ViTConfig

DEFAULTS = {
    "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12, "qkv_bias": True, "pooler_output_size": None, "pooler_act": "tanh",
}  # fmt: skip
DEFAULT = Preprocessing(interpolation="bilinear", crop_fraction=1.0, squash=True)
MLP = {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}


def matches(given: Given) -> bool:
    """Says its config `vit`, and the names are those of PyTorch."""
    return given.model_type == "vit" and any(
        name.endswith("embeddings.cls_token") for name in given.shapes
    )


def table(config: ViTConfig) -> list[Rule]:
    """With a head every name but the head's has the prefix `vit.`."""
    p = "vit." if config.num_classes else ""
    token = aside("mask_token", (1, 1, config.width), written=False)  # ViTForMaskedImageModeling's
    return [
        Rule("cls_token", f"{p}embeddings.cls_token"),
        Rule("pos_embed", f"{p}embeddings.position_embeddings"),
        Rule((), f"{p}embeddings.mask_token", token),
        *modules({"patch_embed.proj": f"{p}embeddings.patch_embeddings.projection"}),
        *hf.bert_blocks(f"{p}encoder.layer", ("layernorm_before", "layernorm_after"), MLP),
        *modules(
            {"norm": f"{p}layernorm", "pre_logits.fc": f"{p}pooler.dense", "head": "classifier"}
        ),
    ]


def config_from(given: Given) -> Header:
    """The attributes, and from the tensors whether there is a head or a pooler."""
    attributes, fields = hf.read(given, DEFAULTS, where="transformers ViT")
    shapes = given.shapes
    classes = shapes["classifier.weight"][0] if "classifier.weight" in shapes else 0
    config = ViTConfig(
        **fields,
        num_classes=classes,
        mlp_width=attributes["intermediate_size"],
        activation=hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        qkv_bias=attributes["qkv_bias"],
        representation_size=None if classes else pooler(given, attributes),
        dropout=attributes["hidden_dropout_prob"],
        pos_embed_antialias=False,
    )
    preprocessing = hf.preprocessing_from(given, DEFAULT)
    return Header(config=config, preprocessing=preprocessing, labels=hf.labels_from(given))


def pooler(given: Given, attributes: Json) -> int | None:
    """The width of the tanh layer on the class token, if there is one."""
    shape = given.shapes.get("pooler.dense.weight")
    if shape and attributes["pooler_act"] != "tanh":
        raise ValueError(
            f"pooler_act {attributes['pooler_act']!r}: ours is tanh; drop the pooler, which is "
            "pooler.dense in the file, if you do not need it"
        )
    return shape[0] if shape else None


def config_to(header: Header) -> dict[str, Json]:
    """config.json and preprocessor_config.json."""
    c = header.config
    content = hf.written(c, "vit", "ViTForImageClassification" if c.num_classes else "ViTModel")
    content |= {
        "intermediate_size": c.mlp_width,
        "hidden_act": hf.HIDDEN_ACT[c.activation],
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": c.norm_eps,
        "qkv_bias": c.qkv_bias,
        "encoder_stride": c.patch_shape[0],
    }
    if c.num_classes:
        content |= hf.labels_to(header)
    elif c.representation_size:
        content |= {"pooler_output_size": c.representation_size, "pooler_act": "tanh"}
    return {
        "config.json": content,
        "preprocessor_config.json": hf.preprocessing_to(header, "ViTImageProcessor"),
    }


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why `ViTModel` cannot hold a model."""
    other = {"qkv_bias": ..., "representation_size": ...}
    reasons = cannot(config, other, who="transformers' ViT")
    if config.num_classes and config.representation_size:
        reasons.append("representation_size with a head (its classifier takes no pooler)")
    return reasons


FORMAT = Format(
    name="hf_vit",
    kind="safetensors",
    about="directory of transformers' ViTModel or ViTForImageClassification",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    file="model.safetensors",
    sharded=True,
    untold=hf.untold("drop_path"),
    images=hf.images,
    usual=DEFAULT,
)
