"""Counted nouns for messages."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`, `1,437 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
