"""Both twins are the models of transformers and of torchvision, in float64: what timm lacks."""

import re

import jax
import numpy as np
import pytest
import torch

import tests.oracles.timm_models  # noqa: F401  (makes torchvision importable)
from parity.inputs import random_state
from tests.twin_models import BOUND, TINY, images, relative_gap, twins
from vit_jax.functional import merge, split

RENAMES = (
    (r"^(deit|vision_model)\.|^encoder\.(?=ln|pos)", ""),
    (r"embeddings\.(?:cls_token|class_embedding)|^class_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings?(?:\.weight)?|^pos_embedding", "pos_embed"),
    (r"embeddings\.patch_embeddings?(?:\.projection)?|^conv_proj", "patch_embed.proj"),
    (r"(?:encoder\.)?layers?\.(?:encoder_layer_)?(\d+)", r"blocks.\1"),
    (r"layernorm_before|layer_norm1|ln_1", "norm1"),
    (r"layernorm_after|layer_norm2|ln_2", "norm2"),
    (r"^head\.(attention\.out_proj|layernorm|mlp|probe|attention\.in_proj)", r"attn_pool.\1"),
    (r"attn_pool\.probe", "attn_pool.latent"),
    (r"attn_pool\.attention\.out_proj", "attn_pool.proj"),
    (r"attn_pool\.attention\.in_proj_", "attn_pool.qkv."),
    (r"attn_pool\.layernorm", "attn_pool.norm"),
    (r"(?:self_attn|self_attention|attention)\.o(?:ut)?_proj", "attn.proj"),
    (r"(?:self_attn|attention)\.([qkv])_proj", r"attn.\1"),
    (r"self_attention\.in_proj_", "attn.qkv."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"gate_proj", "fc1_g"),
    (r"up_proj", "fc1_x"),
    (r"down_proj|mlp\.3", "fc2"),
    (r"mlp\.0", "mlp.fc1"),
    (r"(blocks\.\d+)\.(fc\d\w*)", r"\1.mlp.\2"),
    (r"mlp\.mlp|mlp\.(?=fc2\.mlp)", "mlp"),
    (r"^(?:post_)?layernorm|^ln(?=\.)", "norm"),
    (r"pre_layrnorm", "norm_pre"),
    (r"cls_classifier|visual_projection|heads\.head", "head"),
    (r"distillation_classifier", "head_dist"),
    (r"heads\.pre_logits", "pre_logits.fc"),
)
HUGGING_FACE = {  # class, its fields beside the usual sizes, fields of ours, what it returns
    "vit": ("ViTModel", {}, {"norm_eps": 1e-12}, "last_hidden_state"),
    "deit": (
        "DeiTForImageClassificationWithTeacher",
        {"num_labels": 7},
        {"norm_eps": 1e-12, "distillation_token": True},
        "logits",
    ),
    "dinov2": ("Dinov2Model", {}, {"layer_scale": 1.0}, "pooler_output"),
    "dinov2_giant": (
        "Dinov2Model",
        {"use_swiglu_ffn": True, "mlp_ratio": 2},
        {"layer_scale": 1.0, "mlp": "swiglu", "activation": "silu", "mlp_width": 48},
        "pooler_output",
    ),
    "dinov2_released": (
        "Dinov2Model",
        {},
        {"layer_scale": 1.0, "pos_embed_offset": 0.1},
        "pooler_output",
    ),
    "dinov2_registers": (
        "Dinov2WithRegistersModel",
        {"num_register_tokens": 3},
        {"layer_scale": 1.0, "num_registers": 3, "pos_embed_antialias": True},
        "pooler_output",
    ),
    "clip": (
        "CLIPVisionModelWithProjection",
        {"projection_dim": 7},
        {"pre_norm": True, "patch_bias": False, "head_bias": False, "norm_eps": 1e-5,
         "activation": "quick_gelu"},
        "image_embeds",
    ),
    "siglip": (
        "SiglipVisionModel",
        {},
        {"class_token": False, "pool": "map", "activation": "gelu_tanh"},
        "pooler_output",
    ),
}  # fmt: skip


def renamed(state, wanted):
    """Our state under another library's names; `wanted` are the tensors that it has."""
    found = {}
    for theirs, tensor in wanted.items():
        name = theirs
        for pattern, text in RENAMES:
            name = re.sub(pattern, text, name)
        found[theirs] = torch.tensor(_value(state, name, tensor)).reshape(tensor.shape)
    return found


def _value(state, name, tensor):
    stem, _, leaf = name.rpartition(".")
    if stem == "attn_pool.qkv":
        return np.concatenate([state[f"attn_pool.{part}.{leaf}"] for part in ("q", "kv")])
    if stem[-2:] in (".q", ".k", ".v") and f"{stem[:-1]}qkv.{leaf}" in state:
        return np.split(state[f"{stem[:-1]}qkv.{leaf}"], 3)["qkv".index(stem[-1])]
    return tensor.numpy() if name.endswith("mask_token") else state[name]


def agree(config, oracle, *, features=False, size=(0, 0)):
    """Loads random weights into both twins and `oracle`, a function of a state and of images."""
    state = random_state(config, 0)
    if "pos_embed" in state:  # transformers rounds it to float32
        state["pos_embed"] = state["pos_embed"].astype(np.float32).astype(np.float64)
    x = images(config, *size)
    channels_first = torch.tensor(x).permute(0, 3, 1, 2)
    jax_model, torch_model = twins(config, state)
    structure, params = split(jax_model)

    def ours(p, y):
        model = merge(structure, p)
        return model.features(y) if features else model(y)

    with torch.no_grad():
        expected = oracle(state, channels_first)
        found = (torch_model.features if features else torch_model)(channels_first)
    assert relative_gap(found, expected) < BOUND
    assert relative_gap(jax.jit(ours)(params, x), expected) < BOUND


@pytest.mark.parametrize("size", [(0, 0), (24, 40), (40, 16)], ids=["native", "other", "narrow"])
@pytest.mark.parametrize("case", HUGGING_FACE)
def test_the_twins_are_the_models_of_transformers(x64, monkeypatch, case, size):
    transformers = pytest.importorskip("transformers")
    kind, fields, changes, output = HUGGING_FACE[case]
    config = TINY.replace(**{"pos_embed_antialias": False, **changes})
    if output in ("pooler_output", "last_hidden_state"):
        config = config.replace(num_classes=0)
    factory = getattr(transformers, kind)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "intermediate_size": 64, "mlp_ratio": 2,
    }  # fmt: skip
    model = factory(factory.config_class(**{**sizes, **fields})).double().eval()
    original = torch.nn.functional.interpolate

    def interpolate(x, size, **options):
        """In float64; with the offset as the released code of DINOv2 computes it."""
        if config.pos_embed_offset:
            scale = tuple((n + 0.1) / old for n, old in zip(size, x.shape[2:], strict=True))
            return original(x.double(), scale_factor=scale, mode=options["mode"])
        return original(x.double(), size=size, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    options = {} if case.startswith("dinov2") else {"interpolate_pos_encoding": True}

    def oracle(state, x):
        own = {n: p for n, p in model.state_dict().items() if n != "embeddings.position_ids"}
        own = {n: p for n, p in own.items() if not n.startswith("pooler.")}
        model.load_state_dict(renamed(state, own), strict=False)
        return model(x, **options)[output]

    agree(config, oracle, features=output == "last_hidden_state", size=size)


@pytest.mark.parametrize("representation_size", [None, 24])
def test_the_twins_are_the_model_of_torchvision(x64, representation_size):
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 2, 32, 64, 0.0, 0.0, 7, representation_size)
    model = model.double().eval()

    def oracle(state, x):
        model.load_state_dict(renamed(state, model.state_dict()), strict=True)
        return model(x)

    agree(TINY.replace(representation_size=representation_size), oracle)
