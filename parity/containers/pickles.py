"""Checks what a PyTorch pickle claims, calls and how long it is, without loading it."""

import pickletools
from io import BytesIO

from parity.containers.files import BrokenFile, File
from parity.containers.rehearsal import Rehearsal, UnboundedError
from vit_spec.strict_json import shown

LONGEST = 32_000_000
MOST_STEPS = 300_000  # of a pickle; a tensor takes 33
INTEGERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"}
NOTED = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
AGAIN = "it is damaged: copy or download it again, or torch.save it again"
PLAIN = "load it where you trust it and torch.save only a dict of its plain CPU tensors"


def check_legacy(file: File) -> None:
    """`check_pickle` of the five pickles of a file from before PyTorch 1.6, and of their storages.

    A storage's id ends in the number of its elements and None, then the tuple is closed and used.
    Raises `BrokenFile` for one that claims more elements than the file has bytes.
    """
    _checked(file, file.read(0, min(file.size, LONGEST)), pickles=5, inside=True)


def check_pickle(file: File, offset: int, count: int) -> None:
    """Raises `BrokenFile` for a pickle that is damaged, takes too many steps to read, or calls what
    has no bound."""
    if count > LONGEST:
        raise file.broken(f"a pickle of {count} bytes is more than the {LONGEST} allowed", PLAIN)
    _checked(file, file.read(offset, count), pickles=1, inside=False)


def _checked(file: File, content: bytes, *, pickles: int, inside: bool) -> None:
    """`inside`: the elements of storages lie in the same file, behind the pickles."""
    stream, steps = BytesIO(content), 0
    try:
        for _ in range(pickles):
            last: list[tuple[str, object]] = []
            for opcode, argument, _ in pickletools.genops(stream):
                steps += 1
                if steps > MOST_STEPS:
                    raise file.broken(f"its pickle has more than {MOST_STEPS} steps", PLAIN)
                if inside and opcode.name == "BINPERSID":
                    _check(file, last)
                if opcode.name not in NOTED:
                    last = [*last[-2:], (opcode.name, argument)]
        stream.seek(0)
        for _ in range(pickles):
            Rehearsal(stream).load()
    except UnboundedError as error:
        raise unsafe(file, str(error)) from error
    except (BrokenFile, MemoryError):
        raise
    except Exception as error:  # genops and Unpickler raise several kinds for damaged pickles
        raise file.broken(f"its pickle is damaged ({str(error)[:120]})", AGAIN) from error


def unsafe(file: File, name: str) -> BrokenFile:
    """The error for a pickle that calls anything but what rebuilds tensors."""
    return file.broken(
        f"it holds {shown(name)}, which could run code or take all memory when it is loaded", PLAIN
    )


def _check(file: File, last: list[tuple[str, object]]) -> None:
    names, count = [name for name, _ in last], last[0][1] if last else None
    plain = names[1:] == ["NONE", "TUPLE"] and names[0] in INTEGERS
    if not plain or not isinstance(count, int):
        raise file.broken("it holds a module, or a storage in an unusual way", PLAIN)
    if not 0 <= count <= file.size:
        raise file.broken(
            f"a storage claims {count} elements; the file has {file.size} bytes", AGAIN
        )
