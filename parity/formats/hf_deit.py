"""transformers' DeiTModel and DeiTForImageClassification, with a teacher or not, version 4.

With a teacher its logits are the mean of both heads', as ours. Without one the distillation token
is there and no head takes it: a register of ours, which has no position, so that the token's is
added to it on the way in, and is zero on the way out.
"""

import numpy as np

from parity.formats import hf_vit
from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json
from parity.formats.limits import cannot
from parity.formats.table import Rule, Sum, modules
from parity.operations import Arrays
from vit_spec import Header, Preprocessing, ViTConfig

PREFIX, ONE_HEAD = "deit.", "classifier"
DEFAULT = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=224 / 256
)


def matches(given: Given) -> bool:
    """Says its config `deit`."""
    return given.model_type == "deit"


def _to_ours(arrays: Arrays) -> Arrays:
    token, positions = arrays
    own = np.add(token, positions[:, 1:2], dtype=token.dtype)
    return own, np.concatenate([positions[:, :1], positions[:, 2:]], axis=1)


def _to_theirs(arrays: Arrays) -> Arrays:
    token, positions = arrays
    parts = [positions[:, :1], np.zeros_like(positions[:, :1]), positions[:, 1:]]
    return token, np.concatenate(parts, axis=1)


folded = Sum(_to_ours, _to_theirs, adds=_to_ours)
"""A second token with a position, to a register without one."""


def table(config: ViTConfig) -> list[Rule]:
    """Two tokens with a position each, and one head or two."""
    base, distilled = PREFIX if config.num_classes else "", config.distillation_token
    p = f"{base}embeddings."
    token, positions = f"{p}distillation_token", f"{p}position_embeddings"
    tokens = [Rule("dist_token", token), Rule("pos_embed", positions)]
    heads = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    return [
        Rule("cls_token", f"{p}cls_token"),
        *(tokens if distilled else [Rule(("reg_token", "pos_embed"), (token, positions), folded)]),
        *modules({"patch_embed.proj": f"{p}patch_embeddings.projection"}),
        *hf.bert_blocks(
            f"{base}encoder.layer", ("layernorm_before", "layernorm_after"), hf_vit.MLP
        ),
        *modules({"norm": f"{base}layernorm", **(heads if distilled else {"head": ONE_HEAD})}),
        *modules({"pre_logits.fc": "pooler.dense"}),
    ]


def config_from(given: Given) -> Header:
    """The attributes; the number of classes and of heads is in the tensors."""
    attributes, fields = hf.read(given, hf_vit.DEFAULTS, where="transformers DeiT")
    distilled = "cls_classifier.weight" in given.shapes
    head = "cls_classifier.weight" if distilled else f"{ONE_HEAD}.weight"
    classes = given.shapes.get(head, (0,))[0]
    config = ViTConfig(
        **fields,
        num_classes=classes,
        representation_size=None if classes else hf_vit.pooler(given, attributes),
        distillation_token=distilled,
        num_registers=0 if distilled else 1,
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
    teacher = "WithTeacher" if header.config.distillation_token else ""
    name = f"DeiTForImageClassification{teacher}" if header.config.num_classes else "DeiTModel"
    files[hf.PREPROCESSOR_FILE] = hf.preprocessing_to(header, "DeiTImageProcessor")
    files["config.json"] |= {"model_type": "deit", "architectures": [name]}
    return files


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why neither model can hold a model."""
    other = {
        "distillation_token": ..., "num_registers": ..., "qkv_bias": ...,
        "representation_size": ... if config.num_classes == 0 else None,
    }  # fmt: skip
    reasons = cannot(config, other, who="transformers' DeiT")
    if not config.distillation_token and config.num_registers != 1:
        reasons.append(
            f"distillation_token False with num_registers {config.num_registers} (it always has "
            "the token, or one register in its place)"
        )
    if not config.num_classes and config.distillation_token:
        reasons.append("num_classes 0 with a distillation_token (DeiTModel returns one token)")
    return reasons


FORMAT = Format(
    name="hf_deit",
    kind="safetensors",
    about="directory of transformers' DeiTModel or DeiTForImageClassification, with a teacher or "
    "not",
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
