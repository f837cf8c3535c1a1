"""Which tensors of a file are taken for the model: what is said of it, and what was found."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vit_spec.strict_json import shown


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where the model is in a file. What is not said is found.

    Attributes:
        entry: the keys of the dicts that it is in, joined by dots, or the first of them.
        prefix: what all its names begin with, below that entry.
        leave_out: patterns of names, with `*`, that are not part of it: of whole names, or of what
            follows entry and prefix.
    """

    entry: str | None = None
    prefix: str | None = None
    leave_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: str | None, prefix: str | None, leave_out: str | Iterable[str]) -> "Choice":
        """The one that arguments of a function or a command say."""
        patterns = (leave_out,) if isinstance(leave_out, str) else tuple(leave_out)
        return cls(entry=entry, prefix=prefix, leave_out=patterns)

    def to_dict(self) -> dict[str, Any]:
        """For a certificate: only what is said."""
        said: dict[str, Any] = {"entry": self.entry, "prefix": self.prefix}
        said["leave_out"] = list(self.leave_out) or None
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "Choice":
        """The way back."""
        return cls(**{**said, "leave_out": tuple(said.get("leave_out", ()))})


ANY = Choice()
PART = re.compile(r"(.+):([A-Za-z_][\w/.-]*)")


def parted(path: str | os.PathLike[str], choice: Choice) -> tuple[str, Choice]:
    """`FILE:PART`, as big_vision writes it, is `FILE` with `PART` for a prefix.

    Raises `ValueError` for a prefix beside it.
    """
    address = os.fspath(path)
    found = PART.fullmatch(address)
    if found is None or os.path.lexists(address):
        return address, choice
    if not (found[1].startswith("hf://") or os.path.lexists(found[1])):
        return address, choice
    if choice.prefix is not None:
        raise ValueError(f"{address} and prefix={choice.prefix!r} both say a part: give one")
    return found[1], replace(choice, prefix=found[2])


@dataclass(frozen=True, kw_only=True)
class Subtree:
    """Some tensors of a file: `names` are those after entry and prefix, to the file's own."""

    entry: str = ""
    prefix: str = ""
    names: Mapping[str, str]
    around: tuple[str, ...] = field(default=(), repr=False)  # names of the other tensors
    own: bool = True  # whether the format itself has such a prefix, or there is none
    formats: tuple[str, ...] = ()  # which it may be
    reason: str = ""  # why this one of several
    rivals: tuple["Subtree", ...] = field(default=(), repr=False)  # other sets of weights

    @property
    def path(self) -> str:
        """What is before the names."""
        return f"{self.entry}.{self.prefix}" if self.entry else self.prefix

    @property
    def called(self) -> str:
        """What to call it in a message."""
        return shown(self.path.rstrip("./")) if self.path else "the names without a prefix"

    @property
    def option(self) -> str:
        """What to type to take it."""
        if not self.entry:
            return f"prefix={self.prefix!r}"
        return f"entry={self.entry!r}" + (f" prefix={self.prefix!r}" if self.prefix else "")

    def notes(self) -> list[str]:
        """Where the weights were found, if that is not the whole file."""
        if self.own and not self.rivals:
            return []
        text = f"the weights are those of {self.called}"
        if self.rivals:
            others = "; ".join(f"{other.option} takes {other.called}" for other in self.rivals)
            text += f", {self.reason}; {others}"
        return [text]

    def choice(self, asked: Choice) -> Choice:
        """The choice that finds the same again."""
        if self.own and not self.rivals and asked == ANY:
            return ANY
        entry = self.entry or None
        return Choice(entry=entry, prefix=self.prefix, leave_out=asked.leave_out)
