"""The members of a zip archive, from its central directory, each checked against the file.

Stricter than `zipfile`, so that no two readers can see different members: nothing before the first
member, no overlap, no duplicate, no encryption, only stored and deflated data.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from parity.containers.files import PIECE, File
from vit_spec.strict_json import shown

STORED, DEFLATED = 0, 8
MOST_DEFLATED = 1032  # deflate cannot make more of one byte
MOST, DIRECTORY = 10_000, 10_000_000  # members, and bytes of their directory
RATIO, ALLOWANCE = 200, 1 << 28  # what all members together may make of the file
FOLDER = 0x10  # among the attributes
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENTRY = struct.Struct("<4sHHHHHHLLLHHHHHLL")
LOCAL = struct.Struct("<4sHHHHHLLLHH")
END = struct.Struct("<4sHHHHLLH")
LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQHHLLQQQQ")
AGAIN = "write the archive again with numpy.savez or torch.save"


@dataclass(frozen=True)
class Member:
    """A file in the archive; `offset` is where its data starts."""

    name: str
    method: int
    compressed: int
    size: int
    crc: int
    local: int
    offset: int = 0


def members(file: File) -> list[Member]:
    """All members in the order of the directory. Raises `BrokenFile`."""
    start, size, count = _end(file)
    if count > MOST or size > DIRECTORY:
        raise file.broken(
            f"it declares {count} members in a directory of {size} bytes; at most {MOST} in "
            f"{DIRECTORY} are read", "write fewer tensors in one file",
        )  # fmt: skip
    directory = file.read(start, size)
    found, position = [], 0
    while position < size:
        member, position = _entry(file, directory, position)
        found.append(_located(file, member))
        if len(found) > count:
            break
    if len(found) != count:
        more = " or more" if position < size else ""
        raise file.broken(f"it declares {count} members and has {len(found)}{more}")
    _check(file, found, start)
    return found


def start_of(file: File, member: Member, count: int) -> bytes:
    """Up to `count` of its first bytes, without a look at the rest. Raises `BrokenFile`."""
    found = b""
    for piece in _raw(file, member, count):
        found += piece
        if len(found) >= count:
            break
    return found[:count]


def inflated(file: File, member: Member) -> Iterator[bytes]:
    """The data of a member in pieces. Raises `BrokenFile` for other sizes or another checksum."""
    what, size, crc = f"the member {shown(member.name)}", 0, 0
    for piece in _raw(file, member):
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        if size > member.size:
            break
        yield piece
    if size != member.size:
        raise file.broken(f"{what} has not the {member.size} bytes that it declares")
    if crc != member.crc:
        raise file.broken(f"{what} has other bytes than its checksum says")


def _raw(file: File, member: Member, step: int = PIECE) -> Iterator[bytes]:
    if member.method == STORED:
        yield from file.pieces(member.offset, member.compressed, step)
        return
    engine = zlib.decompressobj(-15)
    try:
        for piece in file.pieces(member.offset, member.compressed, step):
            while piece and not engine.eof:
                yield engine.decompress(piece, step)
                piece = engine.unconsumed_tail
        while not engine.eof and (rest := engine.decompress(b"", step)):
            yield rest
    except zlib.error as error:
        raise file.broken(f"the member {shown(member.name)} does not inflate ({error})") from error


def _end(file: File) -> tuple[int, int, int]:
    """Where the directory starts, its bytes, and how many members it lists."""
    tail_at = max(0, file.size - END.size - FULL16)
    tail = file.read(tail_at, file.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise file.broken("it starts like a zip archive and has no directory at its end")
    _, disk, disk_start, here, count, size, start, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail):
        raise file.broken("there is something after the end of its zip archive")
    end = tail_at + at
    locator_at = end - LOCATOR.size
    if locator_at >= 0 and file.read(locator_at, 4) == b"PK\x06\x07":
        _, _, end64, _ = LOCATOR.unpack(file.read(locator_at, LOCATOR.size))
        if end64 + END64.size != locator_at:
            raise file.broken("the two ends of its zip directory do not fit")
        old = (disk, disk_start, here, count, size, start)
        signature, _, _, _, *new = END64.unpack(file.read(end64, END64.size))
        if signature != b"PK\x06\x06" or any(
            a not in (b, FULL16 if i < 4 else FULL32)
            for i, (a, b) in enumerate(zip(old, new, strict=True))
        ):
            raise file.broken("the two ends of its zip directory do not agree")
        (disk, disk_start, here, count, size, start), end = new, end64
    if disk or disk_start or here != count:
        raise file.broken("it is one part of a zip archive in several files", AGAIN)
    if start + size != end:
        raise file.broken(f"its zip directory should be {size} bytes at {start} and ends at {end}")
    return start, size, count


def _entry(file: File, directory: bytes, position: int) -> tuple[Member, int]:
    """The member listed at `position`, and the next position."""
    if position + ENTRY.size > len(directory):
        raise file.broken("its zip directory is cut short")
    fields = ENTRY.unpack_from(directory, position)
    signature, _, needed, flags, method, _, _, crc, compressed, size, *fields = fields
    name_length, extra_length, comment_length, disk, _, attributes, local = fields
    name_at = position + ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(directory):
        raise file.broken("its zip directory is damaged")
    name = _name(file, directory[name_at:extra_at], flags)
    extra = directory[extra_at : extra_at + extra_length]
    size, compressed, local = _large(file, name, extra, (size, compressed, local))
    if flags & 0x2061 or needed > 63 or disk:
        raise file.broken(f"the member {shown(name)} is encrypted or in a new format", AGAIN)
    if attributes & FOLDER and size:
        raise file.broken(f"the member {shown(name)} is a folder with data")
    if method not in (STORED, DEFLATED):
        raise file.broken(
            f"the member {shown(name)} is packed by method {method}; stored and deflated are known",
            AGAIN,
        )
    return Member(name, method, compressed, size, crc, local), end


def _name(file: File, raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError as error:
        raise file.broken(f"the member name {shown(raw)} is not UTF-8") from error
    if not name or "\0" in name:
        raise file.broken(f"{shown(name)} is no name of a member")
    return name


def _large(
    file: File, name: str, extra: bytes, sizes: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Sizes beyond 32 bits from the extra field of zip64."""
    found, position = list(sizes), 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        field = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if len(field) < length:
            raise file.broken(f"the member {shown(name)} has a damaged extra field")
        if kind == 1:
            for i in (i for i, value in enumerate(sizes) if value == FULL32):
                if len(field) < 8:
                    raise file.broken(f"the member {shown(name)} lacks its sizes")
                found[i], field = struct.unpack("<Q", field[:8])[0], field[8:]
            break
    return found[0], found[1], found[2]


def _located(file: File, member: Member) -> Member:
    """The member with the offset of its data, from the header before them."""
    head = LOCAL.unpack(file.read(member.local, LOCAL.size))
    signature, _, flags, method, *_, name_length, extra_length = head
    offset = member.local + LOCAL.size + name_length + extra_length
    name = _name(file, file.read(member.local + LOCAL.size, name_length), flags)
    if signature != b"PK\x03\x04" or name != member.name or method != member.method:
        raise file.broken(f"the member {shown(member.name)} is not where the directory says")
    return replace(member, offset=offset)


def _check(file: File, found: list[Member], end: int) -> None:
    """Raises `BrokenFile` for duplicates, overlap, and sizes that the file cannot hold."""
    names: set[str] = set()
    for member in found:
        what = f"the member {shown(member.name)}"
        if member.name in names:
            raise file.broken(f"{what} is there twice", AGAIN)
        names.add(member.name)
        if member.method == STORED and member.size != member.compressed:
            raise file.broken(f"{what} is stored and declares two sizes")
        if member.size > member.compressed * MOST_DEFLATED:
            raise file.broken(f"{what} declares {member.size} bytes in {member.compressed}")
    ordered = sorted(found, key=lambda m: m.local)
    edges = [(m.local, m.offset + m.compressed, m.name) for m in ordered]
    for (_, stop, before), (begin, _, after) in pairwise([*edges, (end, end, "the directory")]):
        if stop > begin:
            raise file.broken(f"{shown(before)} and {shown(after)} overlap")
    if edges and edges[0][0] != 0:
        raise file.broken(f"there are {edges[0][0]} bytes before its zip archive")
    total = sum(m.size for m in found)
    if total > RATIO * file.size + ALLOWANCE:
        raise file.broken(
            f"{file.size} bytes declare to be {total} when inflated: more than {RATIO} times",
            "if you trust it, write it again with numpy.savez",
        )
