"""timm, importable beside a torch that torchvision was not built for."""

import importlib.util
from pathlib import Path

import torch


def _has_operators() -> bool:
    """Whether torchvision's compiled operators load into this torch."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(file)
                return True
            except OSError:
                continue
    return False


if not _has_operators():
    # torchvision's Python files ask for the schemas of two of them, which no test calls.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
        _LIBRARY.define(_schema)

from timm import create_model, get_pretrained_cfg  # noqa: E402, F401  (for the tests)
from timm.layers import Mlp, PatchEmbed, SwiGLU, SwiGLUPacked  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from vit_spec import ViTConfig  # noqa: E402


def timm_model(config: ViTConfig, **extra) -> VisionTransformer:
    """timm's model of a config."""
    from functools import partial

    activation = {
        "gelu": torch.nn.GELU,
        "gelu_tanh": partial(torch.nn.GELU, approximate="tanh"),
        "quick_gelu": "quick_gelu",
        "silu": torch.nn.SiLU,
    }[config.activation]
    packed = config.mlp == "swiglu_packed"
    kind, prefix = VisionTransformer, {}
    if config.distillation_token:
        kind = VisionTransformerDistilled
    else:
        prefix = {"class_token": config.class_token, "reg_tokens": config.num_registers}
    model = kind(
        img_size=config.image_shape,
        patch_size=config.patch_shape,
        in_chans=config.in_channels,
        num_classes=config.num_classes,
        global_pool={"token": "token", "mean": "avg", "map": "map"}[config.pool],
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=(1 + packed) * config.mlp_width / config.width,
        mlp_layer={"mlp": Mlp, "swiglu_packed": SwiGLUPacked, "swiglu": SwiGLU}[config.mlp],
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
        init_values=config.layer_scale,
        no_embed_class=not config.class_token_position,
        **prefix,
        fc_norm=config.fc_norm,
        pre_norm=config.pre_norm,
        embed_layer=partial(_patch_embed, config.patch_bias),
        dynamic_img_size=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=config.norm_eps),
        act_layer=activation,
        **extra,
    )
    if not config.head_bias:  # timm gives the projection of CLIP a bias of zero
        model.head = torch.nn.Linear(config.feature_width, config.num_classes, bias=False)
    return model.eval()


def _patch_embed(patch_bias: bool, *, bias: bool, **others) -> PatchEmbed:
    """timm's, with a bias that does not hang on `pre_norm`."""
    return PatchEmbed(bias=patch_bias, **others)
