"""The two ViTs of Google Research as Flax Linen modules, with the parameter trees they publish.

Written after `vit_jax/models_vit.py` of google-research/vision_transformer (names of an older Flax,
given here) and `big_vision/models/vit.py` of google-research/big_vision, in float64.

Shapes: b images of H x W pixels, n patches, d width.
"""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
DIM, HEADS, HIDDEN, DEPTH, CLASSES = 32, 2, 48, 2, 5
NAMES = {
    "augreg": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
    "big_vision": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
}


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(HIDDEN, name="Dense_0", **F64)(x)
        return nn.Dense(DIM, name="Dense_1", **F64)(nn.gelu(x))


class EncoderBlock(nn.Module):
    style: str

    @nn.compact
    def __call__(self, x):
        norm1, attention, norm2, mlp = NAMES[self.style]
        y = nn.LayerNorm(name=norm1, **F64)(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name=attention, **F64)(y, y)
        return x + MlpBlock(name=mlp)(nn.LayerNorm(name=norm2, **F64)(x))


class PosEmbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        shape = (1, *x.shape[1:])
        return x + self.param("pos_embedding", nn.initializers.normal(), shape, jnp.float64)


class Encoder(nn.Module):
    style: str

    @nn.compact
    def __call__(self, x):
        if self.style == "augreg":
            x = PosEmbed(name="posembed_input")(x)
        for i in range(DEPTH):
            x = EncoderBlock(self.style, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm", **F64)(x)


class MAPHead(nn.Module):
    @nn.compact
    def __call__(self, x):  # (b, n, d) -> (b, d)
        probe = self.param("probe", nn.initializers.normal(), (1, 1, DIM), jnp.float64)
        probe = jnp.tile(probe, (len(x), 1, 1))
        name = "MultiHeadDotProductAttention_0"
        x = nn.MultiHeadDotProductAttention(HEADS, name=name, **F64)(probe, x)
        y = nn.LayerNorm(name="LayerNorm_0", **F64)(x)
        return (x + MlpBlock(name="MlpBlock_0")(y))[:, 0]


class LinenViT(nn.Module):
    style: str
    pool: str = "tok"  # tok, gap or map
    pre_logits: int = 0

    @nn.compact
    def __call__(self, images):  # (b, H, W, 3)
        x = nn.Conv(DIM, (8, 8), (8, 8), padding="VALID", name="embedding", **F64)(images)
        x = x.reshape(len(x), -1, DIM)
        if self.style == "big_vision":
            normal = nn.initializers.normal()
            x = x + self.param("pos_embedding", normal, (1, *x.shape[1:]), jnp.float64)
        if self.pool == "tok":
            cls = self.param("cls", nn.initializers.normal(), (1, 1, DIM), jnp.float64)
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = Encoder(self.style, name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead(name="MAPHead_0")(x)
        else:
            x = x[:, 0] if self.pool == "tok" else x.mean(axis=1)
        if self.pre_logits:
            x = nn.tanh(nn.Dense(self.pre_logits, name="pre_logits", **F64)(x))
        return nn.Dense(CLASSES, name="head", **F64)(x)


def tree(model: LinenViT) -> dict[str, np.ndarray]:
    """Random parameters by slash-separated names; call it in x64 mode."""
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return {
        name: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape) for name, leaf in flat.items()
    }


def apply(model: LinenViT, params: dict[str, np.ndarray], images: Any) -> np.ndarray:
    """The logits of images (b, H, W, 3); call it in x64 mode with full precision."""
    variables = {"params": flax.traverse_util.unflatten_dict(params, sep="/")}
    return np.asarray(model.apply(variables, jnp.asarray(images)))


def stacked(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tree that `scan=True` has: every block's tensor with a leading depth axis."""
    first = "Transformer/encoderblock_0/"
    found = {n: a for n, a in params.items() if "encoderblock_" not in n}
    for name in params:
        if name.startswith(first):
            blocks = [params[name.replace("block_0", f"block_{i}", 1)] for i in range(DEPTH)]
            found[name.replace("encoderblock_0", "encoderblock")] = np.stack(blocks)
    return found


def unstacked(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `stacked`; blocks that are apart stay so."""
    found = {}
    for name, array in params.items():
        if name.startswith("Transformer/encoderblock/"):
            blocks = {name.replace("block/", f"block_{i}/", 1): a for i, a in enumerate(array)}
            found |= blocks
        else:
            found[name] = array
    return found
