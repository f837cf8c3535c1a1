"""What compiled programs move between devices, read from XLA's text (HLO)."""

import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
    rf"(?:.*?channel_id=(?P<channel>\d+))?",
    re.MULTILINE,
)


def collectives(text: str) -> dict[str, int]:
    """Collectives of a program by kind; a loop's body counts once.

    TPU's compiler writes the parts of an asynchronous one as instructions of the same channel.
    """
    found = {(match["kind"], match["channel"] or match.start()) for match in _instructions(text)}
    return {kind: count for kind in KINDS if (count := sum(k == kind for k, _ in found))}


def gathers(text: str) -> list[int]:
    """Numbers that each all-gather makes; of several gathered as one, their sum.

    The form with `-start` returns its operands too, which are the first half of its result.
    """
    found = []
    for match in _instructions(text):
        if match["kind"] == "all-gather":
            sizes = [
                math.prod(int(n) for n in dims.split(",") if n)
                for dims in re.findall(r"\w+\[([\d,]*)\]", match["result"])
            ]
            found.append(sum(sizes[len(sizes) // 2 :] if match["start"] else sizes))
    return found


def _instructions(text: str) -> list[re.Match[str]]:
    return list(INSTRUCTION.finditer(text))
