"""Names and texts from files in messages; of names that do not exist, the near ones."""

import difflib
from collections.abc import Iterable, Sequence

from vit_spec.strict_json import shown

LONG = 200  # characters of a name that are shown
LONGEST = 100  # characters of a name that are compared
MOST = 6


def printable(text: object, *, lines: bool = False) -> str:
    """A text from anywhere as a terminal may have it: all but printable characters are escaped.

    So it moves no cursor, hides nothing, and reads from left to right. `lines` keeps line breaks,
    for messages that have several.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in whole)


def plain(name: object) -> str:
    """A name from a file as a message has it: printable, and short."""
    text = printable(name)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown KIND 'NAME'`, with the nearest of `known`, or if none is near all, up to a dozen."""
    known = list(known)
    given = str(name)[:LONGEST]
    near = [k for k in known if k.casefold() == given.casefold()]
    near = dict.fromkeys([*near, *difflib.get_close_matches(given, known, n=4, cutoff=0.5)])
    some = ", ".join(map(plain, known[:12])) + (", ..." if len(known) > 12 else "")
    hint = f"did you mean {', '.join(map(plain, near))}?" if near else f"known are {some}"
    return f"unknown {kind} {shown(name)}: {hint}"


def unknown_names(kind: str, names: Sequence[str], known: Iterable[str]) -> str:
    """The same of several names, of which the first few are shown."""
    known = list(known)
    more = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
    return "; ".join([*(unknown_name(kind, name, known) for name in names[:MOST]), *more])
