"""What training scripts save beside the weights of a file: which model it is, and its images.

timm's `train.py` saves `arch` and `args`, DeiT's, MAE's and DINO's `args`, Lightning
`hyper_parameters`; `pretrained_cfg` is timm's own. Only plain values count.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parity.formats.attributes import IMAGE, NUMBERS, SHARE, SIDES, Json, Kind, one_of
from vit_spec import Preprocessing, variants
from vit_spec.names import plain
from vit_spec.preprocessing import INTERPOLATIONS
from vit_spec.published import published_preprocessing
from vit_spec.variants import ALIASES

NAMES = (
    "arch", "architecture", "model", "model_name", "backbone", "backbone_name", "encoder",
    "encoder_name", "timm_model", "timm_name", "variant",
)  # fmt: skip
"""Last parts of names whose value may name a model, the surest first."""
WITHIN = ("", "pretrained_cfg", "args", "hyper_parameters", "hparams", "config", "cfg")
"""First parts of names under which settings lie, the surest first."""
IMAGES: dict[str, Kind] = {
    "mean": NUMBERS, "std": NUMBERS, "crop_pct": SHARE, "interpolation": one_of(INTERPOLATIONS),
    "crop_mode": one_of(("center", "squash")), "input_size": IMAGE,
}  # fmt: skip
"""Settings of timm's that say how images are prepared, under their names."""
MAE = r"(mae_)?vit_(base|large|huge)_patch\d+(_dec\w*)?"
DINO = r"vit_(tiny|small|base)"
DEIT = ("args.distillation_type", "args.eval_crop_ratio", "args.distillation-type")

Said = Mapping[str, Any]


def script(said: Said) -> str | None:
    """The original release whose training wrote a file, if it is told."""
    arch, model = said.get("args.arch"), said.get("args.model")
    if "arch" in said:
        return None
    if isinstance(arch, str) and re.fullmatch(DINO, arch) and "args.patch_size" in said:
        return "dino"
    if isinstance(model, str) and re.fullmatch(MAE, model):
        return "mae"
    return "deit" if any(name in said for name in DEIT) else None


def architecture(said: Said) -> tuple[str, str] | None:
    """Where a variant is named, and its name in timm; not by the script of an original release."""
    if script(said):
        return None
    for last in NAMES:
        for name, value in said.items():
            first, _, rest = name.rpartition(".")
            found = _variant(value) if rest == last and first.split(".")[0] in WITHIN else None
            if found:
                return name, found
    return None


def config(said: Said) -> Json | None:
    """The config.json that timm would write of the model, if it is named."""
    found = architecture(said)
    if found is None:
        return None
    name = found[1]
    content: Json = {"architecture": name, "model_args": _arguments(said)}
    images = published_preprocessing(name if name in variants() else f"{name}.mae")
    pretrained: Json = {
        "mean": list(images.mean), "std": list(images.std), "interpolation": images.interpolation,
        "crop_pct": images.crop_fraction, "crop_mode": "squash" if images.squash else "center",
    }  # fmt: skip
    return content | {"pretrained_cfg": pretrained | settings(said)}


def images(said: Said, usual: Preprocessing) -> Preprocessing | None:
    """How images are prepared, where their normalisation is said; what is not is `usual`."""
    found = settings(said)
    if not {"mean", "std"} <= found.keys():
        return None
    return replace(
        usual,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation=found.get("interpolation", usual.interpolation),
        crop_fraction=found.get("crop_pct", usual.crop_fraction),
        squash=found.get("crop_mode", "squash" if usual.squash else "center") == "squash",
    )


def note(said: Said) -> list[str]:
    """What was taken from beside the weights, with its place in the file."""
    found = architecture(said)
    parts = [f"{plain(found[0])} {found[1]}"] if found else []
    parts += [f"{plain(_place(said, name))} {value}" for name, value in settings(said).items()]
    like = f"; what they leave out is as in timm's {found[1]}" if found else ""
    return [f"said beside the weights: {', '.join(parts)}{like}"] if parts else []


def settings(said: Said) -> Json:
    """What is said of images in timm's names; of a mean of one number all channels have it."""
    found: Json = {}
    for name, kind in IMAGES.items():
        place = _place(said, name)
        value = _list(said[place]) if place else None
        if value is not None and kind.holds(value):
            found[name] = value * 3 if kind is NUMBERS and len(value) == 1 else value
    return found


def _place(said: Said, last: str) -> str:
    """The surest place where a setting is said."""
    for first in WITHIN:
        name = f"{first}.{last}" if first else last
        if said.get(name) is not None:
            return name
    return ""


def _arguments(said: Said) -> Json:
    """`model_args`: what was set of the model itself."""
    found: Json = {}
    for name, value in said.items():
        if name.startswith("args.model_kwargs."):
            found[name.removeprefix("args.model_kwargs.")] = _list(value)
    pool, size = said.get("args.gp"), _list(said.get("args.img_size"))
    if isinstance(pool, str):
        found["global_pool"] = pool
    if size is not None and SIDES.holds(size):
        found["img_size"] = size
    return found


def _variant(value: Any) -> str | None:
    """timm's name of a variant, without where it comes from and which weights were taken."""
    if not isinstance(value, str):
        return None
    name = ALIASES.get(value, value).rpartition("/")[2].partition(".")[0]
    return name if name in variants() or f"{name}.mae" in variants() else None


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
