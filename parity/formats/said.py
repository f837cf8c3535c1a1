"""What a checkpoint says of itself, and what `model=` says: neither overrules the other."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity import orbax
from parity.containers.files import BrokenFile, broken
from parity.formats.format import RESAMPLED, Format, Given, Json, Unsaid, head_and_image
from parity.formats.table import Line, Rule, lines
from vit_spec import Header, Preprocessing, ViTConfig, checkpoint
from vit_spec.names import plain
from vit_spec.published import published_preprocessing, same_tensors
from vit_spec.strict_json import shown
from vit_spec.variants import full_name, get, get_if_no_path


@dataclass(frozen=True)
class Named:
    """A variant by its name, which speaks of the architecture, not of head and image size."""

    name: str
    config: ViTConfig


Model = Header | ViTConfig | Named | None
"""What `model=` says: the header of a checkpoint, a config alone, a variant, or nothing."""
FOLLOWED = ("num_classes", "head_bias", "image_size")
"""Fields of a variant for which the source has the last word."""
SHOWN = ("num_heads", "activation", "norm_eps", "pool")
"""Fields that change outputs at the native size, and that tensors do not say."""


def model_of(model: ViTConfig | str | os.PathLike[str] | None) -> Model:
    """What `model` says: a path that exists, else a variant's name."""
    if model is None or isinstance(model, ViTConfig):
        return model
    path = Path(model)
    if orbax.is_step(path):
        return orbax.header_of(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise broken(
            path, "it is not a regular file",
            "give the path of a checkpoint or of its config.json, or a variant's name",
        )  # fmt: skip
    if path.exists():
        return checkpoint.read_header(path)
    return named(os.fspath(model))


def named(name: str) -> Named:
    """A variant or alias. Raises `ValueError` that lists the near names for another name."""
    config = get_if_no_path(name)
    return Named(full_name(name), config)


def of_ours(
    path: Path, model: Model, sizes: tuple[tuple[int, int], ...] = ()
) -> tuple[Header, list[str]]:
    """The header of a checkpoint of ours, or `model` of tensors alone; notes as of `settled`."""
    file = checkpoint.weights_file(path)
    if os.path.lexists(path / checkpoint.CONFIG) or "vitwin" in checkpoint.metadata(file):
        header = checkpoint.read_header(path)
        checkpoint.check_embedded(path, header)
        return agreed(header, model, sizes, where=str(path)), []
    if model is None:
        raise Unsaid(
            f"{path} does not say which model it is: give model='B/16', the name of a variant, "
            "or model='config.json', the path of a config"
        )
    if isinstance(model, Header):
        return agreed(model, None, sizes, where=str(path)), []
    if isinstance(model, Named):
        shapes = {name: shape for name, (_, shape) in checkpoint.tensor_shapes(path).items()}
        table = lines([Rule(name, name) for name in shapes], 1)
        config = _followed(model.config, table, Given(shapes=shapes, sizes=sizes), {})
        header = Header(config=config, preprocessing=published_preprocessing(model.name))
        like = f"as in the published {model.name}"
    else:
        header, like = Header(config=model), "as in the original ViT"
    return agreed(header, None, sizes, where=str(path)), [assumed(like, facts_of_images(header))]


def settled(form: Format, given: Given, model: Model, *, where: str) -> tuple[Header, list[str]]:
    """The header of a checkpoint of others, and a note of what it does not say itself.

    Raises `Unsaid` if neither it nor `model` says which model it is, and `ValueError` with all
    fields in which they contradict each other.
    """
    header, notes = _settled(form, given, model, where=where)
    if form.other_sizes and header.config.pos_embed == "learned" and not isinstance(model, Header):
        notes.append(f"outputs at other image sizes differ from the original's: {form.other_sizes}")
    return agreed(header, None, given.sizes, where=where), notes


def _settled(form: Format, given: Given, model: Model, *, where: str) -> tuple[Header, list[str]]:
    try:
        said = _own(form, given, where=where)
        told = said.config.to_dict()
    except Unsaid as error:
        if model is None:
            raise
        said, told = None, error.told
    untold, images = set(form.untold(given)), form.images(given)
    if model is None and said is not None:
        return said, _assumed(form, said, untold, images)
    labels, usual = (said.labels, said.preprocessing) if said else (None, form.usual)
    if isinstance(model, Named) and form.variants:
        usual = published_preprocessing(model.name)
    told = {name: value for name, value in told.items() if name not in untold}
    config = _agreeing(model, told, images, labels, where=where)
    if isinstance(model, Named):
        heads = (config.replace(num_classes=count) for count in (0, 1))  # names depend on it
        table = [line for each in heads for line in lines(form.table(each), config.depth)]
        config = _followed(config, table, given, told)
    own = model if isinstance(model, Header) else None
    header = Header(
        config=config,
        preprocessing=own.preprocessing if own else images or usual,
        labels=(own.labels if own else None) or labels,
    )
    notes = _taken(form, said.config, header.config, untold) if said else []
    if images is None and not isinstance(model, Header):
        name = model.name if isinstance(model, Named) and form.variants else ""
        notes += _assumed(form, header, set(), None, name)
    return header, notes


def _own(form: Format, given: Given, *, where: str) -> Header:
    """What a checkpoint says of itself. Raises `ValueError` and `Unsaid` naming it."""
    if empty := [name for name, shape in given.shapes.items() if 0 in shape]:
        raise ValueError(
            f"{where} ({form.name}): {shown(empty[0])} has shape {given.shapes[empty[0]]}, and no "
            "tensor of a model is empty; convert or download it again"
        )
    try:
        return form.config_from(given)
    except BrokenFile:
        raise
    except Unsaid as error:
        raise Unsaid(f"{where}: {error}", error.told) from error
    except ValueError as error:
        raise ValueError(f"{where} ({form.name}): {error}") from error
    except KeyError as error:
        raise ValueError(
            f"{where} is not of the format {form.name}: it has no {plain(error.args[0])}, which "
            "says a size; say which format it has"
        ) from error
    except (LookupError, ArithmeticError) as error:  # a tensor without the axis that says a size
        raise ValueError(
            f"{where} is not of the format {form.name}: a tensor that says a size has other axes; "
            "say which format it has"
        ) from error


def agreed(
    own: Header, model: Model, sizes: tuple[tuple[int, int], ...] = (), *, where: str
) -> Header:
    """The header of a checkpoint. Raises `ValueError` if `model` or `sizes` contradict it."""
    if model is not None:
        _agreeing(model, own.config.to_dict(), own.preprocessing, own.labels, where=where)
    if odd := [size for size in sizes if size != own.config.image_shape]:
        raise ValueError(
            f"{where} is of images of {own.config.image_size!r}, which image_size={odd[0]!r} is "
            "not: leave it out, or give the one that its positions are of"
        )
    return own


def differing(config: ViTConfig, told: Json) -> dict[str, tuple[Any, Any]]:
    """The fields that say something and have another value in `told`: both values."""
    silent = set()
    if not config.class_token or config.pos_embed != "learned":
        silent.add("class_token_position")
    if not config.num_classes:
        silent.add("head_bias")
    if config.pos_embed != "learned":
        silent |= set(RESAMPLED)
    return {
        name: (value, told[name])
        for name, value in config.to_dict().items()
        if name in told and name not in silent and not _same(value, told[name])
    }


def differing_images(
    one: Preprocessing, other: Preprocessing, *, within: float = 0.005
) -> dict[str, tuple[Any, Any]]:
    """The facts of images that have another value: both values. Crops are whole pixels."""
    ours, given = one.to_dict(), other.to_dict()
    return {
        name: (value, theirs)
        for name in dict.fromkeys([*ours, *given])
        for value, theirs in [(ours.get(name), given.get(name))]
        if value != theirs
        and not (
            isinstance(value, float)
            and isinstance(theirs, float)
            and math.isclose(value, theirs, abs_tol=within)
        )
    }


def assumed(like: str, parts: list[str]) -> str:
    """The note of what was taken for granted."""
    found = ", ".join(parts)
    return f"the source does not say, and assumed {like}: {found}; if not, give model='config.json'"


def facts_of_images(header: Header) -> list[str]:
    """Mean, std and crop as words of a note."""
    p = header.preprocessing
    return [f"mean {list(p.mean)}", f"std {list(p.std)}", f"crop_fraction {p.crop_fraction:g}"]


def _agreeing(
    model: Model,
    told: Json,
    images: Preprocessing | None,
    labels: tuple[str, ...] | None,
    *,
    where: str,
) -> ViTConfig:
    """The config of `model`. Raises `ValueError` for all that a checkpoint says otherwise."""
    config = model if isinstance(model, ViTConfig | None) else model.config
    if config is None:
        raise TypeError("there is no model to compare with")
    own = set(FOLLOWED) if isinstance(model, Named) else set()
    odd = differing(config, {name: value for name, value in told.items() if name not in own})
    if isinstance(model, Header):
        if images:
            pixel = 1 / min(config.image_shape)
            images = Header(config=config, preprocessing=images).preprocessing
            odd |= differing_images(model.preprocessing, images, within=pixel)
        if model.labels and labels and model.labels != labels:
            odd["labels"] = (list(model.labels), list(labels))
    if odd:
        both = "; ".join(f"{name} {own!r}, given {value!r}" for name, (value, own) in odd.items())
        raise ValueError(
            f"{where} says of itself otherwise than the model given: {both}. Give no model, or one "
            "that says the same"
        )
    return config


def _followed(config: ViTConfig, table: Iterable[Line], given: Given, told: Json) -> ViTConfig:
    """A variant with the head and the image size that the source says, or that its tensors show."""
    seen = told
    if not told.keys() >= set(FOLLOWED):
        try:
            seen = head_and_image(table, given, config) | told
        except Unsaid:
            raise
        except (ValueError, IndexError):  # of another model: listed later
            pass
    return config.replace(**{name: seen[name] for name in FOLLOWED if name in seen})


def _assumed(
    form: Format,
    header: Header,
    untold: set[str],
    images: Preprocessing | None,
    name: str = "",
) -> list[str]:
    """The note of what was taken for granted, if there is any; `name` is the variant given."""
    parts = [f"{field} {getattr(header.config, field)!r}" for field in SHOWN if field in untold]
    if images is None:
        parts += facts_of_images(header)
    if not parts:
        return []
    like = name or form.model(header.config)
    text = assumed(f"as in the published {like}" if like else f"as usual in {form.name}", parts)
    others = _others(header) if form.variants and not name and images is None else []
    return [text + "".join(others)]


def _others(header: Header) -> list[str]:
    """Published models with tensors of the same names and shapes, and how they differ."""
    found: dict[tuple[str, ...], str] = {}
    names = same_tensors(header.config)
    names.sort(key=lambda name: get(name).image_shape != header.config.image_shape)
    for name in names:
        config, images = get(name), published_preprocessing(name)
        parts = [
            f"{field} {getattr(config, field)!r}"
            for field in SHOWN
            if getattr(config, field) != getattr(header.config, field)
        ]
        parts += [
            f"{field} {list(getattr(images, field))}"
            for field in ("mean", "std")
            if getattr(images, field) != getattr(header.preprocessing, field)
        ]
        if parts:
            found.setdefault(tuple(parts), name)
    return [
        f"; {name} has the same tensors and {', '.join(parts)}: if it is that, give model={name!r}"
        for parts, name in found.items()
    ]


def _taken(form: Format, usual: ViTConfig, config: ViTConfig, untold: set[str]) -> list[str]:
    """The note of what `model=` says otherwise than is usual."""
    odd = differing(config, usual.to_dict())
    parts = [f"{name} {a!r}, not {b!r}" for name, (a, b) in odd.items() if name in untold]
    if not parts:
        return []
    return [f"taken from the model given, otherwise than usual in {form.name}: {'; '.join(parts)}"]


def _same(one: Any, other: Any) -> bool:
    """Equal, where a side stands for a square."""
    square = [[v, v] if isinstance(v, int) else v for v in (one, other)]
    plain = [list(v) if isinstance(v, tuple) else v for v in square]
    return plain[0] == plain[1]
