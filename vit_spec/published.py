"""How the images of a published variant are prepared: timm's `pretrained_cfg` of the same name.

Source: `timm/models/vision_transformer.py` and `deit.py`, timm 1.0.31; of a name that stands for
several sets of weights, the one that timm loads by default.
"""

import re
from typing import Any

from vit_spec.config import ViTConfig
from vit_spec.preprocessing import Preprocessing
from vit_spec.variants import full_name, get, variants

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
TIMM = Preprocessing(crop_fraction=0.9)
"""What timm has where a model says nothing else: every channel in [-1, 1]."""
WHOLE: dict[str, Any] = {"crop_fraction": 1.0}

# pattern of names: what differs from `TIMM`, the later row over the earlier
RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"(vit|deit3?)_.*_(384|448|896)", WHOLE),
    (r".*_siglip_(gap_)?384", {"crop_fraction": 0.9}),
    (r"deit.*|.*\.mae|vit_small_patch8_224", IMAGENET),
    (r".*_dinov2", IMAGENET | WHOLE),
    (r".*_clip_.*", OPENAI | WHOLE),
    (r".*_patch32_clip_(quickgelu_)?224", {"crop_fraction": 0.9}),
    (r".*_base_patch16_clip_224", {"crop_fraction": 0.95}),
    (r".*_(base_patch16_clip_384|(huge|large)_patch14_clip_336)", {"squash": True}),
    (r".*_large_patch14_clip_(224|336)", {"mean": TIMM.mean, "std": TIMM.std}),
)


def published_preprocessing(name: str) -> Preprocessing:
    """How images are prepared for the published model of a variant or alias, as timm has it.

    Raises `ValueError` listing the near names if there is no such variant.
    """
    name = full_name(name)
    facts: dict[str, Any] = TIMM.to_dict()
    for pattern, changes in RULES:
        if re.fullmatch(pattern, name):
            facts |= changes
    return Preprocessing.from_dict(facts)


def same_tensors(config: ViTConfig) -> list[str]:
    """The variants whose tensors have the names and shapes of `config`, but for head and image."""
    return [name for name in variants() if _shape(get(name)) == _shape(config)]


def _shape(config: ViTConfig) -> tuple[Any, ...]:
    return (
        config.patch_shape, config.in_channels, config.width, config.depth, config.mlp_width,
        config.patch_bias, config.class_token, config.distillation_token, config.num_registers,
        config.pos_embed, config.pool == "map", config.fc_norm, config.representation_size,
        config.mlp, config.pre_norm, config.qkv_bias, config.qk_norm, config.layer_scale is None,
    )  # fmt: skip
