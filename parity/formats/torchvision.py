"""torchvision's `vit_b_16` and its like: `torchvision/models/vision_transformer.py`, 0.28."""

from parity.formats.format import ELSEWHERE, Format, Given, inferred
from parity.formats.limits import as_published, cannot, published, unusual
from parity.formats.table import Rule, modules
from vit_spec import Header, Preprocessing, ViTConfig, get

LAYER = "encoder.layers.encoder_layer_{i}"
PUBLISHED = r"vit_(base|large|huge)_patch(14|16)_224"  # their shapes are those of vit_b_16 ...
UNTOLD = ("num_heads", "activation", "norm_eps")
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    crop_fraction=224 / 256,
)


def matches(given: Given) -> bool:
    """Has torchvision's fused attention in the first layer."""
    return f"{LAYER.format(i=0)}.self_attention.in_proj_weight" in given.shapes


def table(config: ViTConfig) -> list[Rule]:
    """The last linear layer is `heads.head`, the tanh layer before it `heads.pre_logits`."""
    return [
        Rule("cls_token", "class_token"),
        Rule("pos_embed", "encoder.pos_embedding"),
        Rule("blocks.{i}.attn.qkv.weight", f"{LAYER}.self_attention.in_proj_weight"),
        Rule("blocks.{i}.attn.qkv.bias", f"{LAYER}.self_attention.in_proj_bias"),
        *modules(
            {
                "patch_embed.proj": "conv_proj",
                "blocks.{i}.norm1": f"{LAYER}.ln_1",
                "blocks.{i}.attn.proj": f"{LAYER}.self_attention.out_proj",
                "blocks.{i}.norm2": f"{LAYER}.ln_2",
                "blocks.{i}.mlp.fc1": f"{LAYER}.mlp.0",
                "blocks.{i}.mlp.fc2": f"{LAYER}.mlp.3",
                "norm": "encoder.ln",
                "pre_logits.fc": "heads.pre_logits",
                "head": "heads.head",
            }
        ),
    ]


def config_from(given: Given) -> Header:
    """Shapes say all but the heads, which are those of the published models."""
    fields = inferred(table(ViTConfig()), given, where="the torchvision file")
    fields["num_heads"] = get(as_published("torchvision", PUBLISHED, fields, UNTOLD)).num_heads
    return Header(config=ViTConfig.from_dict(fields), preprocessing=IMAGENET)


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why torchvision's ViT cannot compute a model."""
    other = {
        "representation_size": ..., "activation": "gelu", "norm_eps": 1e-6, "in_channels": 3,
    }  # fmt: skip
    reasons = cannot(config, other, who="torchvision's ViT")
    reasons += unusual(config, PUBLISHED)
    if config.patch_shape[0] != config.patch_shape[1]:
        reasons.append(f"patch_size {config.patch_size!r} (its patches are square)")
    if not config.num_classes:
        reasons.append("num_classes 0 (its head is always there)")
    return reasons


FORMAT = Format(
    name="torchvision",
    kind="torch",
    about="state dict of torchvision's vit_b_16 and its like",
    matches=matches,
    config_from=config_from,
    table=table,
    expresses=expresses,
    usual=IMAGENET,
    untold=lambda given: (*UNTOLD, "image_size", *ELSEWHERE),
    model=lambda config: published(PUBLISHED, config.to_dict()) or "",
)
