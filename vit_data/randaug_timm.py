"""RandAugment as timm computes it: `rand-m9-mstd0.5-inc1`, 15 operations of Pillow. No twin.

Source: `timm/data/auto_augment.py`; this spec is that of DeiT (https://arxiv.org/abs/2012.12877).
It differs from big_vision's variant (`vit_data.randaug_big_vision`) in its operations, in their
probability of one half, in the magnitude's noise, and in moving by a share of the image.

The parts of a spec, in any order after `rand`: `m9` magnitude (10), `n2` operations an image (2),
`p0.5` probability of each (0.5), `mstd0.5` standard deviation of the magnitude (0; above 100:
uniform from 0 to the magnitude), `mmax10` its upper bound (10), `inc1` operations whose strength
grows with the magnitude (`inc0`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vit_data.decode import pixels, to_picture

MAX_LEVEL = 10.0  # magnitudes are tenths of an operation's full strength
PART = re.compile(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?|inf)")


class Look(NamedTuple):
    """How an operation fills what it uncovers, and how it resamples."""

    fill: tuple[int, ...]  # one value a channel; timm: the mean colour of the normalisation
    resample: Image.Resampling  # see `turning`


def turning(interpolation: str) -> Image.Resampling:
    """The method that turns and shears an image: Pillow has no Lanczos for that."""
    kinds = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    return kinds.get(interpolation, Image.Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True)
class TimmRandAugment:
    """`layers` operations drawn with replacement, each done with `probability`."""

    magnitude: float = MAX_LEVEL
    layers: int = 2
    probability: float = 0.5
    deviation: float = 0.0
    max_magnitude: float = MAX_LEVEL
    increasing: bool = False

    @classmethod
    def parse(cls, spec: str) -> "TimmRandAugment":
        """The settings that timm's notation names. Raises `ValueError` for a part it has not."""
        first, *parts = spec.split("-")
        found = [PART.fullmatch(part) for part in parts]
        unknown = [part for part, match in zip(parts, found, strict=True) if match is None]
        if first != "rand" or unknown:
            raise ValueError(
                f"policy {spec!r} is no RandAugment of timm ({', '.join(unknown) or first}): write "
                "it as rand-m9-mstd0.5-inc1, of the parts m, n, p, mstd, mmax and inc"
            )
        value = {match[1]: float(match[2]) for match in found if match}
        deviation = value.get("mstd", 0.0)
        return cls(
            magnitude=value.get("m", MAX_LEVEL),
            layers=int(value.get("n", 2)),
            probability=value.get("p", 0.5),
            deviation=float("inf") if deviation > 100 else deviation,
            max_magnitude=value.get("mmax", MAX_LEVEL),
            increasing=bool(value.get("inc", 0)),
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator, look: Look) -> np.ndarray:
        """The image after the operations, uint8 (h, w, c)."""
        names = INCREASING if self.increasing else PLAIN
        chosen = [names[int(rng.random() * len(names))] for _ in range(self.layers)]
        picture = to_picture(image)
        for name in chosen:
            if rng.random() < self.probability:
                picture = apply(name, picture, argument(name, self.level(rng), rng), look)
        return pixels(picture)

    def level(self, rng: np.random.Generator) -> float:
        """The magnitude of one operation, with its noise, within its bounds."""
        magnitude = self.magnitude
        if self.deviation == float("inf"):
            magnitude *= rng.random()
        elif self.deviation:
            magnitude += self.deviation * rng.standard_normal()
        return max(0.0, min(magnitude, self.max_magnitude))


def argument(name: str, level: float, rng: np.random.Generator) -> float:
    """What a level means for an operation; `rng` draws the sign where there is one."""
    share = level / MAX_LEVEL
    if name in SIGNED:
        return SIGNED[name] * share * _sign(rng)
    if name in FACTORS:
        return 1.8 * share + 0.1
    if name.removesuffix("Increasing") in FACTORS:
        return max(0.1, 1 + 0.9 * share * _sign(rng))
    whole = {
        "Posterize": int(share * 4),
        "PosterizeIncreasing": 4 - int(share * 4),
        "Solarize": min(256, int(share * 256)),
        "SolarizeIncreasing": 256 - min(256, int(share * 256)),
        "SolarizeAdd": min(128, int(share * 110)),
    }
    return whole.get(name, 0)


def apply(name: str, picture: Image.Image, value: Any, look: Look) -> Image.Image:
    """One operation by name, with its own argument (degrees, share, factor, bits, threshold)."""
    return OPERATIONS[name.removesuffix("Increasing")](picture, value, look)


def _sign(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _moved(picture: Image.Image, matrix: tuple[float, ...], look: Look) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, look.resample, fillcolor=_fill(picture, look)
    )


def _fill(picture: Image.Image, look: Look) -> Any:
    return look.fill[0] if picture.mode == "L" else look.fill


def _solarize_add(picture: Image.Image, value: int, look: Look) -> Image.Image:
    table = [min(255, i + value) if i < 128 else i for i in range(256)]
    return picture.point(table * len(picture.getbands()))


def _posterize(picture: Image.Image, bits: int, look: Look) -> Image.Image:
    """The highest bits; with none the image is black, which Pillow from 13 on refuses to do."""
    return ImageOps.posterize(picture, bits) if bits else picture.point(lambda value: 0)


Operation = Callable[[Image.Image, Any, Look], Image.Image]
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda p, v, look: ImageOps.autocontrast(p),
    "Equalize": lambda p, v, look: ImageOps.equalize(p),
    "Invert": lambda p, v, look: ImageOps.invert(p),
    "Rotate": lambda p, v, look: p.rotate(v, look.resample, fillcolor=_fill(p, look)),
    "Posterize": _posterize,
    "Solarize": lambda p, v, look: ImageOps.solarize(p, v),
    "SolarizeAdd": _solarize_add,
    "Color": lambda p, v, look: ImageEnhance.Color(p).enhance(v),
    "Contrast": lambda p, v, look: ImageEnhance.Contrast(p).enhance(v),
    "Brightness": lambda p, v, look: ImageEnhance.Brightness(p).enhance(v),
    "Sharpness": lambda p, v, look: ImageEnhance.Sharpness(p).enhance(v),
    "ShearX": lambda p, v, look: _moved(p, (1, v, 0, 0, 1, 0), look),
    "ShearY": lambda p, v, look: _moved(p, (1, 0, 0, v, 1, 0), look),
    "TranslateXRel": lambda p, v, look: _moved(p, (1, 0, v * p.width, 0, 1, 0), look),
    "TranslateYRel": lambda p, v, look: _moved(p, (1, 0, 0, 0, 1, v * p.height), look),
}
SIGNED = {
    "Rotate": 30.0,  # degrees at full strength
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateXRel": 0.45,  # of the width
    "TranslateYRel": 0.45,
}
FACTORS = ("Color", "Contrast", "Brightness", "Sharpness")  # 1 changes nothing
PLAIN = tuple(OPERATIONS)
INCREASING = tuple(
    f"{name}Increasing" if name in ("Posterize", "Solarize", *FACTORS) else name
    for name in OPERATIONS
)
