"""What an attribute of a JSON file beside the weights may be: rules by name, checked all at once.

A value of `null` says nothing, as in the libraries that write these files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.containers.files import BrokenFile
from vit_spec.strict_json import is_number, shown

Json = dict[str, Any]
MOST, LONGEST, CHANNELS, SHOWN = 2**31, 1000, 1024, 6


@dataclass(frozen=True)
class Kind:
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < MOST


def _sides(value: Any, counts: tuple[int, ...] = (2,)) -> bool:
    return isinstance(value, list) and len(value) in counts and all(map(_whole, value))


def _size(value: Any) -> bool:
    if not isinstance(value, dict):
        return _whole(value) or _sides(value, (1, 2))
    known = {"height", "width"} if "height" in value else {"shortest_edge"}
    return value.keys() == known and all(map(_whole, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _names(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(key.isascii() and key.isdigit() and len(key) < 8 for key in value)
        and all(map(_is_text, value.values()))
    )


def _number(least: float, most: float, *, ends: bool = False) -> Callable[[Any], bool]:
    return lambda v: is_number(v) and (least <= v <= most if ends else least < v < most)


WHOLE = Kind("a whole number from 1, below 2**31", _whole)
COUNT = Kind("a whole number from 0, below 2**31", lambda v: _whole(v, 0))
SIDES = Kind("a whole number from 1 or a list of two", lambda v: _whole(v) or _sides(v))
SIZE = Kind(
    "a whole number from 1, a list of two, or an object of height and width, or of shortest_edge",
    _size,
)
IMAGE = Kind("a list of three whole numbers from 1", lambda v: _sides(v, (3,)))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
NUMBER = Kind("a finite number", is_number)
RATIO = Kind("a number above 0, up to 1000", _number(0, 1001))
EPSILON = Kind("a number between 0 and 1", _number(0, 1))
RATE = Kind("a number from 0 to 1", _number(0, 1, ends=True))
SHARE = Kind("a number above 0, up to 1", lambda v: is_number(v) and 0 < v <= 1)
NUMBERS = Kind(
    "a list of finite numbers, one a channel",
    lambda v: isinstance(v, list) and 0 < len(v) <= CHANNELS and all(map(is_number, v)),
)
TEXT = Kind(f"a text of up to {LONGEST} characters", _is_text)
TEXTS = Kind("a list of texts", lambda v: isinstance(v, list) and all(map(_is_text, v)))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))
NAMES = Kind("an object from the numbers of classes to their names", _names)


def one_of(choices: Mapping[Any, Any] | tuple[Any, ...]) -> Kind:
    """A text or a number among a few."""
    words = ", ".join(map(str, choices))
    return Kind(
        f"one of {words}",
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and v in choices,
    )


def checked(content: Any, kinds: Mapping[str, Kind], *, where: Path | str) -> Json:
    """What the object says: without `null`. Raises `BrokenFile` naming all wrong attributes."""
    if not isinstance(content, dict):
        raise BrokenFile(f"{where}: {shown(content)} is not an object; correct the file")
    said = {name: value for name, value in content.items() if value is not None}
    wrong = [
        f"{name} {shown(said[name])} must be {kind.words}"
        for name, kind in kinds.items()
        if name in said and not kind.holds(said[name])
    ]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BrokenFile(f"{where}: {'; '.join(wrong[:SHOWN])}{more}; correct the file")
    return said
