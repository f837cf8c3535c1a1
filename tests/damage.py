"""How the fuzzers damage bytes and JSON, and how they judge what is done with a directory."""

import json
import random
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

import parity
from parity.containers.files import BrokenFile
from parity.formats.format import Unsaid
from tests.memory_limit import limited
from vit_spec import checkpoint

SECONDS = 1.0
Failure = tuple[str, str]
NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40)
ODD: tuple[Any, ...] = (
    [], {}, None, True, False, 0, -1, 1, 2, 3, 7, 16, 224, 0.5, 3.5, -0.1, 1e-300, 1e300,
    4_000_000, 30_000_000, 10**9, 2**31, 2**63, 10**400, "", "a", "224", "gelu", "\x1b[2J",
    "x" * 5000,
    [1], [224, 224], [1, 2, 3], [[1]], ["a"], [None], [0.5] * 3, [0.5] * 4, [16, "a"],
    {"longest_edge": 384}, {"shortest_edge": 0}, {"height": 224}, {"height": "a", "width": []},
    {"0": "a"}, {"a": 0}, {"-1": "b"},
)  # fmt: skip
RAW = (b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 100_000, b'{"a":' * 2000, b"9" * 5000)
HOLE = "\x00hole"


def mutated(data: bytes, choose: random.Random) -> bytes:
    """The bytes with one to three damages."""
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        at, size = _position(len(data), choose), choose.choice((1, 2, 3, 4, 8, 16, 64, 200))
        piece = data[at : at + size]
        way = choose.randrange(9)
        if way <= 1:
            piece = bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 : at + size]
        elif way == 2:
            piece = bytes([choose.randrange(256)]) + data[at + 1 : at + size]
        elif way == 3:
            width = choose.choice((1, 2, 4, 8))
            number = (choose.choice(NUMBERS) % 256**width).to_bytes(
                width, choose.choice(("little", "big"))
            )
            data, piece, size = data[:at] + number + data[at + width :], number, width
        elif way == 4:
            data, piece, size = data[:at], b"", 0
        elif way == 5:
            piece = b""
        elif way == 6:
            piece = piece * 2
        elif way == 7:
            piece = choose.randbytes(choose.randrange(1, 9)) + piece
        else:
            start = _position(len(data), choose)
            piece = data[start : start + size]
        data = data[:at] + piece + data[at + size :]
        if not data:
            break
    return data


def damaged(text: bytes, choose: random.Random) -> bytes:
    """The JSON with one to three odd values, or with damaged bytes."""
    if choose.random() < 0.25:
        return mutated(text, choose)
    content = json.loads(text)
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        node, key = choose.choice(places)
        way = choose.randrange(8)
        if way <= 4:
            node[key] = deepcopy(choose.choice(ODD))
        elif way == 5:
            node[key] = HOLE
        elif way == 6:
            del node[key]
        elif isinstance(node, dict):
            other, name = choose.choice(places)
            node[choose.choice((str(name), str(key) + "x"))] = deepcopy(other[name])
        else:
            node.insert(key, deepcopy(choose.choice(ODD)))
    raw = json.dumps(content).encode()
    return raw.replace(json.dumps(HOLE).encode(), choose.choice(RAW))


def failure(folder: Path, whole: dict[str, np.ndarray]) -> Failure | None:
    """What is wrong with how a directory is read, if anything; `whole` are its own weights."""
    begin, back = time.process_time(), folder.with_name("back.safetensors")
    try:
        back.unlink(missing_ok=True)
        with limited():
            parity.inspect(folder)
            parity.convert(folder, back, certificate=False)
    except Exception as error:
        if type(error) not in (ValueError, BrokenFile, Unsaid):
            return type(error).__name__, str(error)[:500]
        message = str(error)
        plain = message.replace("\n", "").isprintable()
        if str(folder) not in message or len(message) > 4000 or not plain:
            return "message", message[:2000]
        if "not enough memory" in message:  # of Zstandard
            return "memory", message
        back = None
    if (seconds := time.process_time() - begin) > SECONDS:
        return "slow", f"{seconds:.2f} s"
    if back is not None:
        found = checkpoint.read_tensors(back)
        other = [n for n in whole if n not in found or found[n].tobytes() != whole[n].tobytes()]
        if other:
            return "weights", ", ".join(other)[:500]
    return None


def _position(length: int, choose: random.Random) -> int:
    """A place in the bytes, often near an end, where the structure is."""
    near = min(length, 400)
    return choose.choice(
        (choose.randrange(length), choose.randrange(near), length - 1 - choose.randrange(near))
    )


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON value."""
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
    return found
