"""Layers that the families share. Twin: `vit_torch/layers.py`.

Shapes: b images, n patches, t tokens, d width, h heads of k channels, m MLP width.
Where a layer takes `masks`, it is a dict of multipliers by site (see `vit_spec.masks`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.attention import attend, own_array
from vit_jax.initializers import linear_init, patch_init
from vit_jax.norm import LayerNorm
from vit_jax.options import AttentionKernel, Options
from vit_jax.sharding import axis_size, constrain, platform
from vit_spec import ViTConfig

Masks = Mapping[str, Array]


def activate(x: Array, form: str) -> Array:
    """The activation of `ViTConfig.activation`, element by element."""
    if form == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    if form == "silu":
        return jax.nn.silu(x)
    if form == "gelu_tanh":
        return jax.nn.gelu(x, approximate=True)
    # Written with erf as PyTorch does; `jax.nn.gelu` uses erfc, whose backward pass is half as
    # fast on CPUs.
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def activate_again(x: Array, form: str, options: Options) -> Array:
    """`activate`; on CPUs its gradient computes it again from `x`.

    There an activation costs no more than writing its result. Not where `options.remat` has all
    computed again anyhow.
    """
    if platform() != "cpu" or options.remat != "none":
        return activate(x, form)
    return jax.checkpoint(lambda x: activate(x, form))(x)


def drop(x: Array, masks: Masks | None, site: str) -> Array:
    """`x` times the mask of a site; `x` itself where there is none."""
    return x if masks is None or site not in masks else x * masks[site].astype(x.dtype)


def layer_norm(config: ViTConfig, options: Options, width: int, *, rngs: nnx.Rngs) -> LayerNorm:
    """LayerNorm with the config's epsilon, two-pass variance."""
    return LayerNorm(
        width,
        epsilon=config.norm_eps,
        use_fast_variance=False,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        rngs=rngs,
    )


def linear(
    options: Options, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear layer with a kernel (inputs, outputs)."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        kernel_init=linear_init,
        dot_general=_dot_of_rows,
        rngs=rngs,
    )


def _dot_of_rows(x: Array, kernel: Array, dimensions: Any, **how: Any) -> Array:
    """`jax.lax.dot_general` for a linear layer: (..., d) times (d, m).

    XLA for CPUs copies and transposes its operands where it sums over several axes, as the gradient
    of a kernel does over images and tokens. There, all rows are made one matrix.
    """
    if x.ndim < 3 or platform() != "cpu":
        return jax.lax.dot_general(x, kernel, dimensions, **how)
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **how)
    return y.reshape(*x.shape[:-1], -1)


def to_parts(layer: nnx.Linear, x: Array, parts: int, axis: str) -> Array:
    """`layer(x)` as the `parts` things that it makes at once, (..., parts, channels).

    Where the mesh divides `axis`, their channels, each device computes its own of every part.
    """
    if axis_size(axis) == 1:
        y = layer(x)
        return y.reshape(*y.shape[:-1], parts, -1)
    dtype = layer.dtype or jnp.result_type(x, layer.kernel[...])
    kernel = layer.kernel[...].astype(dtype).reshape(x.shape[-1], parts, -1)
    kernel = constrain(constrain(kernel, "embed_only"), "embed", None, axis)  # rows for columns
    kernel = constrain(kernel, None, None, axis)  # the rows of the others: in one step, XLA fails
    y = jnp.einsum("...d,dpc->...pc", x.astype(dtype), kernel)
    if layer.bias is None:
        return y
    return y + constrain(layer.bias[...].astype(dtype).reshape(parts, -1), None, axis)


class Identity(nnx.Module):
    """What a config leaves out (`torch.nn.Identity` on the other side)."""

    def __call__(self, x: Array) -> Array:
        return x


def _conv_of_patches(images: Array, kernel: Array, strides: Any, *rest: Any, **how: Any) -> Array:
    """`jax.lax.conv_general_dilated` for a kernel as large as its stride, on CPUs as one product:
    XLA's convolution there, and more so its gradient, takes about twice as long."""
    if platform() != "cpu":
        return jax.lax.conv_general_dilated(images, kernel, strides, *rest, **how)
    (b, height, width, c), (p, q, _, d) = images.shape, kernel.shape
    x = images.reshape(b, height // p, p, width // q, q * c).swapaxes(2, 3)
    y = x.reshape(-1, p * q * c) @ kernel.reshape(-1, d)
    return y.reshape(b, height // p, width // q, d)


class PatchEmbed(nnx.Module):
    """Images to one token a patch: a convolution whose stride is its kernel."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        patch = config.patch_shape
        self.proj = nnx.Conv(
            config.in_channels,
            config.width,
            patch,
            patch,
            padding="VALID",
            use_bias=config.patch_bias,
            dtype=options.dtype,
            param_dtype=options.param_dtype,
            kernel_init=patch_init,
            conv_general_dilated=_conv_of_patches,
            rngs=rngs,
        )

    def __call__(self, images: Array) -> Array:  # (b, H, W, c) -> (b, n, d), row by row
        x = self.proj(images)
        return x.reshape(x.shape[0], -1, x.shape[-1])


class Attention(nnx.Module):
    """Multi-head self-attention with one fused qkv projection, scaled by 1 / sqrt(k)."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.kernel: AttentionKernel = options.attention
        self.qkv = linear(options, config.width, 3 * config.width, bias=config.qkv_bias, rngs=rngs)
        k = config.width // config.num_heads
        self.q_norm = layer_norm(config, options, k, rngs=rngs) if config.qk_norm else Identity()
        self.k_norm = layer_norm(config, options, k, rngs=rngs) if config.qk_norm else Identity()
        self.proj = linear(options, config.width, config.width, rngs=rngs)

    def __call__(self, x: Array) -> Array:  # (b, t, d) -> (b, t, d)
        b, t, d = x.shape
        qkv = own_array(to_parts(self.qkv, x, 3, "heads"), gradient_only=True)
        qkv = qkv.reshape(b, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = (jnp.swapaxes(x[:, :, 0], 1, 2) for x in jnp.split(qkv, 3, axis=2))  # b, h, t, k
        x = attend(self.q_norm(q), self.k_norm(k), v, kernel=self.kernel)
        return self.proj(jnp.swapaxes(x, 1, 2).reshape(b, t, d))


class LayerScale(nnx.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, config: ViTConfig, options: Options):
        self.initial = float(config.layer_scale or 0)
        self.gamma = nnx.Param(jnp.full((config.width,), self.initial, options.param_dtype))

    def __call__(self, x: Array) -> Array:  # (b, t, d) -> (b, t, d)
        return x * self.gamma[...].astype(x.dtype)
