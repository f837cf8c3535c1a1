"""A ViT as Flax's own examples write it, its PyTorch twin, and the table between the two.

Shapes: b images of 32 x 32 pixels, w = 32 channels of 2 heads, patches of 8 x 8 pixels.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity import Names, Rule, fused, heads

WIDTH, HEADS, DEPTH, CLASSES, EPSILON = 32, 2, 2, 7, 1e-6
Activation = Any


class LinenMlp(nn.Module):
    activation: Activation

    @nn.compact
    def __call__(self, x):
        x = self.activation(nn.Dense(2 * WIDTH)(x))
        return nn.Dense(WIDTH)(x)


class LinenBlock(nn.Module):
    activation: Activation
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x, *, train):
        y = nn.LayerNorm(EPSILON)(x)
        y = nn.MultiHeadDotProductAttention(HEADS, deterministic=not train)(y, y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        return x + LinenMlp(self.activation)(nn.LayerNorm(EPSILON)(x))


class LinenViT(nn.Module):
    activation: Activation = partial(nn.gelu, approximate=False)

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(WIDTH, (8, 8), (8, 8), padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, WIDTH)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        positions = self.param("pos_embedding", nn.initializers.normal(0.02), (1, 17, WIDTH))
        x = nn.Dropout(0.1, deterministic=not train)(x + positions)
        for i in range(DEPTH):
            x = LinenBlock(self.activation, name=f"encoderblock_{i}")(x, train=train)
        x = nn.LayerNorm(EPSILON, name="encoder_norm")(x)
        return nn.Dense(CLASSES, name="head")(x[:, 0])


class TorchViT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, WIDTH, 8, 8)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = torch.nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                WIDTH, HEADS, 2 * WIDTH, activation="gelu", layer_norm_eps=EPSILON,
                batch_first=True, norm_first=True,
            )
            for _ in range(DEPTH)
        )  # fmt: skip
        self.norm = torch.nn.LayerNorm(WIDTH, EPSILON)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


ATTENTION, BLOCK = "encoderblock_{i}.MultiHeadDotProductAttention_0", "layers.{i}"


def _in_projection(leaf: str, torch_leaf: str) -> Rule:
    names = tuple(f"{ATTENTION}.{part}.{leaf}" for part in ("query", "key", "value"))
    return Rule(names, f"{BLOCK}.self_attn.in_proj_{torch_leaf}", fused(heads(HEADS)))


RULES = (
    Rule("embedding.kernel", "patches.weight"),
    Rule("embedding.bias", "patches.bias"),
    Rule("cls", "cls_token"),
    Rule("pos_embedding", "positions"),
    _in_projection("kernel", "weight"),
    _in_projection("bias", "bias"),
    Rule(
        f"{ATTENTION}.out.kernel", f"{BLOCK}.self_attn.out_proj.weight", heads(HEADS, output=True)
    ),
    Rule(f"{ATTENTION}.out.bias", f"{BLOCK}.self_attn.out_proj.bias"),
    *(
        Rule(f"encoderblock_{{i}}.{ours}.{leaf}", f"{BLOCK}.{theirs}.{torch_leaf}")
        for ours, theirs, leaf in (
            ("LayerNorm_0", "norm1", "scale"),
            ("LayerNorm_1", "norm2", "scale"),
            ("LinenMlp_0.Dense_0", "linear1", "kernel"),
            ("LinenMlp_0.Dense_1", "linear2", "kernel"),
        )
        for leaf, torch_leaf in ((leaf, "weight"), ("bias", "bias"))
    ),
    Rule("encoder_norm.scale", "norm.weight"),
    Rule("encoder_norm.bias", "norm.bias"),
)


def torch_twin(variables: Any) -> TorchViT:
    """The PyTorch model with the weights of a Linen model, carried by the table."""
    leaves = flax.traverse_util.flatten_dict(variables["params"], sep=".")
    state = Names(RULES).to_torch({name: np.asarray(leaf) for name, leaf in leaves.items()})
    model = TorchViT()
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return model


def linen_vit(**fields: Any) -> tuple[Any, Any]:
    """A Linen model as a function in evaluation, and random variables that nothing hides behind."""
    model = LinenViT(**fields)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype("float32"), variables)
    return partial(model.apply, train=False), noisy
