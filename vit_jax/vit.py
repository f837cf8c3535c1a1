"""Vision Transformer (https://arxiv.org/abs/2010.11929). Twin: `vit_torch/vit.py`.

Shapes: b images of H x W pixels and c channels, n patches, t = prefix + n tokens, d width.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from jax import Array

from vit_jax.embedding import positions
from vit_jax.heads import AttentionPool, PreLogits, make_head
from vit_jax.images import check_images
from vit_jax.initializers import token_init
from vit_jax.layers import (
    Attention,
    Identity,
    LayerScale,
    Masks,
    PatchEmbed,
    drop,
    layer_norm,
)
from vit_jax.masks import Rngs, masks_of_call
from vit_jax.mlp import MLPS
from vit_jax.options import Options
from vit_jax.sharding import constrain
from vit_jax.stack import run_blocks
from vit_spec import ViTConfig


class Block(nnx.Module):
    """Pre-norm transformer block: attention and MLP, each a residual branch."""

    def __init__(self, config: ViTConfig, options: Options, *, rngs: nnx.Rngs):
        self.norm1 = layer_norm(config, options, config.width, rngs=rngs)
        self.attn = Attention(config, options, rngs=rngs)
        self.ls1 = Identity() if config.layer_scale is None else LayerScale(config, options)
        self.norm2 = layer_norm(config, options, config.width, rngs=rngs)
        self.mlp = MLPS[config.mlp](config, options, rngs=rngs)
        self.ls2 = Identity() if config.layer_scale is None else LayerScale(config, options)

    def __call__(self, x: Array, masks: Masks | None = None) -> Array:  # (b, t, d) -> (b, t, d)
        y = drop(self.attn(self.norm1(x)), masks, "proj_drop")
        x = x + drop(self.ls1(y), masks, "drop_path1")
        y = self.mlp(self.norm2(x), masks)
        return x + drop(self.ls2(y), masks, "drop_path2")

    def points(self, x: Array) -> Iterator[tuple[str, Array]]:
        """What `__call__` computes on the way: both branches, then the sum."""
        y = self.attn(self.norm1(x))
        yield "attn", y
        x = x + self.ls1(y)
        y = self.mlp(self.norm2(x))
        yield "mlp", y
        yield "", x + self.ls2(y)


class ViT(nnx.Module):
    """Images (b, H, W, c) to logits (b, num_classes)."""

    def __init__(self, config: ViTConfig, options: Options | None = None, *, rngs: nnx.Rngs):
        self.config = config
        self.options = options = options or Options()
        self.deterministic = True  # `train` and `eval` set it
        self.rngs: Rngs | None = nnx.data(None)
        d = config.width

        def token(rows: int) -> nnx.Param:
            return nnx.Param(token_init(rngs.params(), (1, rows, d), options.param_dtype))

        self.cls_token = token(1) if config.class_token else None
        self.dist_token = token(1) if config.distillation_token else None
        self.reg_token = token(config.num_registers) if config.num_registers else None
        learned = config.pos_embed == "learned"
        self.pos_embed = token(config.num_positions) if learned else None
        self.patch_embed = PatchEmbed(config, options, rngs=rngs)
        self.norm_pre = layer_norm(config, options, d, rngs=rngs) if config.pre_norm else Identity()
        self.blocks = nnx.List([Block(config, options, rngs=rngs) for _ in range(config.depth)])
        self.norm = Identity() if config.fc_norm else layer_norm(config, options, d, rngs=rngs)
        self.attn_pool = AttentionPool(config, options, rngs=rngs) if config.pool == "map" else None
        self.fc_norm = layer_norm(config, options, d, rngs=rngs) if config.fc_norm else Identity()
        self.pre_logits = (
            PreLogits(config, options, rngs=rngs) if config.representation_size else Identity()
        )
        self.head = make_head(config, options, rngs=rngs)
        distilled = config.distillation_token
        self.head_dist = make_head(config, options, rngs=rngs) if distilled else None

    def __call__(
        self, images: Array, masks: Masks | None = None, *, rngs: Rngs | None = None
    ) -> Array:
        """Logits (b, num_classes), or pooled features (b, d) without a head.

        Args:
            images: normalised floats (b, H, W, c); H and W may be any multiples of the patch size.
            masks: dropout and stochastic-depth multipliers by site (`vit_spec.mask_sites`), such as
                `vit_jax.sample_masks` draws. None draws them in training mode and drops nothing in
                evaluation mode, in which a model is until `model.train()`.
            rngs: in training mode what draws masks; None: `model.rngs`.

        Raises:
            ValueError: images of another rank, channel count, integer type or indivisible size;
                masks of unknown sites; nothing to draw masks with.
        """
        return self.classify(constrain(self.pool(self.features(images, masks, rngs=rngs)), "batch"))

    def features(
        self, images: Array, masks: Masks | None = None, *, rngs: Rngs | None = None
    ) -> Array:
        """Tokens after the last norm (b, t, d): class token, distillation token, registers,
        patches row by row."""
        x = self.embed(images)
        masks = masks_of_call(
            self.config,
            masks,
            self.rngs if rngs is None else rngs,
            training=not self.deterministic,
            images=images,
            dtype=jnp.promote_types(x.dtype, jnp.float32),
            together=self.options.scan,
        )
        x = self.norm_pre(drop(x, masks, "pos_drop"))
        x = run_blocks(self.blocks, x, masks, self.options, depth=self.config.depth)
        return self.norm(x)

    def embed(self, images: Array) -> Array:
        """Tokens with their positions (b, t, d)."""
        grid = check_images(images, self.config)
        x = self.patch_embed(jnp.asarray(images, self.options.compute_dtype))  # (b, n, d)
        pos_embed = None if self.pos_embed is None else self.pos_embed[...]
        prefix, patches = positions(pos_embed, self.config, grid, dtype=x.dtype)
        x = x + patches
        tokens = []
        for token in (self.cls_token, self.dist_token):
            if token is not None:
                tokens.append(token[...].astype(x.dtype))
        if prefix is not None:
            tokens = [jnp.concatenate(tokens, axis=1) + prefix]
        if self.reg_token is not None:
            tokens.append(self.reg_token[...].astype(x.dtype))
        tokens = [jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in tokens]
        return jnp.concatenate([*tokens, x], axis=1)

    def pool(self, x: Array) -> Array:
        """Tokens (b, t, d) to what the head takes (b, d): pooled, `fc_norm`, `pre_logits`.

        With a distillation token (b, 2, d): the class token, and the one for the second head.
        """
        if self.config.distillation_token:
            return x[:, :2]
        if self.config.pool == "token":
            x = x[:, 0]
        else:
            x = x[:, self.config.num_prefix_tokens :]
            x = x.mean(axis=1) if self.attn_pool is None else self.attn_pool(x)
        return self.pre_logits(self.fc_norm(x))

    def classify(self, x: Array) -> Array:
        """What `pool` gives to logits (b, num_classes)."""
        if self.head_dist is None:
            return self.head(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2

    def distilled(
        self, images: Array, masks: Masks | None = None, *, rngs: Rngs | None = None
    ) -> tuple[Array, Array]:
        """Logits of the class token and of the distillation token, (b, num_classes) each: in
        training, the labels and the teacher have a loss of their own. The rest is as in `__call__`.

        Raises:
            ValueError: there is no distillation token.
        """
        if self.head_dist is None:
            raise ValueError("distilled() needs a config with distillation_token=True")
        x = self.pool(self.features(images, masks, rngs=rngs))
        return self.head(x[:, 0]), self.head_dist(x[:, 1])

    def points(self, images: Array) -> Iterator[tuple[str, Array]]:
        """Every measuring point in the order it is computed, one at a time, without dropout.

        Names: `embed`, `blocks.{i}.attn`, `blocks.{i}.mlp`, `blocks.{i}`, `norm`, `pool`, `head`;
        after `embed`, where the config has it, `norm_pre`.
        """
        x = self.embed(images)
        yield "embed", x
        x = self.norm_pre(x)
        if self.config.pre_norm:
            yield "norm_pre", x
        for i, block in enumerate(self.blocks):
            for name, y in block.points(x):
                yield f"blocks.{i}.{name}".rstrip("."), y
            x = y
        x = self.norm(x)
        yield "norm", x
        x = self.pool(x)
        yield "pool", x
        yield "head", self.classify(x)
