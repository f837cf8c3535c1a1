"""How an image becomes the numbers that a model takes: facts that belong to its weights."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vit_spec.strict_json import is_number, shown

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop and normalisation of one image, in that order.

    The image is resized so that the crop covers `crop_fraction` of it, cropped to `size` or else to
    the model's image size, divided by 255 and normalised as `(x - mean) / std`, channel by channel.
    Defaults are those of the original ViT: every channel in [-1, 1].
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # per channel, of values in [0, 1]
    std: tuple[float, ...] = (0.5, 0.5, 0.5)  # per channel, of values in [0, 1]
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] = "bicubic"
    crop_fraction: float = 0.875  # share of the resized shorter side that the crop keeps, in (0, 1]
    squash: bool = False  # True: resize both sides to the target and ignore the aspect ratio
    size: tuple[int, int] | None = None  # height and width in pixels; None: the model's

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values or not all(map(is_number, values)):
                raise ValueError(f"{name} {shown(values)} must be a tuple of finite numbers")
        if not is_number(self.crop_fraction):
            raise ValueError(f"crop_fraction {shown(self.crop_fraction)} must be a number")
        if not isinstance(self.squash, bool):
            raise ValueError(f"squash {shown(self.squash)} must be True or False")
        if self.size is not None and not _is_size(self.size):
            raise ValueError(f"size {shown(self.size)} must be a pair of positive whole numbers")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}: give as many of each"
            )
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std {self.std} must be positive in every channel")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction {self.crop_fraction} is outside (0, 1]")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {shown(self.interpolation)} is none of {', '.join(INTERPOLATIONS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, without a `size` that is the model's."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in fields.items() if v is not None}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`. Raises `ValueError` for a field that does not exist."""
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"preprocessing has unknown fields {unknown}; known are "
                f"{sorted(cls.__dataclass_fields__)}"
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(side, int) and 0 < side < 2**31 for side in value)
    )
