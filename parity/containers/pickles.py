"""Checks what a PyTorch pickle claims, calls and how long it is, without loading it."""

import pickletools
from io import BytesIO

from parity.containers.files import BrokenFile, File
from parity.containers.rehearsal import Rehearsal, UnboundedError, WholeModuleError
from vit_spec.strict_json import shown

LONGEST = 32_000_000
MOST_STEPS = 300_000  # of a pickle; a tensor takes 33
INTEGERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"}
NOTED = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
AGAIN = "it is damaged: copy or download it again, or torch.save it again"
PLAIN = "load it where you trust it and torch.save only a dict of its plain CPU tensors"
PASTE = (
    "if you trust the file, run torch.save(torch.load({path!r}, weights_only=False){entry}, "
    '"plain.pth") in Python, {hint}, and take plain.pth'
)


def check_legacy(file: File) -> dict[str, str]:
    """`check_pickle` of the five pickles of a file from before PyTorch 1.6, and of their storages.

    A storage's id ends in the number of its elements and None, then the tuple is closed and used.
    Returns the names that PyTorch does not know, as `Rehearsal` does. Raises `BrokenFile` for one
    that claims more elements than the file has bytes.
    """
    return _checked(file, file.read(0, min(file.size, LONGEST)), pickles=5, inside=True)


def check_pickle(file: File, offset: int, count: int) -> dict[str, str]:
    """The names that PyTorch does not know, as `Rehearsal` finds them.

    Raises `BrokenFile` for a pickle that is damaged, takes too many steps to read, or calls what
    has no bound.
    """
    if count > LONGEST:
        raise file.broken(f"a pickle of {count} bytes is more than the {LONGEST} allowed", PLAIN)
    return _checked(file, file.read(offset, count), pickles=1, inside=False)


def _checked(file: File, content: bytes, *, pickles: int, inside: bool) -> dict[str, str]:
    """`inside`: the elements of storages lie in the same file, behind the pickles."""
    stream, steps, unknown = BytesIO(content), 0, dict[str, str]()
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
            Rehearsal(stream, unknown).load()
    except UnboundedError as error:
        raise unsafe(file, str(error)) from error
    except WholeModuleError as error:
        raise file.broken(
            f"it holds a module as a whole ({shown(str(error))}), not only its tensors",
            pasted(file, ".state_dict()", 'with ["NAME"] before .state_dict() if it is an entry'),
        ) from error
    except (BrokenFile, MemoryError):
        raise
    except Exception as error:  # genops and Unpickler raise several kinds for damaged pickles
        raise file.broken(f"its pickle is damaged ({str(error)[:120]})", AGAIN) from error
    return unknown


def unsafe(file: File, name: str) -> BrokenFile:
    """The error for a pickle that calls anything but what rebuilds tensors."""
    return file.broken(
        f"it holds {shown(name)}, which could run code or take all memory when it is loaded",
        pasted(file),
    )


def pasted(
    file: File,
    entry: str = '["state_dict"]',
    hint: str = "with the name of the entry that has its weights",
) -> str:
    """What to run for a file that only Python's own unpickler reads."""
    return PASTE.format(path=str(file.path), entry=entry, hint=hint)


def _check(file: File, last: list[tuple[str, object]]) -> None:
    names, count = [name for name, _ in last], last[0][1] if last else None
    plain = names[1:] == ["NONE", "TUPLE"] and names[0] in INTEGERS
    if not plain or not isinstance(count, int):
        raise file.broken("it holds a module, or a storage in an unusual way", PLAIN)
    if not 0 <= count <= file.size:
        raise file.broken(
            f"a storage claims {count} elements; the file has {file.size} bytes", AGAIN
        )
