"""Flax Linen's layers in tables: names and layouts of Dense, LayerNorm, Conv and attention."""

from parity.formats.table import Rule
from parity.operations import Op, fused, heads, permute, same

KERNEL = permute(1, 0)
CONV = permute(3, 2, 0, 1)


def dense(ours: str, theirs: str, op: Op = KERNEL) -> list[Rule]:
    """A Dense layer, or with `CONV` a convolution."""
    return [
        Rule(f"{ours}.weight", f"{theirs}/kernel", op),
        Rule(f"{ours}.bias", f"{theirs}/bias"),
    ]


def norm(ours: str, theirs: str) -> list[Rule]:
    """A LayerNorm."""
    return [Rule(f"{ours}.weight", f"{theirs}/scale"), Rule(f"{ours}.bias", f"{theirs}/bias")]


def attention(ours: str, theirs: str, num_heads: int) -> list[Rule]:
    """`MultiHeadDotProductAttention` as our fused qkv and projection."""
    return [
        _joined(f"{ours}.qkv", theirs, ("query", "key", "value"), num_heads),
        _joined(f"{ours}.qkv", theirs, ("query", "key", "value"), num_heads, leaf="bias"),
        *_output(f"{ours}.proj", theirs, num_heads),
    ]


def pooling(ours: str, theirs: str, num_heads: int) -> list[Rule]:
    """The same of a learned query: ours has query apart, and key and value fused."""
    return [
        rule
        for leaf in ("weight", "bias")
        for rule in (
            _joined(f"{ours}.q", theirs, ("query",), num_heads, leaf),
            _joined(f"{ours}.kv", theirs, ("key", "value"), num_heads, leaf),
        )
    ] + _output(f"{ours}.proj", theirs, num_heads)


def _joined(
    ours: str, theirs: str, names: tuple[str, ...], num_heads: int, leaf: str = "weight"
) -> Rule:
    their_leaf = "kernel" if leaf == "weight" else leaf
    parts = tuple(f"{theirs}/{name}/{their_leaf}" for name in names)
    return Rule(f"{ours}.{leaf}", parts, fused(heads(num_heads), len(names)))


def _output(ours: str, theirs: str, num_heads: int) -> list[Rule]:
    kernel = heads(num_heads, output=True)
    return [
        Rule(f"{ours}.weight", f"{theirs}/out/kernel", kernel),
        Rule(f"{ours}.bias", f"{theirs}/out/bias", same),
    ]
