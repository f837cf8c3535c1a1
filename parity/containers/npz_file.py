"""NumPy's .npz: a zip archive of arrays; stored ones are mapped, deflated ones inflated."""

import re
import zipfile
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO

import numpy as np

from parity.containers.container import FileContainer, left_out
from parity.containers.files import File, frozen
from parity.containers.info import Info
from parity.containers.npy_header import MOST, Head, head, read_head
from parity.containers.values import Values
from parity.containers.zip_directory import STORED, Member, inflated, members, start_of
from parity.containers.zip_writing import aligned
from vit_spec.strict_json import shown

SUFFIX = ".npy"


class NpzFile(FileContainer):
    """A .npz archive. Raises `BrokenFile`."""

    kind = "npz"

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self._places: dict[str, tuple[Member, Head]] = {}
        self._checked: set[str] = set()
        others = []
        for member in members(file):
            if is_unsafe(member.name):
                raise file.broken(
                    f"the member name {shown(member.name)} leads out of the archive",
                    "do not use it; ask its author for another copy",
                )
            if not member.name.endswith(SUFFIX):
                others.append(member.name)
                continue
            name = member.name.removesuffix(SUFFIX)
            found = read_head(file, name, start_of(file, member, MOST), member.size)
            self.tensors[name] = found.info
            self._places[name] = member, found
        self.metadata = left_out(others)

    def _read(self, name: str) -> np.ndarray:
        member, found = self._places[name]
        info, shape = found.info, found.info.shape
        if found.fortran:
            info = Info(info.dtype, shape[::-1], info.nbytes)
        if member.method == STORED and name not in self._checked:
            what = f"the member {shown(member.name)}"
            self._file.check_crc(member.offset, member.compressed, member.crc, what)
            self._checked.add(name)
        if member.method == STORED and found.stored.isnative:
            array = self._file.array(info, member.offset + found.length)
        else:
            array = self._inflated(info, member, found)
        return array.T if found.fortran else array

    def _inflated(self, info: Info, member: Member, found: Head) -> np.ndarray:
        flat, position = np.empty(info.nbytes, np.uint8), -found.length
        for piece in inflated(self._file, member):
            fresh = piece[max(0, -position) :]
            at = max(0, position)
            flat[at : at + len(fresh)] = np.frombuffer(fresh, np.uint8)
            position += len(piece)
        array = flat.view(found.stored).reshape(info.shape)
        self._file.check_values(array)
        return frozen(array if found.stored.isnative else array.astype(found.stored.newbyteorder()))


def is_unsafe(name: str) -> bool:
    """Whether a member name would lead out of the folder that it were unpacked in."""
    return (
        name.startswith("/") or "\\" in name or ".." in name.split("/")
        or re.match(r"[A-Za-z]:", name) is not None
    )  # fmt: skip


def write_npz(out: BinaryIO, tensors: Mapping[str, Info], values: Values) -> None:
    """A .npz of stored members, aligned for mapping. Raises `ValueError` for unsafe names."""
    for name in tensors:
        if not name or is_unsafe(name + SUFFIX) or "\0" in name:
            raise ValueError(
                f"{name!r} cannot be the name of a member of .npz: rename it, without '..', "
                "backslash and a leading slash or drive"
            )
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive,
        values.stream(tensors) as pieces,
    ):
        for name, parts in groupby(pieces, itemgetter(0)):
            with aligned(archive, out, name + SUFFIX) as member:
                member.write(head(tensors[name]))
                for _, piece in parts:
                    member.write(piece)
