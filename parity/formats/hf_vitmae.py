"""transformers' ViTMAEModel, the encoder of a masked autoencoder: `modeling_vit_mae.py`.

Ours sees all patches in their order, as the original's fine-tuning does; ViTMAEModel hides some
also in evaluation unless `mask_ratio` is 0. The decoder of ViTMAEForPreTraining is left out.
"""

from dataclasses import replace

from parity.formats import hf_vit
from parity.formats import huggingface as hf
from parity.formats.format import Format, Given, Json
from vit_spec import Header, ViTConfig

DECODER: Json = {  # and how it is trained
    "decoder_hidden_size": ..., "decoder_intermediate_size": ..., "decoder_num_hidden_layers": ...,
    "decoder_num_attention_heads": ..., "mask_ratio": ..., "norm_pix_loss": ...,
}  # fmt: skip


def aliases(given: Given) -> dict[str, str]:
    """ViTMAEForPreTraining has the encoder under `vit.`."""
    return {name: name.removeprefix("vit.") for name in given.shapes if name.startswith("vit.")}


def config_from(given: Given) -> Header:
    """That of a ViT, without what is said of the decoder."""
    config = {k: v for k, v in (given.config or {}).items() if k not in DECODER}
    return hf_vit.config_from(replace(given, config=config))


def config_to(header: Header) -> dict[str, Json]:
    """That of a ViT under another name."""
    files = hf_vit.config_to(header)
    files["config.json"] |= {"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}
    return files


def expresses(config: ViTConfig) -> list[str]:
    """Those of a ViT, and that there is neither head nor pooler."""
    reasons = hf_vit.expresses(config)
    for name, none in (("num_classes", 0), ("representation_size", None)):
        if getattr(config, name) != none:
            reasons.append(f"{name} {getattr(config, name)} (ViTMAEModel ends at the tokens)")
    return reasons


FORMAT = Format(
    name="hf_vitmae",
    kind="safetensors",
    about="directory of transformers' ViTMAEModel; also read: ViTMAEForPreTraining, its encoder",
    matches=lambda given: given.model_type == "vit_mae",
    config_from=config_from,
    table=hf_vit.table,
    config_to=config_to,
    expresses=expresses,
    ignored=(r"decoder\..*",),
    aliases=aliases,
    file="model.safetensors",
    sharded=True,
    untold=hf.untold("drop_path"),
    images=hf.images,
    usual=hf_vit.DEFAULT,
)
