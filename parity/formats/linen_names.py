"""The names of Google's trees of Linen, which changed over the years: each to that of a table.

Flax once numbered all modules of a block in one row (`MlpBlock_3`) and now each kind for itself
(`MlpBlock_0`); positions moved twice; the pooling head was once part of the model itself. So the
code of today writes other names than the published files have. Sources: `fix_old_checkpoints` in
`big_vision/models/vit.py`, and `vit_jax/models_vit.py` of vision_transformer.
"""

import re
from collections.abc import Iterable, Mapping

from parity.formats.format import Given

ROOT = "params/"
EMBEDDING = "embedding/kernel"
"""The patch embedding, below whatever a file has in front."""
TRAINING = (r"opt/(?!target/).*", r"extra(/.*)?", r"(chrono|step)(/.*)?")
"""What a checkpoint of training has beside the parameters; the oldest have them in `opt/target`."""
IN_ENCODER = "Transformer/pos_embedding"
IN_MODULE = "Transformer/posembed_input/pos_embedding"
POSITIONS = ("pos_embedding", IN_ENCODER, IN_MODULE)
NORM, ATTENTION, MLP = "LayerNorm", "MultiHeadDotProductAttention", "MlpBlock"
NUMBERED = {NORM: (0, 2), ATTENTION: (1,), MLP: (3,)}
"""Of one row: the numbers of the modules of a block, in order."""
APART = {NORM: (0, 1), ATTENTION: (0,), MLP: (0,)}
BLOCK = re.compile(rf"(Transformer/encoderblock(?:_\d+)?/)({NORM}|{ATTENTION}|{MLP})_(\d+)/(.+)")
POOL = re.compile(rf"probe|({NORM}|{ATTENTION}|{MLP})_0/.+")
FIRST = rf"Transformer/encoderblock(_0)?/{ATTENTION}_\d+/query/kernel"


def is_tree_of_one_row(given: Given) -> bool:
    """A tree of vision_transformer: blocks apart, and a position for the class token."""
    names = given.shapes.keys()
    if not any((found := re.fullmatch(FIRST, name)) and found[1] for name in names):
        return False
    if "probe" in names or any(name.startswith("MAPHead_0/") for name in names):
        return False
    if POSITIONS[0] in names:
        return False
    return IN_MODULE in names or (IN_ENCODER in names and "cls" in names)


def is_tree_of_big_vision(given: Given, *, scanned: bool) -> bool:
    """A tree of big_vision, with `params/` in front or bare."""
    bare = Given(shapes={name.removeprefix(ROOT): shape for name, shape in given.shapes.items()})
    firsts = [found for name in bare.shapes if (found := re.fullmatch(FIRST, name))]
    return any(bool(found[1]) is not scanned for found in firsts) and not is_tree_of_one_row(bare)


def in_one_row(given: Given) -> dict[str, str]:
    """The name of each tensor in the table of vision_transformer."""
    norms = _norms(given.shapes)
    return {name: _renamed(name, norms, NUMBERED, IN_MODULE) for name in given.shapes}


def apart(given: Given) -> dict[str, str]:
    """The name of each tensor in the table of big_vision."""
    bare = {name: name.removeprefix(ROOT) for name in given.shapes}
    inlined, norms = "probe" in bare.values(), _norms(bare.values())
    found = {}
    for name, own in bare.items():
        own = f"MAPHead_0/{own}" if inlined and POOL.fullmatch(own) else own
        found[name] = ROOT + _renamed(own, norms, APART, POSITIONS[0])
    return found


def _norms(names: Iterable[str]) -> list[str]:
    """The numbers of the two norms of a block, in order."""
    found = {m[3] for name in names if (m := BLOCK.fullmatch(name)) and m[2] == NORM}
    return sorted(found, key=int)


def _renamed(
    name: str, norms: list[str], numbers: Mapping[str, tuple[int, ...]], positions: str
) -> str:
    if name in POSITIONS:
        return positions
    if (found := BLOCK.fullmatch(name)) is None:
        return name
    block, module, number, rest = found.groups()
    order = norms.index(number) if module == NORM else 0
    return f"{block}{module}_{numbers[module][min(order, len(numbers[module]) - 1)]}/{rest}"
