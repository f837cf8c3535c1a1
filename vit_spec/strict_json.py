"""JSON from files of anyone: one object, its size bounded before it is parsed."""

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

LIMIT = 16_000_000
"""Bytes of a text. A safetensors header of 50,000 tensors has about 6 million."""
VALUES = 600_000


def loads(text: bytes | str, *, limit: int = LIMIT) -> dict[str, Any]:
    """The object, whose keys are unique and whose numbers are finite.

    Raises `ValueError` whose message goes on after the text's name: `is not JSON (...)`.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > limit:
        raise ValueError(f"has {len(raw)} bytes, more than the {limit} allowed")
    if (marks := sum(map(raw.count, (b",", b"[", b"{")))) > VALUES:
        raise ValueError(f"has about {marks} values, more than the {VALUES} allowed")
    try:
        found = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_constant, parse_float=_number
        )
    except _Refused as error:
        raise ValueError(str(error)) from None
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not JSON ({str(error)[:120]})") from error
    if b"\\u" in raw and not all(map(_is_text, _texts(found))):
        raise ValueError("is not JSON (half of a surrogate pair is no character)")
    if not isinstance(found, dict):
        raise ValueError(f"is {type(found).__name__}, not a JSON object")
    return found


def shown(value: Any) -> str:
    """What a message says of a value from a file: printable and short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of float32, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3.4e38


class _Refused(ValueError):
    """A message that is complete."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"has the key {shown(twice)} twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{shown(text)} is too large for a number")
    return value


def _texts(node: Any) -> Iterator[str]:
    """All texts in a value."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list):
            waiting += node


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
