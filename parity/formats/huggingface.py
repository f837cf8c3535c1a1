"""What the vision models of transformers share: attributes of config.json, preprocessing, names.

Sources: `configuration_utils.py` and `image_processing_*.py` of transformers 4.56 and 5.
"""

import math
from collections.abc import Callable
from typing import Any

from parity.formats.attributes import (
    COUNT,
    EPSILON,
    FLAG,
    NAMES,
    NUMBER,
    NUMBERS,
    RATE,
    RATIO,
    SIDES,
    SIZE,
    TEXT,
    WHOLE,
    checked,
    one_of,
)
from parity.formats.format import RESAMPLED, Given, Json, needed, unlisted
from parity.formats.table import Rule, modules, parts
from vit_spec import Header, Preprocessing, ViTConfig

ACTIVATIONS = {  # hidden_act: ours
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
HIDDEN_ACT = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic")  # Pillow's numbers 0 to 3
IGNORED: Json = {  # attribute: the values under which it says nothing; ...: any
    "architectures": ..., "model_type": ..., "dtype": ..., "torch_dtype": ..., "id2label": ...,
    "label2id": ..., "num_labels": ..., "transformers_version": ..., "initializer_range": ...,
    "initializer_factor": ..., "encoder_stride": ..., "problem_type": ..., "_name_or_path": ...,
    "attention_probs_dropout_prob": ..., "attention_dropout": ..., "attn_implementation": ...,
    "_attn_implementation_autoset": ..., "use_cache": ..., "return_dict": ...,
    "output_attentions": [False], "output_hidden_states": [False], "chunk_size_feed_forward": [0],
    "is_encoder_decoder": [False], "add_cross_attention": [False], "use_bfloat16": [False],
    "tie_word_embeddings": ..., "torchscript": ..., "pruned_heads": [{}], "is_decoder": [False],
}  # fmt: skip
KINDS = {
    "model_type": TEXT, "hidden_size": WHOLE, "num_hidden_layers": WHOLE,
    "num_attention_heads": WHOLE, "num_channels": WHOLE, "intermediate_size": WHOLE,
    "image_size": SIDES, "patch_size": SIDES, "hidden_dropout_prob": RATE,
    "drop_path_rate": RATE, "layer_norm_eps": EPSILON, "qkv_bias": FLAG, "use_swiglu_ffn": FLAG,
    "vision_use_head": FLAG, "apply_layernorm": FLAG, "use_mask_token": FLAG,
    "pooler_output_size": WHOLE, "pooler_act": TEXT, "mlp_ratio": RATIO,
    "layerscale_value": NUMBER, "num_register_tokens": COUNT, "projection_dim": COUNT,
    "hidden_act": one_of(ACTIVATIONS), "id2label": NAMES,
}  # fmt: skip
PREPROCESSOR = {
    "size": SIZE, "crop_size": SIZE, "do_center_crop": FLAG, "do_normalize": FLAG,
    "image_mean": NUMBERS, "image_std": NUMBERS, "do_rescale": FLAG, "rescale_factor": RATIO,
    "image_processor_type": TEXT, "feature_extractor_type": TEXT,
}  # fmt: skip
CROPPING = ("CLIPImageProcessor", "BitImageProcessor")
"""Processors that resize the shorter side and crop; DeiT's crops, but resizes both sides."""
SHORTEST = ("CLIP", "ChineseCLIP", "Bit")  # whose size is the shorter side where it is one number
PREPROCESSOR_FILE = "preprocessor_config.json"
SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "in_channels",
}
SIZES_DEFAULT = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
    "patch_size": 16, "num_channels": 3,
}  # fmt: skip


def untold(*fields: str) -> Callable[[Given], tuple[str, ...]]:
    """`Format.untold` of models whose config.json says all but `fields` and the resampling."""
    return lambda given: (*RESAMPLED, *fields)


def read(
    given: Given, defaults: Json, *, ignored: Json | None = None, where: str
) -> tuple[Json, Json]:
    """All attributes with their defaults, and the fields of `ViTConfig` that are sizes.

    `defaults` are the attributes that the format handles. Raises `ValueError` for any other one
    that is not ignored.
    """
    config = needed(given.config, ("model_type",), where=where)
    defaults = SIZES_DEFAULT | defaults
    unlisted(config, defaults, IGNORED | (ignored or {}), where=f"the config.json of {where}")
    attributes = defaults | checked(config, KINDS, where=given.folder / "config.json")
    return attributes, {ours: attributes[theirs] for theirs, ours in SIZES.items()}


def activation(value: Any) -> Any:
    """Our name of `hidden_act`."""
    return ACTIVATIONS[value]


def written(config: ViTConfig, model_type: str, architecture: str) -> Json:
    """The attributes that all models have."""
    sizes = {
        theirs: list(value) if isinstance(value, tuple) else value
        for theirs, ours in SIZES.items()
        for value in [getattr(config, ours)]
    }
    return {"architectures": [architecture], "model_type": model_type, **sizes}


def labels_from(given: Given) -> tuple[str, ...] | None:
    """The names of the classes, unless they are the ones that transformers makes up."""
    names = (given.config or {}).get("id2label") or {}
    labels = tuple(names[k] for k in sorted(names, key=int))
    made_up = all(name == f"LABEL_{i}" for i, name in enumerate(labels))
    return None if made_up else labels


def labels_to(header: Header) -> Json:
    """`id2label` and `label2id`, which say how many classes there are."""
    count = header.config.num_classes
    labels = header.labels or tuple(f"LABEL_{i}" for i in range(count))
    return {
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def preprocessing_from(given: Given, default: Preprocessing) -> Preprocessing:
    """What preprocessor_config.json says, or the default of the format without one."""
    if PREPROCESSOR_FILE not in given.files:
        return default
    kinds = PREPROCESSOR | {"resample": one_of(tuple(range(len(RESAMPLE))))}
    p = checked(given.files[PREPROCESSOR_FILE], kinds, where=given.folder / PREPROCESSOR_FILE)
    size = p.get("size", 224)
    resample = p.get("resample", RESAMPLE.index(default.interpolation))
    crop = p.get("crop_size") if p.get("do_center_crop") else None
    of = p.get("image_processor_type") or p.get("feature_extractor_type") or ""
    shortest = "shortest_edge" in size if isinstance(size, dict) else of.startswith(SHORTEST)
    resized, kept = _sides(size), _sides(crop if crop is not None else size)
    unit = 255 * p.get("rescale_factor", 1 / 255) if p.get("do_rescale", True) else 255
    normalised = p.get("do_normalize", True)
    mean = p.get("image_mean", default.mean) if normalised else (0.0, 0.0, 0.0)
    std = p.get("image_std", default.std) if normalised else (1.0, 1.0, 1.0)
    return Preprocessing(
        mean=tuple(value / unit for value in mean),
        std=tuple(value / unit for value in std),
        interpolation=RESAMPLE[resample],  # pyright: ignore[reportArgumentType]
        crop_fraction=_share(min(kept), min(resized)),
        squash=not shortest,
        size=kept,
    )


def images(given: Given) -> Preprocessing | None:
    """What preprocessor_config.json says, if there is one."""
    return preprocessing_from(given, Preprocessing()) if PREPROCESSOR_FILE in given.files else None


def preprocessing_to(header: Header, kind: str) -> Json:
    """preprocessor_config.json of a header, for a processor of the class `kind` if it can do it."""
    p, (height, width) = header.preprocessing, header.image_shape
    resized = [math.floor(side / p.crop_fraction) for side in (height, width)]
    crop = not p.squash or p.crop_fraction < 1
    size = {"height": resized[0], "width": resized[1]}
    able = kind in CROPPING or (p.squash and (not crop or kind == "DeiTImageProcessor"))
    return {
        "image_processor_type": kind if able else "CLIPImageProcessor",
        "do_convert_rgb": header.config.in_channels == 3,
        "do_resize": True,
        "size": size if p.squash else {"shortest_edge": min(resized)},
        "resample": RESAMPLE.index(p.interpolation),
        "do_center_crop": crop,
        **({"crop_size": {"height": height, "width": width}} if crop else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
    }


def bert_blocks(layers: str, norms: tuple[str, str], mlp: dict[str, str]) -> list[Rule]:
    """Blocks with `attention.attention.query` and its like; `mlp` maps our modules to theirs."""
    attention = f"{layers}.{{i}}.attention"
    return [
        *parts(
            "blocks.{i}.attn.qkv",
            [f"{attention}.attention.{part}" for part in ("query", "key", "value")],
        ),
        *modules(
            {
                "blocks.{i}.attn.proj": f"{attention}.output.dense",
                "blocks.{i}.norm1": f"{layers}.{{i}}.{norms[0]}",
                "blocks.{i}.norm2": f"{layers}.{{i}}.{norms[1]}",
                **{
                    f"blocks.{{i}}.{ours}": f"{layers}.{{i}}.{theirs}"
                    for ours, theirs in mlp.items()
                },
            }
        ),
    ]


def _sides(size: Any) -> tuple[int, int]:
    """Height and width; the shorter side stands for both."""
    if isinstance(size, dict):
        short = size.get("shortest_edge")
        return (short, short) if short else (size["height"], size["width"])
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _share(kept: int, resized: int) -> float:
    """`crop_fraction`, of which `floor(kept / crop_fraction)` is `resized` again."""
    share = min(1.0, kept / resized)
    return share if math.floor(kept / share) >= resized else math.nextafter(share, 0.0)
