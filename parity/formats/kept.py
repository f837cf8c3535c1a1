"""What a format keeps of a header: what it says when it is read back, field by field."""

import math
from dataclasses import replace
from typing import Any

from parity.formats.format import Format, Given, Unsaid
from parity.formats.said import differing, differing_images
from parity.formats.table import their_shapes
from vit_spec import Header, parameters

EPS = "norm_eps"
CHANGED: dict[str, tuple[Any, ...]] = {
    "activation": ("gelu", "gelu_tanh", "quick_gelu"), EPS: (1e-6, 1e-5, 1e-12),
}  # fmt: skip
"""Fields of which a format often has one value, and the usual ones."""
SOFT = {  # fields that do not change outputs at the native size in evaluation
    "dropout": "in training",
    "drop_path": "in training",
    "layer_scale": "in a new model",
    "pos_embed_antialias": "at other image sizes",
    "pos_embed_offset": "at other image sizes",
    "pos_embed_interpolation": "at other image sizes",
    "class_token_position": "in the tensors alone: added to the token, or zeros",
}


def lost(header: Header, form: Format) -> list[str]:
    """What is not the same for who reads the target, where its outputs are.

    Raises `ValueError` with all reasons if the target cannot hold the model.
    """
    reasons, remarks, changes, again = _read_back(header, form)
    if reasons:
        raise ValueError(
            f"{form.name} cannot hold this model: {'; '.join(reasons)}{_way(header, form)}"
        )
    remarks += [f"{text} ({SOFT[name]})" for name, text in changes.items()]
    if again is None:
        return remarks
    for name, (value, other) in differing_images(header.preprocessing, again.preprocessing).items():
        remarks.append(f"preprocessing: {name} {value!r} reads back as {other!r}")
    if header.labels is not None and again.labels != header.labels:
        remarks.append(f"the names of the {len(header.labels)} classes are not kept")
    return remarks


def _read_back(
    header: Header, form: Format
) -> tuple[list[str], list[str], dict[str, str], Header | None]:
    """Reasons why a target cannot hold a model, remarks, soft changes, and what is read back."""
    config = header.config
    if reasons := form.expresses(form.held(config)):
        return reasons, [], {}, None
    given = _target(header, form)
    remarks = []
    try:
        again = said(header, form)
        told = again.config.to_dict()
        if _image_of(form, given) != config.image_shape:
            size = config.image_shape
            remarks = [f"its image size is not in the file: to read it back give image_size={size}"]
    except Unsaid as error:
        untold = form.untold(given)
        again, told = None, {n: v for n, v in error.told.items() if n not in untold}
        remarks = [f"to read it back say which model it is: {error}"]
    changes = {
        name: f"{name} {value!r} reads back as {other!r}"
        for name, (value, other) in differing(config, told).items()
    }
    hard = [text for name, text in changes.items() if name not in SOFT]
    return hard, remarks, changes, again


def _way(header: Header, form: Format) -> str:
    """The change that makes a format hold a model, if there is one."""
    found: dict[str, Any] = {}
    for name, values in CHANGED.items():
        value = getattr(header.config, name)
        near = sorted(values, key=lambda new: abs(math.log(new / value)) if name == EPS else 0)
        for new in near:
            try:
                other = replace(header, config=header.config.replace(**{name: new}))
            except ValueError:  # it does not go with the rest
                continue
            if len(_read_back(other, form)[0]) < len(_read_back(header, form)[0]):
                header, found[name] = other, new
                break
    if not found or _read_back(header, form)[0]:
        return ""
    return f"; to change that first, and see how far the outputs move, give change={found!r}"


def said(header: Header, form: Format) -> Header:
    """The header that the target says, with the image size, by itself.

    Raises `Unsaid` if it does not say its model.
    """
    return form.config_from(replace(_target(header, form), sizes=(header.config.image_shape,)))


def _image_of(form: Format, given: Given) -> tuple[int, int] | None:
    """Height and width of the images that a target says by itself, if it does."""
    try:
        return form.config_from(given).config.image_shape
    except Unsaid:
        return None


def _target(header: Header, form: Format) -> Given:
    """All that a target of the format says of itself."""
    held = replace(header, config=form.held(header.config))
    files = form.config_to(held)
    return Given(
        shapes=their_shapes(form.rules(held.config), parameters(held.config)),
        kind=form.kind,
        config=files.get("config.json"),
        files=files,
    )
