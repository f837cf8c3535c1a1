"""Checks what a PyTorch pickle claims and how long it is, without unpickling it."""

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


def check_claims(file: File) -> None:
    """Raises `BrokenFile` for a storage that claims more elements than the file has bytes.

    A storage's id ends in the number of its elements and None, then the tuple is closed and used.
    """
    stream, steps = BytesIO(file.read(0, min(file.size, LONGEST))), 0
    try:
        for _ in range(5):  # magic number, version, system, content, keys of storages
            last: list[tuple[str, object]] = []
            for opcode, argument, _ in pickletools.genops(stream):
                steps += 1
                if steps > MOST_STEPS:
                    raise too_long(file)
                if opcode.name == "BINPERSID":
                    _check(file, last)
                if opcode.name not in NOTED:
                    last = [*last[-2:], (opcode.name, argument)]
        stream.seek(0)
        for _ in range(5):
            Rehearsal(stream).load()
    except UnboundedError as error:
        raise unsafe(file, str(error)) from error
    except BrokenFile:
        raise
    except Exception as error:  # genops raises several kinds for damaged pickles
        raise file.broken(f"its pickle is damaged ({str(error)[:120]})", AGAIN) from error


def check_length(file: File, offset: int, count: int) -> None:
    """Raises `BrokenFile` for a pickle at `offset` that takes too many steps to read."""
    if count > LONGEST:
        raise file.broken(f"a pickle of {count} bytes is more than the {LONGEST} allowed", PLAIN)
    content = file.read(offset, count)
    try:
        for step, _ in enumerate(pickletools.genops(content)):
            if step >= MOST_STEPS:
                raise too_long(file)
        Rehearsal(BytesIO(content)).load()
    except UnboundedError as error:
        raise unsafe(file, str(error)) from error
    except BrokenFile:
        raise
    except Exception as error:  # genops raises several kinds for damaged pickles
        raise file.broken(f"its pickle is damaged ({str(error)[:120]})", AGAIN) from error


def unsafe(file: File, name: str) -> BrokenFile:
    """The error for a pickle that calls anything but what rebuilds tensors."""
    return file.broken(
        f"it holds {shown(name)}, which could run code or take all memory when it is loaded", PLAIN
    )


def too_long(file: File) -> BrokenFile:
    """The error for a pickle of too many steps."""
    return file.broken(f"its pickle has more than {MOST_STEPS} steps", PLAIN)


def _check(file: File, last: list[tuple[str, object]]) -> None:
    names, count = [name for name, _ in last], last[0][1] if last else None
    plain = names[1:] == ["NONE", "TUPLE"] and names[0] in INTEGERS
    if not plain or not isinstance(count, int):
        raise file.broken("it holds a module, or a storage in an unusual way", PLAIN)
    if not 0 <= count <= file.size:
        raise file.broken(
            f"a storage claims {count} elements; the file has {file.size} bytes", AGAIN
        )
