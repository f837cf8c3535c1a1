"""transformers' SiglipVisionModel: `modeling_siglip.py`. No class token; attention pooling.

Of a whole SiglipModel the vision tower is read.
"""

import numpy as np

from parity.formats import hf_clip
from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json, Unsaid
from parity.formats.limits import cannot
from parity.formats.table import Rule, modules, reshaped
from parity.rules import Op
from vit_spec import Header, Preprocessing, ViTConfig

DEFAULTS = {
    "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
DEFAULT = Preprocessing(crop_fraction=1.0, squash=True)

query_and_rest = Op(
    lambda arrays: (arrays[0][: len(arrays[0]) // 3], arrays[0][len(arrays[0]) // 3 :]),
    lambda arrays: (np.concatenate(arrays, axis=0),),
)
"""Query, and key with value, to the one layer of `torch.nn.MultiheadAttention`."""


def matches(given: Given) -> bool:
    """Says its config `siglip` or `siglip_vision_model`."""
    return given.model_type in ("siglip", "siglip_vision_model")


def table(config: ViTConfig) -> list[Rule]:
    """The pooling's query, key and value are one layer."""
    d, attention = config.width, "head.attention"
    return [
        Rule("pos_embed", "embeddings.position_embedding.weight", reshaped((1, -1, d), (-1, d))),
        *hf_clip.encoder(""),
        Rule("attn_pool.latent", "head.probe"),
        Rule(
            ("attn_pool.q.weight", "attn_pool.kv.weight"),
            f"{attention}.in_proj_weight",
            query_and_rest,
        ),
        Rule(
            ("attn_pool.q.bias", "attn_pool.kv.bias"), f"{attention}.in_proj_bias", query_and_rest
        ),
        *modules(
            {
                "attn_pool.proj": f"{attention}.out_proj",
                "attn_pool.norm": "head.layernorm",
                "attn_pool.mlp.fc1": "head.mlp.fc1",
                "attn_pool.mlp.fc2": "head.mlp.fc2",
            }
        ),
    ]


def config_from(given: Given) -> Header:
    """The attributes of the vision tower."""
    given = hf_clip.vision(given)
    attributes, fields = hf.read(given, DEFAULTS, where="transformers SigLIP")
    config = ViTConfig(
        **fields,
        num_classes=0,
        class_token=False,
        pool="map",
        mlp_width=attributes["intermediate_size"],
        activation=hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        pos_embed_antialias=False,
    )
    if not attributes["vision_use_head"]:
        raise Unsaid(
            "vision_use_head false: without its attention pooling the model returns tokens, and "
            "every model of ours pools them; give a config with another pool by "
            "model='config.json'",
            {name: value for name, value in config.to_dict().items() if name != "pool"},
        )
    return Header(config=config, preprocessing=hf.preprocessing_from(given, DEFAULT))


def config_to(header: Header) -> dict[str, Json]:
    """config.json and preprocessor_config.json."""
    c = header.config
    content = hf.written(c, "siglip_vision_model", "SiglipVisionModel") | {
        "intermediate_size": c.mlp_width,
        "hidden_act": hf.HIDDEN_ACT[c.activation],
        "layer_norm_eps": c.norm_eps,
        "attention_dropout": 0.0,
        "vision_use_head": True,
    }
    return {
        "config.json": content,
        "preprocessor_config.json": hf.preprocessing_to(header, "SiglipImageProcessor"),
    }


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why SigLIP's vision tower cannot hold a model."""
    other = {"class_token": False, "pool": "map", "num_classes": 0, "class_token_position": ...}
    return cannot(config, other, who="transformers' SigLIP")


FORMAT = Format(
    name="hf_siglip",
    kind="safetensors",
    about="directory of transformers' SiglipVisionModel; also read: SiglipModel, its vision tower",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    ignored=hf_clip.TEXT,
    aliases=hf_clip.aliases,
    file="model.safetensors",
    sharded=True,
    untold=hf.untold("dropout", "drop_path"),
    images=hf.images,
    usual=DEFAULT,
)
