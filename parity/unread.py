"""Why a file is not read as one of the formats, and what to do."""

import contextlib
from collections.abc import Collection
from pathlib import Path
from textwrap import shorten
from typing import Any

from parity.choice import Subtree
from parity.formats import FOREIGN, Format, Given
from vit_spec.names import plain
from vit_spec.strict_json import shown

REASON = 120  # characters of why a checkpoint is not of a format


def unknown(path: Path, given: Given, near: list[Subtree]) -> str:
    """Why the format of a file is not known, and what to do."""
    if near:
        names = list(dict.fromkeys(name for found in near for name in found.formats))
        ways = " or ".join(f"source={name!r}" for name in names)
        return (
            f"{path} has the names of {' or '.join(names)} and does not say so (no config.json "
            f"beside it does): give {ways}, and which model it is, such as model='B/16'"
        )
    kind = (given.config or {}).get("model_type")
    said = f", and its config.json says model_type {shown(kind)}" if kind else ""
    return (
        f"{path} has no known format (its tensors are {some(given)}{said}): `parity inspect` "
        f"lists them; if one of these formats has such names, say what is before them, such as "
        f"prefix='module.': {', '.join(FOREIGN)}"
    )


def apart(formats: Collection[str], given: Given) -> str:
    """How the models differ that tensors alone are taken for, format by format."""
    read: dict[str, dict[str, Any]] = {}
    for name in formats:
        with contextlib.suppress(ValueError, LookupError):
            header = FOREIGN[name].config_from(given)
            images = header.preprocessing.to_dict()
            read[name] = header.config.to_dict() | {k: images[k] for k in ("mean", "std")}
    if len(read) < 2:
        return ""
    differing = [
        field for field in next(iter(read.values()))
        if any(fields[field] != next(iter(read.values()))[field] for fields in read.values())
    ]  # fmt: skip
    texts = [
        f"{name} has {', '.join(f'{field} {fields[field]!r}' for field in differing)}"
        for name, fields in read.items()
    ]
    return f"; they differ: {'; '.join(texts)}" if differing else "; they differ in nothing"


def some(given: Given) -> str:
    """A few names of tensors."""
    return ", ".join(map(plain, list(given.shapes)[:3])) + ", ..."


def others(form: Format, given: Given) -> str:
    """Which other formats a checkpoint with some names of a format may be of."""
    found = [name for name, other in FOREIGN.items() if other is not form and other.matches(given)]
    ways = " or ".join(f"source={name!r}" for name in found)
    return f"\nIf it is not of {form.name}, give {ways}" if found else ""


def unlike(path: Path, form: Format, given: Given, error: Exception, *, ours: bool) -> str:
    """What a checkpoint looks like that was said to be of another format."""
    found = [name for name, other in FOREIGN.items() if other.matches(given)]
    found = ["vitwin"] if ours else found
    like = f"but like {' or '.join(found)} in {given.kind}"
    way = f"give {' or '.join(f'source={name!r}' for name in found)}"
    if not found:
        like = f"nor like another known format in {given.kind}"
        way = (
            f"its first tensors are {shown(list(given.shapes)[:3])}; `parity inspect` lists all; "
            "say a format that has such names (docs/formats.md), and what is before them, such as "
            "prefix='module.'"
        )
    why = f"{error}".removeprefix(f"{path}").removeprefix(f" ({form.name})").lstrip(": ")
    return (
        f"{path} does not look like {form.name} {like}: {way}; "
        f"as {form.name}: {shorten(why, REASON, placeholder='...')}"
    )
