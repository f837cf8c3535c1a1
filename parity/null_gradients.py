"""Parameters whose gradient is zero in exact arithmetic, and how they are compared all the same.

The softmax does not see a constant added to all scores of one query, so a bias that all keys share
has no gradient: what is computed is rounding noise, which has no digits to agree in. Its size is
judged beside a tensor of the same layer, so that a gradient that should not be there still fails.

The key third of `qkv.bias` needs nothing: query and value share its tensor. With normalised keys it
is the whole of `k_norm.bias`, which is therefore joined to `k_norm.weight`.
"""

from collections.abc import Callable, Collection, Iterator

import numpy as np

from vit_spec import ViTConfig

Stream = Iterator[tuple[str, np.ndarray]]
NOISE = 1e-13
"""Of the gradient of the weight beside it: what a bias without gradient stays below in float64."""


def joined(stream: Stream, config: ViTConfig) -> Stream:
    """The stream with `...k_norm.weight` and `...k_norm.bias` as one quantity `...k_norm`."""
    if not config.qk_norm:
        yield from stream
        return
    yield from _pairs(stream, lambda stem: stem.endswith("k_norm"))


def explained(config: ViTConfig) -> tuple[str, ...]:
    """What `joined` did, for the report."""
    if not config.qk_norm:
        return ()
    return (
        "k_norm.bias has zero gradient in exact arithmetic (the softmax ignores it), so "
        "its rounding "
        "noise is measured beside k_norm.weight, as one tensor",
    )


def null_biases(gradients: Stream) -> frozenset[str]:
    """Modules of any model whose bias has no gradient beside that of their weight, in float64."""
    found = dict(gradients)
    return frozenset(
        stem
        for name, gradient in found.items()
        if (stem := name.removesuffix(".bias")) != name
        and np.abs(gradient).max() < NOISE * np.abs(found.get(f"{stem}.weight", 0.0)).max()
    )


def beside_weights(stream: Stream, modules: Callable[[], Collection[str]]) -> Stream:
    """The stream with weight and bias of these modules as one quantity, named like the module."""
    return _pairs(stream, lambda stem: stem.rpartition(" ")[2] in modules())


def told(modules: Collection[str]) -> tuple[str, ...]:
    """What `beside_weights` did, for the report."""
    if not modules:
        return ()
    first, more = min(modules), f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    return (
        f"the bias of {first}{more} has zero gradient in exact arithmetic, so its rounding noise "
        f"is measured beside the weight, as one tensor",
    )


def _pairs(stream: Stream, chosen: Callable[[str], bool]) -> Stream:
    """The stream with `...weight` and `...bias` of chosen modules as one quantity."""
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, value in stream:
        stem, _, leaf = name.rpartition(".")
        if leaf not in ("weight", "bias") or not chosen(stem):
            yield name, value
            continue
        pair = halves.setdefault(stem, {})
        pair[leaf] = value
        if len(pair) == 2:
            yield stem, np.concatenate([pair["weight"].ravel(), pair["bias"]])
