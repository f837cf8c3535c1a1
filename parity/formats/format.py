"""What a format is: how it is told, its table, and its config both ways. No framework is imported.

Errors of this module are `ValueError`s that name the format's attribute.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from parity.formats.attributes import Json
from parity.formats.table import Line, Rule, lines, our_shapes
from vit_spec import Header, Preprocessing, ViTConfig, get, parameters, variants
from vit_spec.parameters import Shapes
from vit_spec.strict_json import shown

MOST_SHOWN = 6
LAYER_SCALE = 1e-5
"""Initial value of a LayerScale whose file holds only the trained one; DeiT III's and DINOv2's."""
RESAMPLED = ("pos_embed_interpolation", "pos_embed_antialias", "pos_embed_offset")
ELSEWHERE = (*RESAMPLED, "dropout", "drop_path")
"""Fields that say nothing about outputs at the native size, and that hardly any file says."""


class Unsaid(ValueError):
    """A checkpoint does not say which model it is; `told` are the fields that it does say."""

    def __init__(self, message: str, told: Json | None = None) -> None:
        super().__init__(message)
        self.told: Json = told or {}


@dataclass(frozen=True, kw_only=True)
class Given:
    """All that a checkpoint says of itself, without its values."""

    shapes: Shapes
    kind: str = ""  # of container
    config: Json | None = None  # of config.json
    files: Mapping[str, Json] = field(default_factory=dict)  # other JSON beside it, by file name
    metadata: Mapping[str, str] = field(default_factory=dict)
    around: Collection[str] = ()  # names of tensors that are not part of the model
    said: Mapping[str, Any] = field(default_factory=dict)  # beside the tensors in the same file
    folder: Path = Path()  # of the JSON files, for messages
    sizes: tuple[tuple[int, int], ...] = ()  # of the image in pixels, as the user says

    @property
    def model_type(self) -> Any:
        """Which model of transformers `config` is of, if any."""
        return (self.config or {}).get("model_type")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A foreign format. All callables are pure; `rules` are exact for a config."""

    name: str
    kind: str  # of container that is written: safetensors, npz, msgpack, torch
    about: str  # one sentence
    matches: Callable[[Given], bool]
    config_from: Callable[[Given], Header]
    table: Callable[[ViTConfig], list[Rule]]  # perhaps with rules for what the config lacks
    config_to: Callable[[Header], dict[str, Json]] = lambda header: {}  # file name -> JSON
    expresses: Callable[[ViTConfig], list[str]] = lambda config: []  # reasons why it cannot
    ignored: tuple[str, ...] = ()  # patterns of names that are no part of the model
    unused: Callable[[Given], tuple[str, ...]] = lambda given: ()  # patterns like those, of a file
    aliases: Callable[[Given], Mapping[str, str]] = lambda given: {}  # name in the file -> in table
    root: str = ""  # what is in front of all names in the files of its library
    anchors: tuple[str, ...] = ()  # names of its patch embedding in files, if not as in the table
    file: str | None = None  # of the weights, if the format is a directory
    sharded: bool = False  # whether its library reads several files and their index as well
    untold: Callable[[Given], Collection[str]] = lambda given: ELSEWHERE  # fields taken for granted
    images: Callable[[Given], Preprocessing | None] = lambda given: None  # said of preprocessing
    usual: Preprocessing = field(default_factory=Preprocessing)  # where nothing is said of it
    variants: bool = False  # its names are timm's, as those of variants: a variant says its images
    model: Callable[[ViTConfig], str] = lambda config: ""  # the published one that it is taken for
    other_sizes: str = ""  # how its code resamples positions, where that is not as ours can

    def held(self, config: ViTConfig) -> ViTConfig:
        """The same function as the format has it: the class token's position may be zeros."""
        if not config.class_token or config.class_token_position or config.pos_embed != "learned":
            return config
        positioned = config.replace(class_token_position=True)
        fewer = len(self.expresses(positioned)) < len(self.expresses(config))
        return positioned if fewer else config

    def rules(self, config: ViTConfig) -> list[Line]:
        """The table of one model: each of our names once."""
        ours = parameters(config)
        return [
            line for line in lines(self.table(config), config.depth) if set(line.ours) <= set(ours)
        ]

    def names(self, given: Given) -> bool:
        """Whether a file of tensors alone has a name of the format's."""
        names = {name for line in self.rules(ViTConfig()) for name in line.theirs}
        return given.config is None and not names.isdisjoint(self.places(given))

    def places(self, given: Given) -> dict[str, str]:
        """Name in the table -> name in the file, of the tensors that the table must account for."""
        aliases, patterns = self.aliases(given), (*self.ignored, *self.unused(given))
        found: dict[str, str] = {}
        for name in given.shapes:
            if not any(re.fullmatch(pattern, name) for pattern in patterns):
                place = aliases.get(name, name)
                found[name if place in found else place] = name  # of two one is too many
        return found


def unlisted(
    config: Json, handled: Iterable[str], ignored: Mapping[str, Any], *, where: str
) -> None:
    """Raises `ValueError` for attributes that are neither handled nor ignored, all at once.

    `ignored` gives the values under which an attribute says nothing; `...` is any value.
    """
    known = set(handled)
    odd = [
        f"{shown(name)[1:-1]} {shown(value)}"
        for name, value in config.items()
        if name not in known
        and not (name in ignored and (ignored[name] is ... or value in ignored[name]))
    ]
    if len(odd) > MOST_SHOWN:
        odd[MOST_SHOWN:] = [f"and {len(odd) - MOST_SHOWN} more"]
    if odd:
        raise ValueError(
            f"{where} has attributes that may change the function and that no rule reads: "
            f"{', '.join(odd)}; if they do not, delete them from the file and convert again"
        )


def needed(config: Json | None, names: Iterable[str], *, where: str) -> Json:
    """A config with all of `names`; raises `ValueError` naming all that are missing."""
    if config is None:
        raise Unsaid(
            f"{where} has no config.json beside it: give model='B/16', the name of a variant, or "
            "model='config.json', the path of a config"
        )
    lacking = [name for name in names if name not in config]
    if lacking:
        raise ValueError(f"the config.json of {where} lacks {', '.join(lacking)}")
    return config


def inferred(rules: list[Rule], given: Given, *, where: str) -> Json:
    """The fields of `ViTConfig` that shapes say: all but heads, activation, epsilon and pooling."""
    found = given.shapes
    shapes = our_shapes(lines(rules, depth_of(found)), found)
    return fields_of(shapes, where=where, sizes=given.sizes)


def depth_of(names: Iterable[str]) -> int:
    """One more than the largest number in any name: an upper bound of the depth."""
    numbers = [int(n) for name in names for n in re.findall(r"\d+", name) if len(n) < 4]
    return 1 + max(numbers, default=0)


def fields_of(
    shapes: Shapes,
    *,
    where: str,
    sizes: Sequence[tuple[int, int]] = (),
    class_token_position: bool = True,
) -> Json:
    """The fields of `ViTConfig` that our names and shapes say.

    The image has the first of `sizes` that has as many patches as there are positions. Without one
    it is taken to be square if a variant has that size; else raises `Unsaid`.
    """
    lacking = [n for n in ("patch_embed.proj.weight", "blocks.0.mlp.fc2.weight") if n not in shapes]
    if lacking:
        raise ValueError(f"{where} has nothing that becomes {' or '.join(lacking)}")
    width, channels, *patch = shapes["patch_embed.proj.weight"]
    blocks = [int(n.split(".")[1]) for n in shapes if n.startswith("blocks.")]
    fields: Json = {
        "width": width,
        "in_channels": channels,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "depth": 1 + max(blocks),
        "mlp_width": shapes["blocks.0.mlp.fc2.weight"][1],
        "mlp": _mlp(shapes),
        "patch_bias": "patch_embed.proj.bias" in shapes,
        "pre_norm": "norm_pre.weight" in shapes,
        "distillation_token": "dist_token" in shapes,
        "head_bias": "head.weight" not in shapes or "head.bias" in shapes,
        "num_classes": shapes["head.weight"][0] if "head.weight" in shapes else 0,
        "class_token": "cls_token" in shapes,
        "num_registers": shapes["reg_token"][1] if "reg_token" in shapes else 0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "layer_scale": LAYER_SCALE if "blocks.0.ls1.gamma" in shapes else None,
        "fc_norm": "fc_norm.weight" in shapes,
    }
    if fields["mlp"] != "mlp":
        fields["activation"] = "silu"
    if "pre_logits.fc.weight" in shapes:
        fields["representation_size"] = shapes["pre_logits.fc.weight"][0]
    if fields["qk_norm"]:
        fields["num_heads"] = width // shapes["blocks.0.attn.q_norm.weight"][0]
    if "attn_pool.latent" in shapes:
        fields["pool"] = "map"
    else:
        fields["pool"] = "token" if fields["class_token"] and not fields["fc_norm"] else "mean"
    own = fields["class_token"] and class_token_position
    fields |= _positions(shapes, fields, sizes, where, token=own)
    return fields if class_token_position else fields | {"class_token_position": False}


def head_and_image(table: Iterable[Line], given: Given, config: ViTConfig) -> Json:
    """What tensors say of the head and of the image, whose patches are those of `config`."""
    names = ("cls_token", "dist_token", "pos_embed", "head.weight", "head.bias")
    shapes = our_shapes([line for line in table if set(line.ours) & set(names)], given.shapes)
    fields: Json = {"num_classes": shapes.get("head.weight", (0,))[0]}
    if fields["num_classes"]:
        fields["head_bias"] = "head.bias" in shapes
    sizes = [*given.sizes, config.image_shape]
    known = fields | {"patch_size": config.patch_size, "distillation_token": "dist_token" in shapes}
    return fields | _positions(shapes, known, sizes, "the file", token="cls_token" in shapes)


def _mlp(shapes: Shapes) -> str:
    if "blocks.0.mlp.fc1_g.weight" in shapes:
        return "swiglu"
    first = shapes.get("blocks.0.mlp.fc1.weight", (0,))[0]
    return "swiglu_packed" if first == 2 * shapes["blocks.0.mlp.fc2.weight"][1] else "mlp"


def _positions(
    shapes: Shapes, fields: Json, sizes: Sequence[tuple[int, int]], where: str, *, token: bool
) -> Json:
    """Image size and class token's position; `token`: there is one that may have a position."""
    patch = fields["patch_size"]
    p, q = (patch, patch) if isinstance(patch, int) else patch
    if "pos_embed" not in shapes:
        return {"image_size": side_or_pair(sizes[0])} if sizes else {}
    rows = shapes["pos_embed"][1] - fields["distillation_token"]
    for height, width in sizes:
        patches = (height // p) * (width // q)
        if patches == rows or (token and patches + 1 == rows):
            own = patches != rows
            return {"image_size": side_or_pair((height, width)), "class_token_position": own}
    own = token and math.isqrt(rows) ** 2 != rows
    patches = rows - own
    if patches < 1:
        raise ValueError(f"{where} has {shapes['pos_embed'][1]} positions, none of them a patch's")
    side = math.isqrt(patches)
    if side * side != patches or side * p != side * q or side * p not in usual_sides():
        raise Unsaid(_which_grid(patches, (p, q), where), fields)
    return {"image_size": side * p, "class_token_position": own or not token}


@cache
def usual_sides() -> set[int]:
    """Sides of the square images of all variants."""
    return {get(name).image_shape[0] for name in variants()}


def _which_grid(patches: int, patch: tuple[int, int], where: str) -> str:
    """Asks for the image size, which a number of patches does not say."""
    p, q = patch
    rows = [n for n in range(math.isqrt(patches), 0, -1) if patches % n == 0]  # the squarest first
    grids = dict.fromkeys(grid for n in rows for grid in ((n, patches // n), (patches // n, n)))
    sizes = [(n * p, m * q) for n, m in grids]
    shown = ", ".join(f"{h} x {w}" for h, w in sizes[:MOST_SHOWN])
    more = f" or {len(sizes) - MOST_SHOWN} others" if len(sizes) > MOST_SHOWN else ""
    return (
        f"{where} has the positions of {patches} patches of {p} x {q} pixels, which are those of "
        f"an image of {shown}{more}, and nothing says which: give its height and width, such as "
        f"image_size={sizes[0]}"
    )


def side_or_pair(size: Sequence[int]) -> int | tuple[int, int]:
    """One number for a square."""
    return size[0] if size[0] == size[1] else (size[0], size[1])
