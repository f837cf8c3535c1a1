"""The npz files of google-research/vision_transformer: ViT, AugReg, SAM. A tree of Linen's names.

Source: `vit_jax/models_vit.py` there. Its GELU is the tanh approximation (`nn.gelu`), and it pools
the class token, or without one (`gap`) the mean of the tokens.
"""

from parity.formats.format import ELSEWHERE, Format, Given, inferred
from parity.formats.limits import cannot
from parity.formats.linen import CONV, attention, dense, norm
from parity.formats.linen_names import TRAINING, in_one_row, is_tree_of_one_row
from parity.formats.table import Rule
from vit_spec import Header, Preprocessing, ViTConfig

BLOCK = "Transformer/encoderblock_{i}"
ZOOM = (
    "Google's code resamples positions linearly from corner to corner, and ours by "
    "pos_embed_interpolation"
)
SQUASHED = Preprocessing(crop_fraction=1.0, squash=True)
QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


def table(config: ViTConfig) -> list[Rule]:
    """All that a file may have; `pre_logits` is only in those that were not fine-tuned."""
    return [
        Rule("cls_token", "cls"),
        Rule("pos_embed", "Transformer/posembed_input/pos_embedding"),
        *dense("patch_embed.proj", "embedding", CONV),
        *norm("blocks.{i}.norm1", f"{BLOCK}/LayerNorm_0"),
        *attention("blocks.{i}.attn", f"{BLOCK}/MultiHeadDotProductAttention_1", config.num_heads),
        *norm("blocks.{i}.norm2", f"{BLOCK}/LayerNorm_2"),
        *dense("blocks.{i}.mlp.fc1", f"{BLOCK}/MlpBlock_3/Dense_0"),
        *dense("blocks.{i}.mlp.fc2", f"{BLOCK}/MlpBlock_3/Dense_1"),
        *norm("norm", "Transformer/encoder_norm"),
        *dense("pre_logits.fc", "pre_logits"),
        *dense("head", "head"),
    ]


def config_from(given: Given) -> Header:
    """Shapes say all: kernels of attention lie by heads."""
    fields = inferred(table(ViTConfig()), given, where="the npz file")
    config = ViTConfig.from_dict(
        fields | {"num_heads": given.shapes[QUERY][1], "activation": "gelu_tanh"}
    )
    return Header(config=config, preprocessing=SQUASHED)


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why the original code cannot compute a model."""
    other = {
        "class_token": ..., "pool": "token" if config.class_token else "mean",
        "class_token_position": True if config.class_token else ..., "representation_size": ...,
        "norm_eps": 1e-6, "activation": "gelu_tanh",
    }  # fmt: skip
    return cannot(config, other, who="google-research/vision_transformer")


def untold(given: Given) -> tuple[str, ...]:
    """Without a class token the tokens are averaged (`gap`), or not pooled at all."""
    pool = () if "cls" in given.shapes else ("pool",)
    return ("activation", "norm_eps", "image_size", *pool, *ELSEWHERE)


FORMAT = Format(
    name="augreg",
    kind="npz",
    about="npz file of google-research/vision_transformer (ViT, AugReg)",
    matches=is_tree_of_one_row,
    config_from=config_from,
    table=table,
    expresses=expresses,
    ignored=TRAINING,
    aliases=in_one_row,
    usual=SQUASHED,
    untold=untold,
    other_sizes=ZOOM,
)
