"""What was done to a tensor on the way from one side to the other.

Hypotheses are transformations of PyTorch's tensor that give JAX's. All are exact, so a fit is bit
for bit, but for those that say so.

Shapes: o outputs, i inputs, h heads of k channels.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
import torch
from torch import Tensor

from parity.diagnosis.trace import gap_of
from parity.findings import Attempt, Cause, claim, is_near
from vit_spec.words import counted

Hypothesis = tuple[str, Tensor]
PARTS = ("query", "key", "value")
FEW = 4  # names without a partner that are listed one by one


class Unknown(NamedTuple):
    """A tensor that differs in a way that nothing explains."""

    place: str
    text: str  # how much of it differs
    near: tuple[Attempt, ...]


def of_weights(
    jax: Mapping[str, Tensor], torch_state: Mapping[str, Tensor], grid: tuple[int, int] | None
) -> Iterator["Cause | Unknown"]:
    """A cause for every tensor that differs, or what is known of it where none fits."""
    alone = [name for name in {**torch_state, **jax} if name not in jax.keys() & torch_state.keys()]
    if len(alone) > FEW:  # names that do not mirror, more likely than parameters left out
        counts = (len(jax.keys() - torch_state.keys()), len(torch_state.keys() - jax.keys()))
        ours, theirs = (f"{n} without a partner" for n in counts)
        yield _cause("parameters", "names", ours, theirs)
    for name in dict.fromkeys([*torch_state, *jax]):
        ours, theirs = jax.get(name), torch_state.get(name)
        if ours is None or theirs is None:
            lacks = "JAX" if ours is None else "PyTorch"
            if len(alone) <= FEW:
                yield _cause(name, "parameter", *_sides("has none", "has it", lacks))
            continue
        same = ours.shape == theirs.shape
        if same and torch.equal(ours, theirs):
            continue
        gap = gap_of(ours, theirs)
        tried = [
            (text, side, gap_of(target, guess))
            for side, source, target in (("JAX", theirs, ours), ("PyTorch", ours, theirs))
            for text, guess in _guesses(name, source, grid)
            if guess.shape == target.shape
        ]
        found = list(_explanations(name, ours, theirs, tried, torch_state))
        if found:
            (jax_text, torch_text), *others = found
            rivals = tuple(claim("values", *texts) for texts in others)
            yield _cause(name, "values", jax_text, torch_text, gap, 0.0, rivals)
        else:
            count, size = int((ours != theirs).sum()) if same else 0, ours.numel()
            text = (
                f"{count} of {size} values differ"
                if same
                else (f"shape {tuple(ours.shape)} in JAX, {tuple(theirs.shape)} in PyTorch")
            )
            near = [Attempt(place=name, hypothesis=f"{what} in {side}", residual=residual)
                    for what, side, residual in tried if is_near(residual, gap)]  # fmt: skip
            yield Unknown(name, text, tuple(sorted(near, key=lambda each: each.residual)))


def _explanations(
    name: str,
    ours: Tensor,
    theirs: Tensor,
    tried: Iterable[tuple[str, str, float]],
    torch_state: Mapping[str, Tensor],
) -> Iterator[tuple[str, str]]:
    """Every known way from one side's values to the other's, as JAX's text and PyTorch's."""
    exact: dict[str, list[str]] = {"JAX": [], "PyTorch": []}
    for text, side, residual in tried:
        exact[side] += [text] if residual == 0 else []
    side = "JAX" if exact["JAX"] else "PyTorch"  # the way back is the same statement
    for text in exact[side]:
        yield _sides(text, "as they are", side)
    if not exact[side]:
        yield from _one_sided(ours, theirs)
        yield from _found_elsewhere(name, ours, torch_state)
        yield from _rounded(ours, theirs)


def not_finite(jax: Mapping[str, Tensor], torch_state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors with NaN or infinite values, and how many of them either side has."""
    found: dict[str, str] = {}
    for name in dict.fromkeys([*torch_state, *jax]):
        counts = {
            side: int((~torch.isfinite(state[name])).sum())
            for side, state in (("JAX", jax), ("PyTorch", torch_state))
            if name in state
        }
        if any(counts.values()):
            found[name] = "NaN or infinite values: " + ", ".join(
                f"{count} in {side}" for side, count in counts.items()
            )
    return found


def _cause(
    name: str,
    what: str,
    jax: str,
    torch_text: str,
    gap: float = float("inf"),
    residual: float = 0.0,
    rivals: tuple[str, ...] = (),
) -> Cause:
    return Cause(
        place=name, what=what, jax=jax, torch=torch_text, gap=gap, residual=residual,
        places=(name,), rivals=rivals,
    )  # fmt: skip


def _sides(lacking: str, having: str, lacks: str) -> tuple[str, str]:
    return (lacking, having) if lacks == "JAX" else (having, lacking)


def _guesses(name: str, t: Tensor, grid: tuple[int, int] | None) -> Iterator[Hypothesis]:
    """PyTorch's tensor as it would look after each known mistake."""
    if t.ndim == 2 and t.shape[0] == t.shape[1]:
        yield "transposed", t.T
    if t.ndim == 4:
        yield "height and width swapped", t.mT
        yield "input channels reversed (RGB/BGR)", t.flip(1)
        yield "height and width swapped, input channels reversed", t.mT.flip(1)
        yield "kernel turned by 180 degrees", t.flip(2, 3)
        for axes in itertools.permutations(range(4)):
            if axes not in ((0, 1, 2, 3), (0, 1, 3, 2)):  # the latter has a name, above
                yield f"axes permuted to {axes}", t.permute(axes)
    if "qkv" in name and t.shape[0] % 3 == 0:
        yield from _of_qkv(t)
    if name.endswith("pos_embed") and t.ndim == 3 and grid is not None:
        yield from _of_positions(t, grid)
    if t.ndim == 3 and t.shape[1] > 1:
        yield "rows in reverse order", t.flip(1)
        yield "rows moved by one", t.roll(1, 1)
        yield "rows moved back by one", t.roll(-1, 1)
    if t.ndim == 1:
        yield "reverse order", t.flip(0)
    yield "opposite sign", -t


def _of_qkv(t: Tensor) -> Iterator[Hypothesis]:
    thirds = t.chunk(3)
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            names = ", ".join(PARTS[i] for i in order)
            yield f"blocks in the order {names}", torch.cat([thirds[i] for i in order])
    for i, part in enumerate(PARTS):
        kept = [torch.zeros_like(x) if i == j else x for j, x in enumerate(thirds)]
        yield f"{part} set to zero", torch.cat(kept)
    by_channel = t.reshape(3, -1, *t.shape[1:]).transpose(0, 1)  # whatever the heads
    yield "interleaved by channel (heads, channels, 3)", by_channel.reshape(t.shape)
    width = t.shape[0] // 3
    for heads in (h for h in range(2, 65) if width % h == 0 and h < width):
        split = t.reshape(3, heads, -1, *t.shape[1:])
        yield (
            f"interleaved by head ({heads} heads, 3, channels)",
            split.transpose(0, 1).reshape(t.shape),
        )
        if heads != 3:  # there and back are the same
            back = t.reshape(heads, 3, -1, *t.shape[1:]).transpose(0, 1)
            yield f"split as if interleaved by head ({heads} heads)", back.reshape(t.shape)
    if t.ndim == 2 and width == t.shape[1]:
        yield "each third transposed", torch.cat([x.T for x in thirds])


def _of_positions(t: Tensor, grid: tuple[int, int]) -> Iterator[Hypothesis]:
    prefix = t.shape[1] - grid[0] * grid[1]
    if prefix not in (0, 1, 2):  # with a distillation token two rows come before the patches
        return
    head, table = t[:, :prefix], t[:, prefix:]
    square = table.reshape(1, *grid, -1)
    yield (
        "rows and columns of the grid swapped",
        torch.cat([head, square.transpose(1, 2).reshape(table.shape)], 1),
    )
    yield "grid upside down", torch.cat([head, square.flip(1).reshape(table.shape)], 1)
    yield "grid mirrored", torch.cat([head, square.flip(2).reshape(table.shape)], 1)
    yield "position of the class token set to zero", torch.cat([torch.zeros_like(head), table], 1)


def _one_sided(ours: Tensor, theirs: Tensor) -> Iterator[tuple[str, str]]:
    """One side holds a constant: it was never loaded, or it was dropped."""
    for a, b, side in ((ours, theirs, "JAX"), (theirs, ours, "PyTorch")):
        constant = a.flatten()[0]
        if a.numel() > 1 and bool((a == constant).all()) and not bool((b == b.flatten()[0]).all()):
            text = f"{float(constant):g} everywhere (not loaded, or left out)"
            yield _sides(text, "as they are", side)
            return


def _found_elsewhere(
    name: str, ours: Tensor, theirs: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    equal = [
        n for n, t in theirs.items() if n != name and t.shape == ours.shape and torch.equal(t, ours)
    ]
    if equal:
        more = f", or of {counted(len(equal) - 1, 'other')} like it" if len(equal) > 1 else ""
        yield f"those of {equal[0]}{more}", "as they are"


def _rounded(ours: Tensor, theirs: Tensor) -> Iterator[tuple[str, str]]:
    if ours.shape != theirs.shape:
        return
    for name in ("float32", "float16", "bfloat16"):
        text, dtype = f"rounded to {name}", np.dtype(name)
        for a, b, side in ((ours, theirs, "JAX"), (theirs, ours, "PyTorch")):
            direct = b.numpy().astype(dtype).astype(np.float64)
            by_float32 = b.numpy().astype(np.float32).astype(dtype).astype(np.float64)
            if any(np.array_equal(a.numpy(), guess) for guess in (direct, by_float32)):
                yield _sides(text, "as they are", side)
