"""Parameters whose gradient is zero in exact arithmetic, and how they are compared all the same.

The softmax does not see a constant added to all scores of one query, so a bias that all keys share
has no gradient: what is computed is rounding noise, which has no digits to agree in. Its size is
judged beside a tensor of the same layer, so that a gradient that should not be there still fails.

The key third of `qkv.bias` needs nothing: query and value share its tensor. With normalised keys it
is the whole of `k_norm.bias`, which is therefore joined to `k_norm.weight`.
"""

from collections.abc import Iterator

import numpy as np

from vit_spec import ViTConfig

Stream = Iterator[tuple[str, np.ndarray]]


def joined(stream: Stream, config: ViTConfig) -> Stream:
    """The stream with `...k_norm.weight` and `...k_norm.bias` as one quantity `...k_norm`."""
    if not config.qk_norm:
        yield from stream
        return
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, value in stream:
        stem, _, leaf = name.rpartition(".")
        if not stem.endswith("k_norm"):
            yield name, value
            continue
        pair = halves.setdefault(stem, {})
        pair[leaf] = value
        if len(pair) == 2:
            yield stem, np.concatenate([pair["weight"], pair["bias"]])


def explained(config: ViTConfig) -> tuple[str, ...]:
    """What `joined` did, for the report."""
    if not config.qk_norm:
        return ()
    return (
        "k_norm.bias has zero gradient in exact arithmetic (the softmax ignores it), so "
        "its rounding "
        "noise is measured beside k_norm.weight, as one tensor",
    )
