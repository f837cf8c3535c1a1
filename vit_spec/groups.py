"""Which parameters an optimizer treats how: weight decay, layers, frozen ones, moments.

Names are those of either twin unless a docstring says otherwise; `rank` is the tensor's.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from vit_spec.names import unknown_name
from vit_spec.optim import Kind, OptimConfig

TOKENS = ("cls_token", "dist_token", "reg_token", "latent")
STEM = (*TOKENS[:3], "pos_embed", "patch_embed", "norm_pre")


def kind_of(name: str, rank: int) -> Kind:
    """What a parameter is, in the terms of `OptimConfig.decayed`."""
    path, _, leaf = name.rpartition(".")
    if leaf == "pos_embed":
        return "positions"
    if leaf in TOKENS:
        return "tokens"
    if rank >= 2 and leaf in ("kernel", "weight"):
        return "kernels"
    if leaf == "bias" and "norm" not in path.rpartition(".")[2]:
        return "biases"
    return "norms"


def is_decayed(name: str, rank: int, decayed: Iterable[Kind] = ("kernels",)) -> bool:
    """Whether weight decay acts on a parameter.

    By default kernels only, as in timm, DeiT and big_vision: biases, norms, LayerScale, tokens and
    position embeddings are left alone.
    """
    return kind_of(name, rank) in decayed


def depth_of(names: Iterable[str]) -> int:
    """Number of blocks of a model with these parameters."""
    blocks = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    return max(blocks, default=-1) + 1


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter, as BEiT counts (`get_num_layer_for_vit`, also MAE's): embeddings 0,
    block i is i + 1, and what follows, the last norm included, depth + 1."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return 0 if parts[0] in STEM else depth + 1


def layer_share(name: str, depth: int, layer_decay: float) -> float:
    """Factor of the learning rate of a parameter: layer_decay^(depth + 1 - layer)."""
    return layer_decay ** (depth + 1 - layer_of(name, depth))


def frozen_names(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """The names that stay as they are under `OptimConfig.freeze`; all in PyTorch's form.

    The last pattern that fits decides. Raises `ValueError` if a pattern fits no name, or none is
    left to train.
    """
    names, chosen = list(names), set()
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        if not fits:
            near = unknown_name("parameter", pattern.removeprefix("!"), names)
            raise ValueError(f"freeze: the pattern {pattern!r} fits no parameter: {near}")
        chosen = chosen - fits if pattern.startswith("!") else chosen | fits
    if names and len(chosen) == len(names):
        raise ValueError(
            "freeze: no parameter is left to train: take some back with a pattern such as !head.*"
        )
    return frozenset(chosen)


def is_orthogonalized(name: str, rank: int) -> bool:
    """Whether Muon itself moves a parameter: the matrices of the blocks."""
    return name.startswith("blocks.") and rank == 2 and kind_of(name, rank) == "kernels"


def moments_of(name: str, rank: int, config: OptimConfig) -> tuple[str, ...]:
    """Which moments the optimizer keeps of a parameter that it trains: `m`, and in Adam `v`."""
    if config.optimizer == "adamw":
        return ("m", "v")
    if config.optimizer == "muon":
        return ("m",) if is_orthogonalized(name, rank) else ("m", "v")
    return ("m",) if config.optimizer == "lion" or config.momentum else ()
