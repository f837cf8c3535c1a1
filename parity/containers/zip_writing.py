"""Members of zip archives, stored and aligned so that readers can map them."""

import contextlib
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, BinaryIO

ALIGNMENT = 64
PADDING = 0xD935  # the extra field by which Android aligns members, too


@contextlib.contextmanager
def aligned(archive: zipfile.ZipFile, out: BinaryIO, name: str) -> Iterator[IO[bytes]]:
    """A new member of `archive`, which writes to `out`; its data starts at a multiple of 64."""
    entry = zipfile.ZipInfo(name)
    # zipfile adds 20 bytes for sizes beyond 32 bits
    fixed = out.tell() + 30 + len(entry.filename.encode()) + 20 + 4
    gap = -fixed % ALIGNMENT
    entry.extra = struct.pack("<HH", PADDING, gap) + bytes(gap)
    with archive.open(entry, "w", force_zip64=True) as member:
        yield member
