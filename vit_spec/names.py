"""Messages about names that do not exist: they list the near ones."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown KIND 'NAME'`, with the nearest of `known`, or if none is near all, up to a dozen."""
    known = list(known)
    near = [k for k in known if k.casefold() == str(name).casefold()]
    near = dict.fromkeys([*near, *difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)])
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {shown}"
    return f"unknown {kind} {name!r}: {hint}"
