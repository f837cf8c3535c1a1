"""What compiled programs move between devices, read from XLA's text (HLO)."""

import math
import re

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?:-start)?"
    r"\((?P<operands>.*?)\)(?=,|$)(?:.*?channel_id=(?P<channel>\d+))?",
    re.MULTILINE,
)


def collectives(text: str) -> dict[str, int]:
    """Collectives of a program by kind; a loop's body counts once.

    TPU's compiler writes the parts of an asynchronous one as instructions of the same channel.
    """
    found = {
        (match["kind"], match["channel"] or match.start()) for match in INSTRUCTION.finditer(text)
    }
    return {kind: count for kind in KINDS if (count := sum(k == kind for k, _ in found))}


def largest(text: str) -> dict[str, int]:
    """The most numbers that one collective of each kind makes on a device.

    Tensors that move as one are added; one that is listed twice is one. The form with `-start` may
    return its operands before its results.
    """
    found: dict[str, int] = {}
    for match in INSTRUCTION.finditer(text):
        operands = re.findall(r"%[\w.-]+", match["operands"])
        sizes = [
            math.prod(int(n) for n in dims.split(",") if n)
            for dims in re.findall(r"\w+\[([\d,]*)\]", match["result"])
        ]
        results = sizes[len(operands) : 2 * len(operands)] or sizes
        made = sum(dict(zip(operands, results, strict=False)).values())
        found[match["kind"]] = max(found.get(match["kind"], 0), made)
    return found


def beyond_a_layer(made: dict[str, int], layer: int, mesh: tuple[int, int, int]) -> list[str]:
    """What of `largest` could make more parameters than one layer has.

    All-reduces are read too: TPU's compiler gathers by them where `fsdp` goes along three axes of
    a network, each device's part in its place among zeros. They are left out where others are as
    large: without `fsdp`, where nothing is gathered, those of all gradients; with `tensor` those
    of activations. Permutations pass parts on, so up to `fsdp` of them make one tensor.
    """
    if not made:  # several devices have to
        return ["no collective was found: has XLA's text another form now?"]
    _, fsdp, tensor = mesh
    if fsdp == 1 or tensor > 1:
        made = {kind: numbers for kind, numbers in made.items() if kind != "all-reduce"}
    times = {"collective-permute": fsdp}
    return [
        f"{kind} makes {times.get(kind, 1)} x {numbers:,} numbers, a layer has {layer:,}"
        for kind, numbers in made.items()
        if times.get(kind, 1) * numbers > layer
    ]
