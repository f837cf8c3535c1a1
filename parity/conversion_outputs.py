"""Whether a conversion's target computes what its source does: outputs of both, in float64.

The source is read back as the JAX twin, the target, by what it says of itself, as the PyTorch one.
A framework is imported only where outputs are computed.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import foreign, memory
from parity.certificate import number
from parity.changing import Change
from parity.choice import ANY, Choice
from parity.formats import FOREIGN
from parity.formats.format import Unsaid
from parity.formats.kept import said
from parity.tolerance import PRACTICE, proof_bound, rounding
from vit_spec import Header, ViTConfig, count_parameters, parameters
from vit_spec.extras import install
from vit_spec.layout import State

PASS, FAIL, NONE = "PASS", "FAIL", "NONE"
IMAGES, SEED = 2, 0
NOT_ASKED = "not asked for"
COPIES = 2.5  # of the float64 weights: as they are read, in the model, and what XLA keeps
FRAMEWORKS = 600_000_000  # bytes that both occupy without a model


class Disagreement(ValueError):
    """The target computes something else than the source."""


def none(reason: str) -> dict[str, Any]:
    """The record of outputs that were not compared."""
    return {"verdict": NONE, "reason": reason}


def missing() -> str:
    """Why outputs cannot be compared here, or nothing."""
    needs = {"jax": ("jax", "flax", "optax"), "torch": ("torch",)}
    lacking = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in needs.items()
    }
    extras = [extra for extra, names in lacking.items() if names]
    if not extras:
        return ""
    absent = ", ".join(name for names in lacking.values() for name in names)
    return f"{absent} not installed ({install(*extras)}); bits were compared"


def neither() -> str:
    """Why no outputs can be computed here at all, or nothing."""
    have = any(importlib.util.find_spec(name) for name in ("torch", "flax"))
    return "" if have else "is not known: neither PyTorch nor JAX is installed"


def needed_bytes(config: ViTConfig) -> int:
    """About the memory that comparing outputs takes: weights and activations in float64."""
    tokens = config.num_prefix_tokens + math.prod(config.grid)
    each = 12 * config.width + 4 * config.mlp_width + 3 * config.num_heads * tokens
    values = COPIES * count_parameters(config) + IMAGES * tokens * each
    return int(8 * values) + FRAMEWORKS


def lacking_memory(config: ViTConfig) -> str:
    """Why the outputs of a model cannot be computed in the memory that is free, or nothing."""
    needed, free = needed_bytes(config), memory.available_bytes()
    if free is None or needed <= free:
        return ""
    return (
        f"comparing the outputs of a model of {count_parameters(config):,} parameters needs "
        f"about {needed / 1e9:.1f} GB in float64, and {free / 1e9:.1f} GB of memory are free"
    )


def check_memory(config: ViTConfig) -> None:
    """Raises `ValueError` if the outputs of a model cannot be computed in the memory that is free.

    A conversion itself holds one tensor at a time.
    """
    if lacking := lacking_memory(config):
        raise ValueError(
            f"{lacking}: convert with verify=False, which compares bits alone, or where there is "
            "more memory"
        )


def measured(
    src: Path,
    dst: Path,
    formats: tuple[str, str],
    header: Header,
    choice: Choice = ANY,
    change: Change | None = None,
) -> dict[str, Any]:
    """The record of both sides' outputs on random images of the native size; none of NaN.

    `formats` are of source and target, `header` and `choice` are the source's, before `change`.
    """
    from parity.gaps import proof
    from parity.inputs import image_sets
    from parity.precision import exact

    config = header.config
    size, images = next(iter(image_sets(config, IMAGES, SEED).items()))
    with exact():
        read, state = _read(src, formats[0], header, choice=choice, change=change)
        broken = [name for name, array in state.items() if not np.isfinite(array).all()]
        if broken:
            return none(f"NaN or infinite values in {broken[0]} of the source; bits were compared")
        ours = _jax_outputs(read.config, state, images)
        del state
        header = replace(header, config=read.config)
        back, state = _read_back(dst, formats[1], header)
        theirs = _torch_outputs(back.config, state, images)
    folded = _folded(config, back.config)
    bound = folded_bound(read) if folded else proof_bound(config.depth)
    gaps = [replace(gap, bound=bound) for gap in proof("outputs", ours, theirs, depth=config.depth)]
    worst = max(gaps, key=lambda gap: math.inf if math.isnan(gap.gap) else gap.gap)
    return {
        "verdict": PASS if all(gap.passed for gap in gaps) else FAIL,
        "dtype": "float64",
        "images": IMAGES,
        "size": size,
        "seed": SEED,
        "largest_gap": number(worst.gap),
        "bound": bound,
        "folded": folded,
        "name": worst.name + (f" ({worst.note})" if worst.note else ""),
    }


@dataclass(frozen=True)
class Read:
    """What was read of a checkpoint beside its state."""

    config: ViTConfig
    dtypes: frozenset[str]


def _folded(config: ViTConfig, back: ViTConfig) -> bool:
    """Whether the target has sums of the source's tensors; a position of zeros adds nothing."""
    if config.class_token and config.pos_embed == "learned" and not config.class_token_position:
        back = back.replace(class_token_position=False)
    return parameters(back) != parameters(config)


def folded_bound(source: Read) -> float:
    """Where the target has the sum of two tensors of the source: it is rounded to their dtype."""
    return max(
        proof_bound(source.config.depth),
        *(PRACTICE * rounding(dtype, source.config.depth) for dtype in source.dtypes),
    )


def again(
    src: Path,
    dst: Path,
    formats: tuple[str, str],
    header: Header,
    choice: Choice = ANY,
    change: Change | None = None,
) -> dict[str, Any]:
    """The record now, or why there is none."""
    if reason := missing():
        return none(reason)
    check_memory(header.config)
    return measured(src, dst, formats, header, choice, change)


def text(record: Mapping[str, Any]) -> str:
    """One line about a record."""
    if record["verdict"] == NONE:
        return f"outputs were not compared: {record['reason']}"
    return (
        f"outputs of both sides on {record['images']} images of {record['size']}: largest gap "
        f"{float(record['largest_gap']):.1e}, {record['name']} (bound {record['bound']:.1e}"
        f"{', of sums rounded to the dtype of the file' if record['folded'] else ''})"
    )


def _jax_outputs(config: ViTConfig, state: State, images: np.ndarray) -> list[Any]:
    import vit_jax
    from parity.sides import JaxSide

    return list(JaxSide(vit_jax.api.from_state(config, state), "float64").outputs(images))


def _torch_outputs(config: ViTConfig, state: State, images: np.ndarray) -> list[Any]:
    import vit_torch
    from parity.sides import TorchSide

    return list(TorchSide(vit_torch.api.from_state(config, state), "float64").outputs(images))


def _read(
    path: Path,
    format: str,
    header: Header | None,
    sizes: tuple[tuple[int, int], ...] = (),
    choice: Choice = ANY,
    change: Change | None = None,
) -> tuple[Read, State]:
    """A checkpoint of any format as ours, its state in float64."""
    with foreign.opened_as(path, format, header, sizes, choice) as opened:
        source = foreign.altered(opened, change or {})
        config = source.header.config
        found = frozenset(dtype.name for dtype in source.dtypes.values())
        state = {n: np.array(source.read(n), np.float64) for n in parameters(config)}
        return Read(config, found), state


def _read_back(path: Path, format: str, header: Header) -> tuple[Read, State]:
    """A target by what it says of itself and its image size.

    As `header` only if its format has no place for which model it is.
    """
    try:
        if format in FOREIGN:
            said(header, FOREIGN[format])
    except Unsaid:
        held = replace(header, config=FOREIGN[format].held(header.config))
        return _read(path, format, held)
    return _read(path, format, None, (header.config.image_shape,))
