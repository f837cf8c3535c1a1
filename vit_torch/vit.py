"""Vision Transformer (https://arxiv.org/abs/2010.11929). Twin: `vit_jax/vit.py`.

Shapes: b images of H x W pixels and c channels, n patches, t = prefix + n tokens, d width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vit_spec import ViTConfig
from vit_spec.masks import check_masks
from vit_torch.embedding import positions
from vit_torch.heads import AttentionPool, PreLogits, make_head
from vit_torch.images import check_images
from vit_torch.layers import Attention, LayerScale, Masks, PatchEmbed, drop, layer_norm
from vit_torch.masks import of_block, sample_masks
from vit_torch.mlp import MLPS


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each a residual branch."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = layer_norm(config, config.width)
        self.attn = Attention(config)
        self.ls1 = nn.Identity() if config.layer_scale is None else LayerScale(config)
        self.norm2 = layer_norm(config, config.width)
        self.mlp = MLPS[config.mlp](config)
        self.ls2 = nn.Identity() if config.layer_scale is None else LayerScale(config)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:  # (b, t, d) -> (b, t, d)
        y = drop(self.attn(self.norm1(x)), masks, "proj_drop")
        x = x + drop(self.ls1(y), masks, "drop_path1")
        y = self.mlp(self.norm2(x), masks)
        return x + drop(self.ls2(y), masks, "drop_path2")

    def points(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What `forward` computes on the way: both branches, then the sum."""
        y = self.attn(self.norm1(x))
        yield "attn", y
        x = x + self.ls1(y)
        y = self.mlp(self.norm2(x))
        yield "mlp", y
        yield "", x + self.ls2(y)


class ViT(nn.Module):
    """Images (b, c, H, W) to logits (b, num_classes)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        d = config.width
        self.cls_token = nn.Parameter(torch.empty(1, 1, d)) if config.class_token else None
        distilled = config.distillation_token
        self.dist_token = nn.Parameter(torch.empty(1, 1, d)) if distilled else None
        self.reg_token = (
            nn.Parameter(torch.empty(1, config.num_registers, d)) if config.num_registers else None
        )
        learned = config.pos_embed == "learned"
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_positions, d)) if learned else None
        self.patch_embed = PatchEmbed(config)
        self.norm_pre = layer_norm(config, d) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.Identity() if config.fc_norm else layer_norm(config, d)
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = layer_norm(config, d) if config.fc_norm else nn.Identity()
        self.pre_logits = PreLogits(config) if config.representation_size else nn.Identity()
        self.head = make_head(config)
        self.head_dist = make_head(config) if distilled else None

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits (b, num_classes), or pooled features (b, d) without a head.

        Args:
            images: normalised floats (b, c, H, W); H and W may be any multiples of the patch size.
            masks: dropout and stochastic-depth multipliers by site (`vit_spec.mask_sites`). None
                draws them in training mode and drops nothing in evaluation mode.

        Raises:
            ValueError: images of another rank, channel count, integer type or indivisible size;
                masks of unknown sites.
        """
        return self.classify(self.pool(self.features(images, masks)))

    def features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Tokens after the last norm (b, t, d): class token, distillation token, registers,
        patches row by row."""
        x = self.embed(images)
        if masks is not None:
            check_masks(masks, self.config)
        elif self.training:
            masks = sample_masks(
                self.config, x.shape[0], grid=self.config.grid_of(*images.shape[2:]), like=x
            )
        x = self.norm_pre(drop(x, masks, "pos_drop"))
        for i, block in enumerate(self.blocks):
            x = block(x, of_block(masks, i))
        return self.norm(x)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens with their positions (b, t, d)."""
        grid = check_images(images, self.config)
        x = self.patch_embed(images.to(self.patch_embed.proj.weight.dtype))  # (b, n, d)
        prefix, patches = positions(self.pos_embed, self.config, grid, like=x)
        x = x + patches
        tokens = []
        for token in (self.cls_token, self.dist_token):
            if token is not None:
                tokens.append(token)
        if prefix is not None:
            tokens = [torch.cat(tokens, dim=1) + prefix]
        if self.reg_token is not None:
            tokens.append(self.reg_token)
        return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), x], dim=1)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (b, t, d) to what the head takes (b, d): pooled, `fc_norm`, `pre_logits`.

        With a distillation token (b, 2, d): the class token, and the one for the second head.
        """
        if self.config.distillation_token:
            return x[:, :2]
        if self.config.pool == "token":
            x = x[:, 0]
        else:
            x = x[:, self.config.num_prefix_tokens :]
            x = x.mean(dim=1) if self.attn_pool is None else self.attn_pool(x)
        return self.pre_logits(self.fc_norm(x))

    def classify(self, x: Tensor) -> Tensor:
        """What `pool` gives to logits (b, num_classes)."""
        if self.head_dist is None:
            return self.head(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2

    def distilled(self, images: Tensor, masks: Masks | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the class token and of the distillation token, (b, num_classes) each: in
        training, the labels and the teacher have a loss of their own. The rest is as in `forward`.

        Raises:
            ValueError: there is no distillation token.
        """
        if self.head_dist is None:
            raise ValueError("distilled() needs a config with distillation_token=True")
        x = self.pool(self.features(images, masks))
        return self.head(x[:, 0]), self.head_dist(x[:, 1])

    def points(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
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
