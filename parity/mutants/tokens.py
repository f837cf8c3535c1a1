"""Bugs in tokens and positions, with the right weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mutants.model import REGISTERS, Change, in_torch, rebind
from parity.mutants.mutant import Mutant
from vit_spec.positions import cubic, sincos2d


def _embed(
    positions: Callable[..., Any] | None = None,
    order: tuple[str, ...] = ("class", "registers", "patches"),
    column_major: bool = False,
    class_position: bool = True,
) -> Change:
    """The tokens with other positions, another order of tokens or of patches.

    `positions(table, native grid, grid)` takes and gives a table (r, s, d).
    """

    def embed(self: Any, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).permute(0, 2, 3, 1)  # (b, r, s, d)
        grid, config = (x.shape[1], x.shape[2]), self.config
        prefix: Any = 0
        if self.pos_embed is None:
            table = torch.as_tensor(sincos2d(grid, config.width)).to(x).reshape(*grid, -1)
        else:
            own = int(config.class_token and config.class_token_position)
            prefix, table = self.pos_embed[:, :own], self.pos_embed[:, own:]
            table = table.reshape(*config.grid, -1)
            if grid != config.grid and positions is None:
                table = _resampled(table, grid, "bicubic", antialias=True)
        table = table if positions is None else positions(table, config.grid, grid)
        x = x + table
        x = x.transpose(1, 2) if column_major else x
        parts = {"patches": x.reshape(len(x), -1, config.width)}
        if self.cls_token is not None:
            cls = self.cls_token + (prefix if class_position else 0)
            parts["class"] = cls.expand(len(x), -1, -1)
        if self.reg_token is not None:
            parts["registers"] = self.reg_token.expand(len(x), -1, -1)
        return torch.cat([parts[name] for name in order if name in parts], dim=1)

    return lambda model: rebind(model, embed, "embed")


def _resampled(table: Tensor, grid: tuple[int, int], mode: str, **options: Any) -> Tensor:
    wide = torch.promote_types(table.dtype, torch.float32)  # bfloat16 has no antialias
    image = table.permute(2, 0, 1)[None].to(wide)
    return F.interpolate(image, grid, mode=mode, **options)[0].permute(1, 2, 0).to(table.dtype)


def _interpolate(mode: str, **options: Any) -> Change:
    """PyTorch's own resampling of the position embedding."""
    return _embed(
        lambda table, native, grid: table if grid == native else _resampled(
            table, grid, mode, **options)
    )  # fmt: skip


def _clamped(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bicubic, a = -0.5, antialias, but with the border repeated in place of renormalised."""
    if grid == native:
        return table
    rows, columns = (_clamped_axis(a, b) for a, b in zip(native, grid, strict=True))
    return torch.einsum("rh,cw,hwd->rcd", rows.to(table), columns.to(table), table)


def _clamped_axis(source: int, target: int) -> Tensor:
    stretch = max(source / target, 1.0)
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        taps = np.arange(np.floor(centre - 2 * stretch), np.ceil(centre + 2 * stretch) + 1)
        weights = cubic((taps - centre) / stretch, -0.5)
        np.add.at(matrix[row], np.clip(taps, 0, source - 1).astype(int), weights / weights.sum())
    return torch.from_numpy(matrix)


def _swapped(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    table = _resampled(table, grid, "bicubic", antialias=True) if grid != native else table
    return table.transpose(0, 1).reshape(table.shape)


def _y_first(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    x, y = table.chunk(2, dim=-1)
    return torch.cat([y, x], dim=-1)


def _nothing(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    return torch.zeros_like(table[:1, :1])


TOKENS = (
    Mutant("position embedding left out", "model", in_torch(_embed(_nothing, class_position=False)),
           "position embedding", "left out", "embed"),
    Mutant("position embedding: rows and columns swapped", "model", in_torch(_embed(_swapped)),
           "position embedding", "rows and columns swapped", "embed"),
    Mutant("position of the class token left out", "model", in_torch(_embed(class_position=False)),
           "position of the class token", "left out", "embed"),
    Mutant("position embedding: bicubic a = -0.75 without antialias", "model",
           in_torch(_interpolate("bicubic")), "resampling kernel", "a = -0.75", "embed",
           also=("resampling antialias", "resampling edges")),
    Mutant("position embedding: bilinear for bicubic", "model",
           in_torch(_interpolate("bilinear", antialias=True)), "resampling kernel", "bilinear",
           "embed"),
    Mutant("position embedding: bilinear without antialias", "model",
           in_torch(_interpolate("bilinear")), "resampling antialias", "off", "embed",
           also=("resampling kernel",)),
    Mutant("position embedding: nearest", "model", in_torch(_interpolate("nearest")),
           "resampling kernel", "nearest", "embed"),
    Mutant("position embedding: aligned corners", "model",
           in_torch(_interpolate("bilinear", align_corners=True)), "resampling corners", "aligned",
           "embed", also=("resampling kernel", "resampling antialias")),
    Mutant("position embedding: edges clamped", "model", in_torch(_embed(_clamped)),
           "resampling edges", "clamped", "embed"),
    Mutant("patches column by column", "model", in_torch(_embed(column_major=True)), "patches",
           "column by column", "embed"),
    Mutant("registers before the class token", "model",
           in_torch(_embed(order=("registers", "class", "patches"))), "order of tokens",
           "registers, class, patches", "embed", REGISTERS),
    Mutant("registers after the patches", "model",
           in_torch(_embed(order=("class", "patches", "registers"))), "order of tokens",
           "class, patches, registers", "embed", REGISTERS),
    Mutant("sine-cosine table: y before x", "model", in_torch(_embed(_y_first)), "sine-cosine axes",
           "y before x", "embed", {"pos_embed": "sincos2d"}),
)  # fmt: skip
