"""What a format keeps of a header: what it says when it is read back, field by field."""

import math

from parity.formats.format import Format, Given, Unsaid
from parity.formats.table import their_shapes
from vit_spec import Header, ViTConfig, parameters

SOFT = {  # fields that do not change outputs at the native size in evaluation
    "dropout": "in training",
    "drop_path": "in training",
    "layer_scale": "in a new model",
    "pos_embed_antialias": "at other image sizes",
    "pos_embed_offset": "at other image sizes",
    "pos_embed_interpolation": "at other image sizes",
    "class_token_position": "in the tensors alone: the token takes its position along",
}


def lost(header: Header, form: Format) -> list[str]:
    """What is not the same for who reads the target, where its outputs are.

    Raises `ValueError` with all reasons if the target cannot hold the model.
    """
    config = header.config
    if reasons := form.expresses(config):
        raise ValueError(f"{form.name} cannot hold this model: {'; '.join(reasons)}")
    try:
        again = said(header, form)
    except Unsaid as error:
        return [f"to read it back say which model it is: {error}"]
    changes = _changes(config, again.config)
    if hard := [text for name, text in changes.items() if name not in SOFT]:
        raise ValueError(f"{form.name} cannot hold this model: {'; '.join(hard)}")
    remarks = [f"{text} ({SOFT[name]})" for name, text in changes.items()]
    remarks += _preprocessing(header, again)
    if header.labels is not None and again.labels != header.labels:
        remarks.append(f"the names of the {len(header.labels)} classes are not kept")
    return remarks


def said(header: Header, form: Format) -> Header:
    """The header that the target says by itself. Raises `Unsaid` if it does not say its model."""
    files = form.config_to(header)
    given = Given(
        shapes=their_shapes(form.rules(header.config), parameters(header.config)),
        kind=form.kind,
        config=files.get("config.json"),
        files=files,
    )
    return form.config_from(given)


def _changes(config: ViTConfig, again: ViTConfig) -> dict[str, str]:
    """The fields that say something and read back otherwise."""
    silent = set()
    if not config.class_token or config.pos_embed != "learned":
        silent.add("class_token_position")
    if not config.num_classes:
        silent.add("head_bias")
    if config.pos_embed != "learned":
        silent |= {name for name in SOFT if name.startswith("pos_embed_")}
    silent |= {
        name for name in ("image_size", "patch_size")
        if _pair(getattr(config, name)) == _pair(getattr(again, name))
    }  # fmt: skip
    after = again.to_dict()
    return {
        name: f"{name} {value!r} reads back as {other!r}"
        for name, value in config.to_dict().items()
        if (other := after[name]) != value and name not in silent
    }


def _preprocessing(header: Header, again: Header) -> list[str]:
    """The facts of images that the format has no place for."""
    ours, theirs = header.preprocessing.to_dict(), again.preprocessing.to_dict()
    found = []
    for name, value in ours.items():
        other = theirs[name]
        if isinstance(value, float) and math.isclose(value, other, abs_tol=0.005):
            continue  # crops are whole pixels
        if value != other:
            found.append(f"preprocessing: {name} {value!r} reads back as {other!r}")
    return found


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
