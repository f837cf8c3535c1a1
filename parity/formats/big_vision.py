"""The npz files of google-research/big_vision: plain blocks, or all blocks stacked for `scan`.

Source: `big_vision/models/vit.py` there. Its class token has no position of its own, so one of
ours is added to the token on the way out. Its GELU is the tanh approximation, its epsilon 1e-6.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from parity.formats.augreg import SQUASHED, ZOOM
from parity.formats.format import ELSEWHERE, Format, Given, Unsaid, depth_of, fields_of
from parity.formats.limits import cannot
from parity.formats.linen import CONV, attention, dense, norm, pooling
from parity.formats.linen_names import EMBEDDING, ROOT, TRAINING, apart, is_tree_of_big_vision
from parity.formats.table import Rule, Sum, lines, our_shapes, stack
from parity.operations import Arrays
from vit_spec import Header, ViTConfig
from vit_spec.parameters import check_depth

BLOCK = "params/Transformer/encoderblock_{i}"
STACKED = "params/Transformer/encoderblock"
UNTOLD = ("activation", "norm_eps", "image_size", "class_token_position", *ELSEWHERE)
QUERY = "MultiHeadDotProductAttention_0/query/kernel"


def plain(config: ViTConfig) -> list[Rule]:
    """One tensor for each block."""
    pool = "params/MAPHead_0"
    return [
        *_embedding(config),
        *dense("patch_embed.proj", "params/embedding", CONV),
        *norm("blocks.{i}.norm1", f"{BLOCK}/LayerNorm_0"),
        *attention("blocks.{i}.attn", f"{BLOCK}/MultiHeadDotProductAttention_0", config.num_heads),
        *norm("blocks.{i}.norm2", f"{BLOCK}/LayerNorm_1"),
        *dense("blocks.{i}.mlp.fc1", f"{BLOCK}/MlpBlock_0/Dense_0"),
        *dense("blocks.{i}.mlp.fc2", f"{BLOCK}/MlpBlock_0/Dense_1"),
        *norm("norm", "params/Transformer/encoder_norm"),
        Rule("attn_pool.latent", f"{pool}/probe"),
        *pooling("attn_pool", f"{pool}/MultiHeadDotProductAttention_0", config.num_heads),
        *norm("attn_pool.norm", f"{pool}/LayerNorm_0"),
        *dense("attn_pool.mlp.fc1", f"{pool}/MlpBlock_0/Dense_0"),
        *dense("attn_pool.mlp.fc2", f"{pool}/MlpBlock_0/Dense_1"),
        *dense("pre_logits.fc", "params/pre_logits"),
        *dense("head", "params/head"),
    ]


def scanned(config: ViTConfig) -> list[Rule]:
    """One tensor for all blocks, depth first."""
    return stack(plain(config), config.depth, lambda name: name.replace("encoderblock_{i}", BLOCKS))


BLOCKS = STACKED.rpartition("/")[2]


def _embedding(config: ViTConfig) -> list[Rule]:
    if config.class_token and config.class_token_position and config.pos_embed == "learned":
        return [Rule(("cls_token", "pos_embed"), ("params/cls", "params/pos_embedding"), folded)]
    return [Rule("cls_token", "params/cls"), Rule("pos_embed", "params/pos_embedding")]


def _fold(arrays: Arrays) -> Arrays:
    token, positions = arrays
    return np.add(token, positions[:, :1], dtype=token.dtype), positions[:, 1:]


def _unfold(arrays: Arrays) -> Arrays:
    token, positions = arrays
    return token, np.concatenate([np.zeros_like(token), positions], axis=1)


folded = Sum(_unfold, _fold, adds=_fold)
"""The class token with its position added. The way in gives it position 0."""


def config_from(is_stacked: bool) -> Callable[[Given], Header]:
    """Shapes say all but the image: the position embedding's grid is taken to be square."""

    def read(given: Given) -> Header:
        found = given.shapes
        where = f"{STACKED if is_stacked else BLOCK.format(i=0)}/{QUERY}"
        kernel = found[where]
        check_depth(kernel[0] if is_stacked else 1, found, where="the npz file")
        depth = kernel[0] if is_stacked else depth_of(n for n in found if "encoderblock_" in n)
        base = ViTConfig(depth=depth, class_token_position=False)
        rules = scanned(base) if is_stacked else plain(base)
        shapes = our_shapes(lines(rules, depth), found)
        fields = fields_of(
            shapes, where="the npz file", sizes=given.sizes, class_token_position=False
        )
        fields |= {"num_heads": kernel[-2], "activation": "gelu_tanh"}
        if "params/pos_embedding" not in found:
            raise Unsaid(
                "the npz file has no params/pos_embedding, so its position embedding is fixed and "
                "its image size is not known: give a config with pos_embed 'sincos2d' by "
                "model='config.json'"
            )
        return Header(config=ViTConfig.from_dict(fields), preprocessing=SQUASHED)

    return read


def expresses(config: ViTConfig) -> list[str]:
    """Reasons why big_vision's ViT cannot compute a model."""
    other = {
        "class_token": ..., "class_token_position": ..., "pool": ..., "norm_eps": 1e-6,
        "pos_embed": ["learned", "sincos2d"], "representation_size": ..., "activation": "gelu_tanh",
    }  # fmt: skip
    reasons = cannot(config, other, who="big_vision")
    if config.class_token and config.pool != "token":
        reasons.append(f"class_token with pool {config.pool!r} (its class token is the pool)")
    return reasons


def untold(given: Given) -> tuple[str, ...]:
    """Without class token and pooling head it is the mean (`gap`) or the first token (`0`)."""
    pooled = {"params/cls", "params/MAPHead_0/probe"} & given.shapes.keys()
    return UNTOLD if pooled else ("pool", *UNTOLD)


def _format(name: str, about: str, is_stacked: bool) -> Format:
    return Format(
        name=name,
        kind="npz",
        about=about,
        matches=partial(is_tree_of_big_vision, scanned=is_stacked),
        config_from=config_from(is_stacked),
        table=scanned if is_stacked else plain,
        ignored=TRAINING,
        aliases=apart,
        root=ROOT,
        anchors=(EMBEDDING,),
        expresses=expresses,
        usual=SQUASHED,
        untold=untold,
        other_sizes=ZOOM,
    )


FORMAT = _format("big_vision", "npz file of google-research/big_vision, block by block", False)
SCANNED = _format("big_vision_scan", "the same with all blocks in one tensor (scan=True)", True)
