"""transformers' DeiTForImageClassificationWithTeacher: `modeling_deit.py`, names of version 4.

Its logits are the mean of both heads', as ours. `DeiTForImageClassification` has the distillation
token and drops what becomes of it, which no model of ours does.
"""

from parity.formats import hf_vit
from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json
from parity.formats.limits import cannot
from parity.formats.table import Rule, modules
from vit_spec import Header, Preprocessing, ViTConfig

PREFIX = "deit."
DEFAULT = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=224 / 256
)


def matches(given: Given) -> bool:
    """Says its config `deit`."""
    return given.model_type == "deit"


def table(config: ViTConfig) -> list[Rule]:
    """Two tokens with a position each, two heads."""
    p = PREFIX
    return [
        Rule("cls_token", f"{p}embeddings.cls_token"),
        Rule("dist_token", f"{p}embeddings.distillation_token"),
        Rule("pos_embed", f"{p}embeddings.position_embeddings"),
        *modules({"patch_embed.proj": f"{p}embeddings.patch_embeddings.projection"}),
        *hf.bert_blocks(f"{p}encoder.layer", ("layernorm_before", "layernorm_after"), hf_vit.MLP),
        *modules(
            {
                "norm": f"{p}layernorm",
                "head": "cls_classifier",
                "head_dist": "distillation_classifier",
            }
        ),
    ]


def config_from(given: Given) -> Header:
    """The attributes; the number of classes is in the tensors."""
    attributes, fields = hf.read(given, hf_vit.DEFAULTS, where="transformers DeiT")
    classes = given.shapes.get("cls_classifier.weight")
    if classes is None:
        raise ValueError(
            "there is no cls_classifier: only DeiTForImageClassificationWithTeacher is a model of "
            "ours; DeiTModel and DeiTForImageClassification drop the distillation token at the end"
        )
    config = ViTConfig(
        **fields,
        num_classes=classes[0],
        distillation_token=True,
        mlp_width=attributes["intermediate_size"],
        activation=hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        qkv_bias=attributes["qkv_bias"],
        dropout=attributes["hidden_dropout_prob"],
        pos_embed_antialias=False,
    )
    preprocessing = hf.preprocessing_from(given, DEFAULT)
    return Header(config=config, preprocessing=preprocessing, labels=hf.labels_from(given))


def config_to(header: Header) -> dict[str, Json]:
    """That of a ViT under another name."""
    files = hf_vit.config_to(header)
    name = "DeiTForImageClassificationWithTeacher"
    files["config.json"] |= {"model_type": "deit", "architectures": [name]}
    return files


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why the model with a teacher cannot hold a model."""
    other = {"distillation_token": True, "qkv_bias": ...}
    reasons = cannot(config, other, who="transformers' DeiT with a teacher")
    if not config.num_classes:
        reasons.append("num_classes 0 (it has two heads)")
    return reasons


FORMAT = Format(
    name="hf_deit",
    kind="safetensors",
    about="directory of transformers' DeiTForImageClassificationWithTeacher",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=config_to,
    expresses=expresses,
    file="model.safetensors",
)
