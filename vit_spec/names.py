"""Messages about names that do not exist: they list the near ones."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown KIND 'NAME'`, with the nearest of `known`, or all of them if none is near."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"unknown {kind} {name!r}: {hint}"
