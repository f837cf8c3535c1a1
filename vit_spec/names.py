"""Messages about names that do not exist: they list the near ones."""

import difflib
from collections.abc import Iterable, Sequence

from vit_spec.strict_json import shown

LONGEST = 100  # characters of a name that are compared
MOST = 6


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown KIND 'NAME'`, with the nearest of `known`, or if none is near all, up to a dozen."""
    known = list(known)
    given = str(name)[:LONGEST]
    near = [k for k in known if k.casefold() == given.casefold()]
    near = dict.fromkeys([*near, *difflib.get_close_matches(given, known, n=4, cutoff=0.5)])
    some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {some}"
    return f"unknown {kind} {shown(name)}: {hint}"


def unknown_names(kind: str, names: Sequence[str], known: Iterable[str]) -> str:
    """The same of several names, of which the first few are shown."""
    known = list(known)
    more = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
    return "; ".join([*(unknown_name(kind, name, known) for name in names[:MOST]), *more])
