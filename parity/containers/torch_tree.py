"""The tensors and values of nested dicts and lists, as training scripts save them."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from parity.containers.files import broken
from parity.containers.info import MOST_TENSORS
from parity.containers.pickles import PLAIN
from vit_spec.strict_json import shown

DEPTH = 16


@dataclass(frozen=True)
class Leaf:
    """A tensor or a value: `entry` are the keys of the dicts and lists around it, with dots."""

    entry: str
    name: str  # the entry and the last key
    value: Any


def leaves(path: Path, root: Any) -> Iterator[Leaf]:
    """All leaves in the order of the file. Lists without tensors and dicts are leaves themselves.

    Raises `BrokenFile` for dicts in themselves, or too deep or too many to be a training script's,
    and for keys that are no text where there is nothing else.
    """
    return _Walk(path).leaves(root, (), set())


class _Walk:
    def __init__(self, path: Path) -> None:
        self._path, self._counted = path, count()

    def leaves(self, node: Any, above: tuple[str, ...], around: set[int]) -> Iterator[Leaf]:
        if len(above) > DEPTH or id(node) in around:
            raise broken(self._path, f"its dicts are nested deeper than {DEPTH}", PLAIN)
        import torch

        entry = ".".join(above)
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if next(self._counted) >= MOST_TENSORS:  # one dict may be in others many times
                raise broken(self._path, f"its dicts have more than {MOST_TENSORS} entries", PLAIN)
            if not isinstance(key, str | int):
                if isinstance(value, torch.Tensor):
                    raise broken(self._path, f"a dict has the key {shown(key)}, not a text", PLAIN)
                key = shown(key)
            if isinstance(value, argparse.Namespace):
                value = vars(value)
            if isinstance(value, dict | list | tuple) and _nests(value):
                yield from self.leaves(value, (*above, str(key)), around | {id(node)})
            else:
                yield Leaf(entry, f"{entry}.{key}" if entry else str(key), value)


def _nests(value: Any) -> bool:
    """Whether a dict or a list has parts of its own: a list of numbers is one value."""
    import torch

    nested = torch.Tensor | dict | list | tuple
    parts = value if isinstance(value, list | tuple) else ()
    return (isinstance(value, dict) and value != {}) or any(isinstance(p, nested) for p in parts)
