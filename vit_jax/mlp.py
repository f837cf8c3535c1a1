"""The second branch of a block. Twin: `vit_torch/mlp.py`.

Shapes: b images, t tokens, d width, m MLP width.
Where a layer takes `masks`, it is a dict of multipliers by site (see `vit_spec.masks`).
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.layers import Masks, activate, activate_again, drop, linear, to_parts
from vit_jax.options import Options
from vit_spec import ViTConfig


class Mlp(nnx.Module):
    """Two linear layers with the config's activation between them."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.options = options
        self.fc1 = linear(options, config.width, config.mlp_width, rngs=rngs)
        self.fc2 = linear(options, config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Array, masks: Masks | None = None) -> Array:  # (b, t, d) -> (b, t, d)
        x = activate_again(self.fc1(x), self.activation, self.options)  # (b, t, m)
        return drop(self.fc2(drop(x, masks, "mlp_drop1")), masks, "mlp_drop2")


class SwiGLUPacked(nnx.Module):
    """An MLP whose first layer makes gate and values at once, the gate in front
    (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.fc1 = linear(options, config.width, 2 * config.mlp_width, rngs=rngs)
        self.fc2 = linear(options, config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Array, masks: Masks | None = None) -> Array:  # (b, t, d) -> (b, t, d)
        gate, x = jnp.moveaxis(to_parts(self.fc1, x, 2, "hidden"), -2, 0)  # each (b, t, m)
        x = drop(activate(gate, self.activation) * x, masks, "mlp_drop1")
        return drop(self.fc2(x), masks, "mlp_drop2")


class SwiGLU(nnx.Module):
    """An MLP with one layer for the gate and one for the values."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.options = options
        self.fc1_g = linear(options, config.width, config.mlp_width, rngs=rngs)
        self.fc1_x = linear(options, config.width, config.mlp_width, rngs=rngs)
        self.fc2 = linear(options, config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Array, masks: Masks | None = None) -> Array:  # (b, t, d) -> (b, t, d)
        gate = activate_again(self.fc1_g(x), self.activation, self.options)
        x = gate * self.fc1_x(x)  # (b, t, m)
        return drop(self.fc2(drop(x, masks, "mlp_drop1")), masks, "mlp_drop2")


MLPS: dict[str, type[Mlp | SwiGLUPacked | SwiGLU]] = {
    "mlp": Mlp,
    "swiglu_packed": SwiGLUPacked,
    "swiglu": SwiGLU,
}
"""By `ViTConfig.mlp`."""
