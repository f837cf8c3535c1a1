"""How much memory a frame of Zstandard asks for, from its head: RFC 8878, 3.1.1.1."""

MAGIC = b"\x28\xb5\x2f\xfd"
HEAD = 18  # bytes of the longest head
MOST_WINDOW = 1 << 27
"""Bytes that a decoder must keep of what it has decoded; `zstd` itself takes no more either."""


def window(head: bytes) -> int | None:
    """The bytes that a decoder keeps; None if `head` does not begin a frame."""
    if head[:4] != MAGIC or len(head) < 6:
        return None
    described = head[4]
    single, names, sizes = described >> 5 & 1, described & 3, described >> 6
    if not single:
        least = 1 << 10 + (head[5] >> 3)
        return least + least // 8 * (head[5] & 7)
    at, count = 5 + (0, 1, 2, 4)[names], (1, 2, 4, 8)[sizes]
    size = int.from_bytes(head[at : at + count], "little")
    return size + 256 if count == 2 else size


def fits(head: bytes) -> bool:
    """Whether `head` begins a frame that can be decoded in little memory."""
    found = window(head)
    return found is not None and found <= MOST_WINDOW
