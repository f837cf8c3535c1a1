"""Walks a msgpack file without reading its tensors: values, and where the tensors are.

Types of Flax: extension 1 is an array (shape, dtype, bytes), 2 a complex number, 3 a scalar array.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.containers.files import File
from parity.containers.info import MOST_AXES, MOST_TENSORS, Info
from vit_spec.strict_json import shown

DEPTH, NODES, TEXT = 64, 2 * MOST_TENSORS, 1_000_000  # an axis counts as a value
WINDOW = 1 << 16
NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
LENGTHS = {  # of what, and the format of the length
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A tensor's bytes in the file."""

    info: Info
    offset: int


@dataclass(frozen=True)
class Blob:
    """Bytes that are no tensor."""

    count: int


def scan(file: File) -> Any:
    """The value in the file: dict, list, number, text, `None`, `Place` or `Blob`.

    Raises `BrokenFile`.
    """
    walk = _Walk(file)
    found = walk.value(0)
    if walk.position != file.size:
        raise file.broken(f"{file.size - walk.position} bytes follow its end")
    return found


class _Walk:
    """A position in the file that moves over values."""

    def __init__(self, file: File) -> None:
        self._file, self.position, self._end = file, 0, file.size
        self._window, self._window_at, self._nodes = b"", 0, 0

    def value(self, depth: int) -> Any:
        """The next value."""
        self._nodes += 1
        if depth > DEPTH or self._nodes > NODES:
            raise self._file.broken(
                f"it is nested deeper than {DEPTH} or has more than {NODES} values"
            )
        kind, payload = self._next()
        if kind == "plain":
            return payload
        if kind == "map":
            return self._map(payload, depth)
        if kind == "array":
            return [self.value(depth + 1) for _ in range(payload)]
        if kind == "str":
            return self._text(payload)
        if kind == "bin":
            self.position += payload
            return Blob(payload)
        return self._extension(payload)

    def _next(self) -> tuple[str, Any]:
        """What comes next: a plain value, or the length of something, which the file has."""
        code = self._take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return "plain", code if code <= 0x7F else code - 256
        if code in (0xC0, 0xC2, 0xC3):
            return "plain", {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if code in NUMBERS:
            number = struct.Struct(NUMBERS[code])
            return "plain", number.unpack(self._take(number.size))[0]
        if code in LENGTHS:
            kind, form = LENGTHS[code]
            length = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        elif 0xD4 <= code <= 0xD8:
            kind, length = "ext", 1 << (code - 0xD4)
        elif code < 0x90:
            kind, length = "map", code & 0x0F
        elif code < 0xA0:
            kind, length = "array", code & 0x0F
        elif code < 0xC0:
            kind, length = "str", code & 0x1F
        else:
            raise self._file.broken(f"byte {code:#x} at {self.position - 1} is not msgpack")
        least = length * (2 if kind == "map" else 1) + (kind == "ext")
        if least > self._end - self.position:
            raise self._file.broken(
                f"a {kind} of {length} at {self.position} is longer than what follows it"
            )
        return kind, length

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(length):
            kind, payload = self._next()
            if kind == "str":
                key = self._text(payload)
            elif kind == "plain" and type(payload) is int:
                key = str(payload)
            else:
                raise self._file.broken(
                    f"a key at {self.position} is neither text nor an integer", "write it with Flax"
                )
            if key in found:
                raise self._file.broken(f"the key {shown(key)} is there twice")
            found[key] = self.value(depth + 1)
        return found

    def _text(self, length: int) -> str:
        if length > TEXT:
            raise self._file.broken(f"a text of {length} bytes is more than the {TEXT} allowed")
        raw = self._take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._file.broken(f"the text {shown(raw)} is not UTF-8") from error

    def _extension(self, length: int) -> Any:
        (code,) = struct.unpack("b", self._take(1))
        outer, self._end = self._end, self.position + length
        if code in (1, 3):
            found: Any = self._array()
            if code == 3 and found.info.shape:
                raise self._file.broken(f"a scalar has shape {found.info.shape}")
        elif code == 2:
            found = self._complex()
        else:
            raise self._file.broken(f"extension {code} is none of Flax's", "write it with Flax")
        if self.position != self._end:
            raise self._file.broken(f"an extension ends at {self.position}, not {self._end}")
        self._end = outer
        return found

    def _array(self) -> Place:
        if self._next() != ("array", 3):
            raise self._file.broken(f"an array at {self.position} is not shape, dtype and bytes")
        kind, axes = self._next()
        if kind == "array" and axes > MOST_AXES:
            raise self._file.broken(f"an array at {self.position} has {axes:,} axes")
        self._nodes += axes if kind == "array" else 0
        shape = [self._next() for _ in range(axes)] if kind == "array" else []
        if kind != "array" or any(k != "plain" or type(s) is not int for k, s in shape):
            raise self._file.broken(f"an array at {self.position} has no shape of integers")
        kind, length = self._next()
        dtype = self._text(length) if kind in ("str", "bin") else "none"
        kind, length = self._next()
        try:
            info = Info.of(dtype, [size for _, size in shape])
        except ValueError as error:
            raise self._file.broken(f"an array at {self.position}: {error}") from error
        if kind not in ("bin", "str") or length != info.nbytes:
            raise self._file.broken(
                f"an array at {self.position} has {shown(length)} bytes; "
                f"{dtype} {info.shape} needs {info.nbytes}"
            )
        self.position += length
        return Place(info, self.position - length)

    def _complex(self) -> np.complex128:
        parts = [self._next() for _ in range(2)] if self._next() == ("array", 2) else []
        numbers = [v for kind, v in parts if kind == "plain" and type(v) in (int, float)]
        if len(numbers) != 2:
            raise self._file.broken(f"a complex number at {self.position} is not two numbers")
        return np.complex128(complex(*numbers))

    def _take(self, count: int) -> bytes:
        """The next bytes, from a window on the file."""
        if count > self._end - self.position:
            raise self._file.broken(f"it ends inside the value at {self.position}")
        at = self.position - self._window_at
        if at < 0 or at + count > len(self._window):
            size = min(max(count, WINDOW), self._file.size - self.position)
            self._window, self._window_at = self._file.read(self.position, size), self.position
            at = 0
        self.position += count
        return self._window[at : at + count]
