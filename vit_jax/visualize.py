"""Pictures from a checkpoint: attention of each head, attention rollout, patch-embedding filters.

Every map and filter is drawn from its smallest value, dark, to its largest, light.

    python -m vit_jax.visualize runs/digits --image photo.jpg --out out.png

Exit codes: 0 done, 2 wrong usage or broken input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from vit_jax.api import from_state
from vit_jax.attention_maps import attention_maps, filters, of_patches, rollout
from vit_spec.extras import exit_without, explain
from vit_spec.names import printable

if __name__ == "__main__":
    exit_without("visualize", "PIL")
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT = 160, 8, 16
COLOURS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64
)
"""Five colours of the map inferno, dark to light."""
Tile = tuple[str, Image.Image]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the picture and returns the exit code."""
    options = _parser().parse_args(arguments)
    out = options.out or ("attention.png" if options.image else "filters.png")
    try:
        picture = draw(options.checkpoint, options.image, options.layer)
        picture.save(out)
    except (ValueError, OSError) as error:
        print(f"visualize: {printable(error, lines=True)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (text := explain(error, "visualize")) is None:
            raise
        print(text, file=sys.stderr)
        return 2
    print(f"{out}: {picture.width} x {picture.height}")
    return 0


def draw(checkpoint: str, image: str | None, layer: int = -1) -> Image.Image:
    """The picture of a checkpoint, with the attention of block `layer` if there is an image.

    Raises `ValueError` for a block that does not exist.
    """
    from parity.starting import read_checkpoint
    from vit_data import load_image
    from vit_data.preprocess import channel_facts

    header, state = read_checkpoint(checkpoint)
    config, facts = header.config, header.preprocessing
    model = from_state(config, state)
    if not -config.depth <= layer < config.depth:
        raise ValueError(f"there is no block {layer}: the model has blocks 0 to {config.depth - 1}")
    rows: list[tuple[str, list[Tile]]] = []
    if image is not None:
        size, channels = header.image_shape, config.in_channels
        data = Path(image).read_bytes()
        x = load_image(data, size=size, channels=channels, preprocessing=facts)[None]
        maps = attention_maps(model, jnp.asarray(x))
        mean, std = channel_facts(facts, channels)
        shown = _pixels(x[0] * std + mean)
        grid = config.grid_of(*size)
        flow = of_patches(rollout(maps), model, grid)[0]
        heads = of_patches(maps[layer], model, grid)[0]
        first = [
            ("image", shown),
            ("rollout", _heat(flow)),
            ("rollout on image", _over(shown, flow)),
        ]
        rows.append((f"attention rollout over {config.depth} blocks", first))
        tiles = [(f"head {i}", _over(shown, head)) for i, head in enumerate(heads)]
        whose = "of the class token" if config.pool == "token" else "of the patches, their mean"
        rows.append((f"attention in block {layer % config.depth} {whose}", tiles))
    parts = [(f"{i + 1}", _pixels(_stretched(f))) for i, f in enumerate(filters(model))]
    rows.append((f"patch embedding: {len(parts)} principal components of {config.width}", parts))
    return _sheet(rows)


def _sheet(rows: list[tuple[str, list[Tile]]], columns: int = 7) -> Image.Image:
    """Tiles under their headings, row by row."""
    step, lines = SIDE + GAP, [-(-len(tiles) // columns) for _, tiles in rows]
    wide = GAP + step * min(columns, max(len(tiles) for _, tiles in rows))
    wide = max(wide, 4 * step)
    high = GAP + sum(TEXT + GAP + count * (step + TEXT) for count in lines)
    sheet = Image.new("RGB", (wide, high), "white")
    pen, top = ImageDraw.Draw(sheet), GAP
    for (heading, tiles), count in zip(rows, lines, strict=True):
        write(pen, (GAP, top), heading, fill="black")
        top += TEXT + GAP // 2
        for i, (name, tile) in enumerate(tiles):
            corner = GAP + step * (i % columns), top + (step + TEXT) * (i // columns)
            sheet.paste(tile.resize((SIDE, SIDE), Image.Resampling.NEAREST), corner)
            write(pen, (corner[0], corner[1] + SIDE + 1), name, fill="gray")
        top += count * (step + TEXT) + GAP // 2
    return sheet


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, fill: str) -> None:
    """Draws a line of text; the blanks of Pillow's own font are too narrow at this size."""
    pen.text(place, text.replace(" ", "  "), fill=fill, font=ImageFont.load_default(size=12))


def _pixels(values: np.ndarray) -> Image.Image:
    """Values (H, W, c) in [0, 1] as an image; of other than three channels their mean."""
    if values.shape[-1] != 3:
        values = np.repeat(values.mean(-1, keepdims=True), 3, axis=-1)
    return Image.fromarray(np.uint8(np.clip(np.asarray(values), 0, 1) * 255 + 0.5))


def _heat(values: np.ndarray) -> Image.Image:
    """A map (rows, columns) in colours from its smallest to its largest value."""
    places = _stretched(values) * (len(COLOURS) - 1)
    channels = [np.interp(places, range(len(COLOURS)), COLOURS[:, c]) for c in range(3)]
    return Image.fromarray(np.uint8(np.stack(channels, axis=-1)))


def _over(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map, made smooth, over the image it belongs to."""
    size = (max(SIDE, image.width), max(SIDE, image.height))
    heat = _heat(values).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(image.resize(size, Image.Resampling.NEAREST), heat, 0.6)


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / max(float(high - low), 1e-12)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.visualize", description="Draw a checkpoint's attention and filters."
    )
    add = parser.add_argument
    add("checkpoint", help="folder, file or hf:// address of any format of `parity formats`")
    add("--image", help="a photo; without one only the filters are drawn")
    add("--layer", type=int, default=-1, help="block whose heads are shown (default: the last)")
    add("--out", help="picture to write (default: attention.png, or filters.png without --image)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
