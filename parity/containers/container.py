"""What every kind of container offers, and the `config.json` beside it."""

import abc
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.files import File, beside
from parity.containers.info import Info
from vit_spec.names import unknown_name

CONFIG = "config.json"


class Container(abc.ABC):
    """An open file or directory of tensors; `metadata` are texts that the file says of itself."""

    kind: str

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, Info] = {}
        self.entries: dict[str, str] = {}  # tensor -> the dicts that it is in, where files nest
        self.beside: dict[str, Any] = {}  # what is no tensor, by name, where it was read
        self.notes: tuple[str, ...] = ()  # what of a folder is taken
        self._closed = False

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The `config.json` beside the file, if there is one. Raises `BrokenFile`."""
        return beside(self.path.with_name(CONFIG))

    def read(self, name: str) -> np.ndarray:
        """The values of a tensor, read only, mapped if the file holds them plainly.

        Raises `KeyError` for an unknown name, `BrokenFile` for damage, `ValueError` after the end.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed: read {name!r} inside the with block")
        if name not in self.tensors:
            raise KeyError(unknown_name("tensor", name, self.tensors))
        return self._read(name)

    def close(self) -> None:
        """Ends reading; tensors that were read stay valid."""
        self._closed = True
        self._close()

    @abc.abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    @abc.abstractmethod
    def _close(self) -> None: ...


class FileContainer(Container):
    """A container of one file. Subclasses fill `tensors` and `_places`."""

    def __init__(self, file: File) -> None:
        super().__init__(file.path)
        self._file = file

    def _close(self) -> None:
        self._file.close()


def left_out(names: list[str]) -> dict[str, str]:
    """The metadata that lists what a file holds beside its tensors."""
    return {"not_tensors": ", ".join(names)} if names else {}
