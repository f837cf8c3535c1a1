"""Formulas before the first block: preprocessing of images, tokens, positions and their resampling.

Shapes: b images of H x W pixels and c channels, t tokens, d width, (r, s) the grid of patches.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from parity.diagnosis.segments import Segment, Settings
from parity.diagnosis.trace import Trace
from vit_spec import ViTConfig
from vit_spec.positions import cubic, sincos2d

KERNELS = ("bicubic, a = -0.5", "bicubic, a = -0.75", "bilinear", "nearest", "nearest-exact")
EDGES = ("renormalised", "clamped")
CORNERS = ("half-pixel", "aligned")
OFFSETS = ("0", "0.1")
SWAPPED = ("rows and columns swapped", "rows and columns of the table swapped")
FLIPPED = {"upside down": (0,), "mirrored": (1,), "in reverse order": (0, 1)}
PATCHES = ("row by row", "column by column, each with its position",
           "column by column, before the positions are added")  # fmt: skip
STATISTICS = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5,) * 3, (0.5,) * 3),
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet mean only": ((0.485, 0.456, 0.406), (1.0,) * 3),
}
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "as given": lambda x: x,
    "divided by 255": lambda x: x / 255,
    "times 255": lambda x: x * 255,
    "2 x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
}


def of_images(trace: Trace, partner: Trace, raw: bool) -> Iterator[Segment]:
    """From the images as given to the first module that both sides hand them to: what a side's
    preprocessing does. `raw`: the images are 8-bit values."""
    images = trace.images
    if images is None or images.ndim != 4:
        return
    target = next(
        (x for path in partner.events if path in trace.events and path
         if (x := _as_images(trace.events[path].input, images)) is not None
         and _as_images(partner.events[path].input, images) is not None), None
    )  # fmt: skip
    if target is None:
        return
    knobs: dict[str, tuple[str, ...]] = {
        "channels": ("in order", "reversed (RGB/BGR)"),
        "axes": ("as given", "height and width swapped", "mirrored", "upside down"),
    }
    if raw:
        knobs["range"] = ("0 to 1", "0 to 255", "-1 to 1")
        knobs["mean and std"] = tuple(STATISTICS)
        knobs["order of mean and std"] = ("as the channels", "reversed (RGB/BGR)")
    else:
        knobs["values"] = tuple(VALUES)

    def predict(settings: Settings) -> Tensor | None:
        x = images.flip(-1) if settings["channels"] != "in order" else images
        axes = settings["axes"]
        x = x.transpose(1, 2) if axes == "height and width swapped" else x
        x = x.flip(2) if axes == "mirrored" else x.flip(1) if axes == "upside down" else x
        if not raw:
            return VALUES[settings["values"]](x)
        x = {"0 to 1": x / 255, "0 to 255": x, "-1 to 1": x / 127.5 - 1}[settings["range"]]
        mean, std = (torch.tensor(v, dtype=torch.float64)
                     for v in STATISTICS[settings["mean and std"]])  # fmt: skip
        if x.shape[-1] != 3:
            mean, std = mean[:1], std[:1]
        if settings["order of mean and std"] != "as the channels":
            mean, std = mean.flip(0), std.flip(0)
        return (x - mean) / std

    yield Segment("images", target, knobs, predict)


def _as_images(x: Tensor | None, like: Tensor) -> Tensor | None:
    """An input channels-last, if it may be the images: (b, H, W, c) or (b, W, H, c)."""
    if x is None or x.ndim != 4:
        return None
    b, h, w, c = like.shape
    for image in (x, x.permute(0, 2, 3, 1)):
        if tuple(image.shape) in ((b, h, w, c), (b, w, h, c)):
            return image
    return None


def of_tokens(trace: Trace, config: ViTConfig) -> Iterator[Segment]:
    """From the patch convolution to the first block, or to the norm before it."""
    conv = trace.events.get("patch_embed.proj")
    first = trace.events.get("norm_pre") or trace.events.get("blocks.0.norm1")
    if conv is None or first is None or conv.output is None or first.input is None:
        return
    patches, target = conv.output, first.input  # (b, d, r, s), (b, t, d)
    grid = (patches.shape[2], patches.shape[3])
    names = {"class": "cls_token", "distillation": "dist_token", "registers": "reg_token"}
    tokens = {name: t for name, key in names.items() if (t := trace.state.get(key)) is not None}
    table, registers = trace.state.get("pos_embed"), tokens.get("registers")
    resampled = table is not None and grid != config.grid
    own = 0 if table is None else config.num_prefix_positions
    knobs: dict[str, tuple[str, ...]] = {
        "position embedding": ("added", "left out"),
        "patches": PATCHES,
        "order of tokens": _orders(*tokens, "patches"),
    }
    if own:
        knobs["position of the class token"] = (
            "the first row", "the last row", "left out"
        )  # fmt: skip
    if registers is not None and registers.shape[1] > 1:
        knobs["registers"] = ("in order", "reversed")
    if resampled:
        usual = _usual(config)
        knobs["resampling kernel"] = _first(usual[0], KERNELS)
        knobs["resampling antialias"] = _first(usual[1], ("on", "off"))
        knobs["resampling edges"] = _first(usual[2], EDGES)
        knobs["resampling corners"] = CORNERS
        knobs["resampling offset"] = _first(f"{config.pos_embed_offset:g}", OFFSETS)
    if table is not None:
        knobs["position embedding"] += (*SWAPPED, *FLIPPED)
    else:
        knobs["sine-cosine table"] = _first(
            "frequencies to width/4" if config.pos_embed == "sincos2d_mae" else
            "frequencies to width/4 - 1",
            ("frequencies to width/4 - 1", "frequencies to width/4"),
        )  # fmt: skip
        knobs["sine-cosine axes"] = ("x before y", "y before x")

    def predict(settings: Settings) -> Tensor | None:
        if table is None:
            prefix, positions = None, _fixed(grid, patches.shape[1], settings)
        else:
            found = _learned(table, config.grid, grid, own, settings)
            if found is None:
                return None
            prefix, positions = found
        x, form = patches.permute(0, 2, 3, 1), settings["position embedding"]
        if form == SWAPPED[0]:
            positions = positions.transpose(0, 1).reshape(*grid, -1)
        positions = positions.flip(FLIPPED.get(form, ()))
        b, order = len(x), settings["patches"]
        if order == PATCHES[2]:  # read in another order than the positions
            x = x.transpose(1, 2).reshape(x.shape)
        x = x if form == "left out" else x + positions
        x = x.transpose(1, 2) if order == PATCHES[1] else x
        parts = {"patches": x.reshape(b, -1, x.shape[-1])}
        left_out = "left out" in (form, settings.get("position of the class token"))
        for i, (name, token) in enumerate(tokens.items()):
            if name == "registers":
                token = token.flip(1) if settings.get("registers") == "reversed" else token
            elif prefix is not None and not left_out:
                token = token + prefix[:, i : i + 1]
            parts[name] = token.expand(b, -1, -1)
        return torch.cat([parts[name] for name in settings["order of tokens"].split(", ")], dim=1)

    yield Segment("embed", target, knobs, predict)


def of_norm_pre(trace: Trace) -> Iterator[Segment]:
    """Whether the norm before the first block acts; what it does is judged as a layer."""
    norm, first = trace.events.get("norm_pre"), trace.events.get("blocks.0.norm1")
    if "norm_pre.weight" not in trace.state or first is None or first.input is None:
        return

    def predict(settings: Settings) -> Tensor | None:
        if settings["norm before the blocks"] == "applied":
            return None if norm is None else norm.output
        return first.input if norm is None else norm.input

    knobs = {"norm before the blocks": ("applied", "left out")}
    yield Segment("norm_pre", first.input, knobs, predict)


def _learned(
    table: Tensor, native: tuple[int, int], grid: tuple[int, int], own: int, settings: Settings
) -> tuple[Tensor | None, Tensor] | None:
    """Positions of the first `own` tokens and of the patches (r, s, d)."""
    prefix = None
    if own and settings["position of the class token"] == "the last row":
        prefix, table = table[:, -own:], table[:, :-own]
    elif own:
        prefix, table = table[:, :own], table[:, own:]
    if table.shape[1] != native[0] * native[1]:
        return None
    table = table.reshape(*native, -1)
    if settings["position embedding"] == SWAPPED[1]:  # before it is resampled
        table = table.transpose(0, 1).reshape(*native, -1)
    if grid == native:
        return prefix, table
    key = tuple(settings[f"resampling {x}"] for x in ("kernel", "antialias", "edges", "corners"))
    key += (float(settings["resampling offset"]),)
    rows, columns = (_matrix(a, b, *key) for a, b in zip(native, grid, strict=True))
    return prefix, torch.einsum("rh,cw,hwd->rcd", rows, columns, table)


@lru_cache(maxsize=512)
def _matrix(
    source: int,
    target: int,
    kernel: str,
    antialias: str,
    edges: str,
    corners: str,
    offset: float = 0.0,
) -> Tensor:
    """The matrix (target, source) of one axis for any combination of conventions."""
    scale = source / (target + offset)
    centres = (np.arange(target) + 0.5) * scale - 0.5
    if corners == "aligned":
        centres = np.arange(target) * ((source - 1) / max(1, target - 1))
    stretch = max(scale, 1.0) if antialias == "on" else 1.0
    if kernel.startswith("nearest"):
        half = 0.5 if kernel == "nearest-exact" else 0.0
        taps = np.clip(np.floor((np.arange(target) + half) * scale), 0, source - 1).astype(int)
        return torch.from_numpy(np.eye(source)[taps])
    reach = int(np.ceil((1 if kernel == "bilinear" else 2) * stretch)) + 1
    taps = np.floor(centres)[:, None] + np.arange(-reach, reach + 1)
    distance = (taps - centres[:, None]) / stretch
    if kernel == "bilinear":
        weights = np.clip(1 - np.abs(distance), 0, None)
    else:
        weights = cubic(distance, float(kernel.split("= ")[1]))
    inside = (taps >= 0) & (taps < source)
    if edges == "renormalised":
        weights = weights * inside
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((target, source))
    rows = np.broadcast_to(np.arange(target)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, source - 1).astype(int)), weights)
    return torch.from_numpy(matrix)


def _fixed(grid: tuple[int, int], width: int, settings: Settings) -> Tensor:
    mae = settings["sine-cosine table"] == "frequencies to width/4"
    table = torch.from_numpy(sincos2d(grid, width, mae=mae))
    if settings["sine-cosine axes"] == "y before x":
        table = torch.cat([table[:, width // 2 :], table[:, : width // 2]], dim=1)
    return table.reshape(*grid, width)


def _usual(config: ViTConfig) -> tuple[str, str, str]:
    if config.pos_embed_interpolation == "bilinear":
        kernel = "bilinear"
    else:
        kernel = KERNELS[0] if config.pos_embed_antialias else KERNELS[1]
    on = config.pos_embed_antialias
    return kernel, "on" if on else "off", EDGES[0] if on else EDGES[1]


def _first(usual: str, forms: tuple[str, ...]) -> tuple[str, ...]:
    return (usual, *(form for form in forms if form != usual))


def _orders(*present: str) -> tuple[str, ...]:
    return tuple(", ".join(order) for order in itertools.permutations(present))
