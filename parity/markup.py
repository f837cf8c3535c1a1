"""Pieces of HTML."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from parity.report import Gap
from vit_spec.names import printable


def text(value: object) -> str:
    """Escaped for elements and attributes, and what is not printable as in Python's source."""
    return escape(printable(value, lines=True))


def number(value: float) -> str:
    """As in the terminal, two digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return "0" if value == 0 else f"{value:.1e}"


def code(name: object) -> str:
    return f"<code>{text(name)}</code>"


def listing(lines: Iterable[object]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else '<p class="quiet">None.</p>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs of an escaped name and escaped content."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs)
        + "</dl>"
    )


def where(gap: Gap) -> str:
    return gap.name if gap.step is None else f"{gap.name}, step {gap.step}"


def table(label: str, head: Sequence[tuple[str, str]], rows: str) -> str:
    """A table in a box that scrolls by itself, also by keyboard. Heads: title and class."""
    cells = "".join(f'<th scope="col" class="{style}">{title}</th>' for title, style in head)
    return scrolling(label, f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>")


def scrolling(label: str, content: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{content}</div>'


def outcome(count: int) -> str:
    return f'<span class="bad">{count:,} failed</span>' if count else '<span class="ok">ok</span>'
