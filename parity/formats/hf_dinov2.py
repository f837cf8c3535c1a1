"""transformers' Dinov2Model and Dinov2WithRegistersModel: `modeling_dinov2*.py`.

The token for masked training is kept beside a model of ours, or else zero, as in a new model.
The classifier of `Dinov2ForImageClassification` takes class token and mean, which ours does not.
"""

from collections.abc import Callable

from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json
from parity.formats.limits import cannot
from parity.formats.table import Rule, aside, modules
from vit_spec import Header, Preprocessing, ViTConfig

PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
DEFAULTS = {
    "mlp_ratio": 4, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-6,
    "qkv_bias": True, "layerscale_value": 1.0, "drop_path_rate": 0.0, "use_swiglu_ffn": False,
    "apply_layernorm": True, "use_mask_token": True, "num_register_tokens": 4,
}  # fmt: skip
IGNORED: Json = {  # of a backbone, which these models are not
    "out_features": ..., "out_indices": ..., "stage_names": ..., "reshape_hidden_states": ...,
    "intermediate_size": ..., "interpolate_antialias": ..., "interpolate_offset": ...,
}  # fmt: skip
DEFAULT = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=224 / 256
)


def table(config: ViTConfig) -> list[Rule]:
    """Blocks with LayerScale; a gated MLP is one layer, the gate in front."""
    layer, gated = "encoder.layer.{i}", config.mlp == "swiglu_packed"
    return [
        Rule("cls_token", "embeddings.cls_token"),
        Rule((), "embeddings.mask_token", aside("mask_token", (1, config.width))),
        Rule("reg_token", "embeddings.register_tokens"),
        Rule("pos_embed", "embeddings.position_embeddings"),
        *modules({"patch_embed.proj": "embeddings.patch_embeddings.projection"}),
        *hf.bert_blocks(
            "encoder.layer",
            ("norm1", "norm2"),
            {
                "mlp.fc1": "mlp.weights_in" if gated else "mlp.fc1",
                "mlp.fc2": "mlp.weights_out" if gated else "mlp.fc2",
            },
        ),
        Rule("blocks.{i}.ls1.gamma", f"{layer}.layer_scale1.lambda1"),
        Rule("blocks.{i}.ls2.gamma", f"{layer}.layer_scale2.lambda1"),
        *modules({"norm": "layernorm"}),
    ]


def gated_width(width: int, ratio: float) -> int:
    """Hidden channels behind the gate: two thirds of the MLP's, up to a multiple of 8."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def config_from(given: Given) -> Header:
    """The attributes."""
    attributes, fields = hf.read(given, DEFAULTS, ignored=IGNORED, where="transformers DINOv2")
    if any(name.endswith("classifier.weight") for name in (*given.shapes, *given.around)):
        raise ValueError(
            "Dinov2ForImageClassification's classifier takes class token and mean of the patches, "
            "which no head of ours does: leave it out with leave_out='classifier.*', and the rest, "
            "a Dinov2Model, is converted"
        )
    gated, width = attributes["use_swiglu_ffn"], fields["width"]
    ratio = attributes["mlp_ratio"]
    registers = given.model_type == REGISTERS
    config = ViTConfig(
        **fields,
        num_classes=0,
        num_registers=attributes["num_register_tokens"] if registers else 0,
        mlp="swiglu_packed" if gated else "mlp",
        mlp_width=gated_width(width, ratio) if gated else int(width * ratio),
        activation="silu" if gated else hf.activation(attributes["hidden_act"]),
        norm_eps=attributes["layer_norm_eps"],
        qkv_bias=attributes["qkv_bias"],
        layer_scale=attributes["layerscale_value"],
        dropout=attributes["hidden_dropout_prob"],
        drop_path=attributes["drop_path_rate"],
        pos_embed_antialias=registers,
    )
    return Header(config=config, preprocessing=hf.preprocessing_from(given, DEFAULT))


def config_to(header: Header) -> dict[str, Json]:
    """config.json and preprocessor_config.json."""
    c = header.config
    gated, registers = c.mlp == "swiglu_packed", c.num_registers > 0
    name = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    content = hf.written(c, REGISTERS if registers else PLAIN, name)
    content |= {
        "mlp_ratio": ratio(c) or 4,
        "hidden_act": "gelu" if gated else hf.HIDDEN_ACT[c.activation],
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": c.norm_eps,
        "qkv_bias": c.qkv_bias,
        "layerscale_value": c.layer_scale,
        "drop_path_rate": c.drop_path,
        "use_swiglu_ffn": gated,
    }
    if registers:
        content["num_register_tokens"] = c.num_registers
    return {
        "config.json": content,
        "preprocessor_config.json": hf.preprocessing_to(header, "BitImageProcessor"),
    }


def ratio(config: ViTConfig) -> int | None:
    """The whole `mlp_ratio` that gives the MLP's width, if there is one."""
    gated = config.mlp == "swiglu_packed"
    for n in range(1, 33):
        width = gated_width(config.width, n) if gated else config.width * n
        if width == config.mlp_width:
            return n
    return None


def expresses(registers: bool) -> Callable[[ViTConfig], list[str]]:
    """Reasons why the model with or without registers cannot hold a model."""

    def reasons(config: ViTConfig) -> list[str]:
        other = {
            "num_registers": ... if registers else 0, "mlp": ["mlp", "swiglu_packed"],
            "activation": ..., "layer_scale": ..., "qkv_bias": ..., "num_classes": 0,
        }  # fmt: skip
        found = cannot(config, other, who="transformers' DINOv2")
        if registers and not config.num_registers:
            found.append("num_registers 0 (use hf_dinov2)")
        if config.layer_scale is None:
            found.append("layer_scale None (it always has one)")
        if ratio(config) is None:
            found.append(
                f"mlp_width {config.mlp_width} (no whole mlp_ratio gives it for width "
                f"{config.width})"
            )
        return found

    return reasons


def _format(name: str, about: str, model_type: str) -> Format:
    registers = model_type == REGISTERS
    return Format(
        name=name,
        kind="safetensors",
        about=about,
        matches=lambda given: given.model_type == model_type,
        config_from=config_from,
        table=table,
        config_to=config_to,
        expresses=expresses(registers),
        file="model.safetensors",
        sharded=True,
        untold=hf.untold(),
        images=hf.images,
        usual=DEFAULT,
    )


FORMAT = _format("hf_dinov2", "directory of transformers' Dinov2Model", PLAIN)
WITH_REGISTERS = _format(
    "hf_dinov2_with_registers", "directory of transformers' Dinov2WithRegistersModel", REGISTERS
)
