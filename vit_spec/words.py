"""Counted nouns and long lists for messages."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`, `1,437 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(texts: Sequence[str], most: int = 3) -> str:
    """The first of many texts: `a, b, c and 1,434 more`."""
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
