"""transformers' SiglipVisionModel and SiglipForImageClassification: `modeling_siglip.py`.

No class token; attention pooling, or before a classifier the mean of the patches, which leaves the
pooling without a use. Of a whole SiglipModel the vision tower is read.
"""

import numpy as np

from parity.formats import hf_clip
from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json, Unsaid
from parity.formats.limits import cannot
from parity.formats.table import Rule, modules, reshaped
from parity.operations import Op
from vit_spec import Header, Preprocessing, ViTConfig

DEFAULTS = {
    "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
TOWER, CLASSIFIER = hf_clip.TOWER, "classifier.weight"
POOLING = (r"(vision_model\.)?head\..*",)
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
    """The pooling's query, key and value are one layer. A classifier has its own prefix."""
    d, attention, p = config.width, "head.attention", TOWER if classifies(config) else ""
    return [
        Rule(
            "pos_embed", f"{p}embeddings.position_embedding.weight", reshaped((1, -1, d), (-1, d))
        ),
        *hf_clip.encoder(p),
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
                "head": "classifier",
            }
        ),
    ]


def classifies(config: ViTConfig) -> bool:
    """Whether it is a SiglipForImageClassification."""
    return config.num_classes > 0


def aliases(given: Given) -> dict[str, str]:
    """The names of a file: the table's prefix comes and goes with the classifier."""
    prefix = TOWER if CLASSIFIER in given.shapes else ""
    return {
        name: name if name.startswith("classifier.") else prefix + name.removeprefix(TOWER)
        for name in given.shapes
    }


def config_from(given: Given) -> Header:
    """The attributes of the vision tower; the classifier is in the tensors."""
    labels = hf.labels_from(given)
    given = hf_clip.vision(given)
    attributes, fields = hf.read(given, DEFAULTS, where="transformers SigLIP")
    classes = given.shapes.get(CLASSIFIER, (0,))[0]
    config = ViTConfig(
        **fields,
        num_classes=classes,
        class_token=False,
        pool="mean" if classes else "map",
        mlp_width=attributes["intermediate_size"],
        activation=hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        pos_embed_antialias=False,
    )
    if not classes and not attributes["vision_use_head"]:
        raise Unsaid(
            "vision_use_head false: without its attention pooling the model returns tokens, and "
            "every model of ours pools them; give a config with another pool by "
            "model='config.json'",
            {name: value for name, value in config.to_dict().items() if name != "pool"},
        )
    preprocessing = hf.preprocessing_from(given, DEFAULT)
    return Header(config=config, preprocessing=preprocessing, labels=labels if classes else None)


def config_to(header: Header) -> dict[str, Json]:
    """config.json and preprocessor_config.json."""
    c = header.config
    content = hf.written(c, "siglip_vision_model", "SiglipVisionModel") | {
        "intermediate_size": c.mlp_width,
        "hidden_act": hf.HIDDEN_ACT[c.activation],
        "layer_norm_eps": c.norm_eps,
        "attention_dropout": 0.0,
        "vision_use_head": not classifies(c),
    }
    if classifies(c):
        content = {
            "architectures": ["SiglipForImageClassification"],
            "model_type": "siglip",
            "vision_config": {k: v for k, v in content.items() if k != "architectures"},
            **hf.labels_to(header),
        }
    return {
        "config.json": content,
        "preprocessor_config.json": hf.preprocessing_to(header, "SiglipImageProcessor"),
    }


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why SigLIP's vision tower cannot hold a model."""
    pool = "mean" if config.num_classes else "map"  # before a classifier, and without one
    other = {"class_token": False, "pool": pool, "class_token_position": ...}
    return cannot(config, other, who="transformers' SigLIP")


FORMAT = Format(
    name="hf_siglip",
    kind="safetensors",
    about="directory of transformers' SiglipVisionModel or SiglipForImageClassification; also "
    "read: SiglipModel, its vision tower",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    ignored=hf_clip.TEXT,
    unused=lambda given: POOLING if CLASSIFIER in given.shapes else (),
    aliases=aliases,
    file="model.safetensors",
    sharded=True,
    untold=hf.untold("dropout", "drop_path"),
    images=hf.images,
    usual=DEFAULT,
)
