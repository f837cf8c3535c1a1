"""Which parameters an optimizer treats how: weight decay, layers, frozen ones, moments.

Names are those of either twin unless a docstring says otherwise; `rank` is the tensor's.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from vit_spec.layout import LINEAR
from vit_spec.names import unknown_name
from vit_spec.optim import Kind, OptimConfig

TOKENS = ("cls_token", "dist_token", "reg_token", "latent")
STEM = (*TOKENS[:3], "pos_embed", "patch_embed", "norm_pre")
TAIL = ("norm", "attn_pool", "fc_norm", "pre_logits", "head", "head_dist")
"""What stands before the blocks of a ViT, and after them."""


def kind_of(name: str, rank: int) -> Kind:
    """What a parameter is, in the terms of `OptimConfig.decayed`.

    Raises `ValueError` for one of another model whose name does not tell.
    """
    kinds = _kinds(name, rank)
    if len(kinds) > 1:
        raise ValueError(f"the name {name} does not tell whether it is of {' or '.join(kinds)}")
    return next(iter(kinds))


def _kinds(name: str, rank: int) -> tuple[Kind, ...]:
    """What a parameter may be: of the models here one thing, of others sometimes several."""
    path, _, leaf = name.rpartition(".")
    owner = path.rpartition(".")[2]
    if leaf == "pos_embed":
        return ("positions",)
    if leaf in TOKENS:
        return ("tokens",)
    if leaf in ("kernel", "weight"):
        return ("kernels",) if rank >= 2 else ("norms",)
    if leaf == "bias" and owner in LINEAR:
        return ("biases",)
    if leaf in ("scale", "gamma") or (leaf == "bias" and "norm" in owner):
        return ("norms",)
    return ("biases", "norms") if leaf == "bias" else ("biases", "norms", "tokens", "positions")


def is_decayed(name: str, rank: int, decayed: Iterable[Kind] = ("kernels",)) -> bool:
    """Whether weight decay acts on a parameter.

    By default kernels only, as in timm, DeiT and big_vision: biases, norms, LayerScale, tokens and
    position embeddings are left alone. Raises `ValueError` if that depends on what the name of a
    parameter of another model does not tell.
    """
    decayed, kinds = list(decayed), _kinds(name, rank)
    answers = {kind in decayed for kind in kinds}
    if len(answers) > 1:
        raise ValueError(
            f"decayed ({', '.join(decayed)}): the name {name} does not tell whether it is of "
            f"{' or '.join(kinds)}: decay all or none of these, or give make_optimizer an "
            "is_decayed of your own"
        )
    return answers.pop()


def depth_of(names: Iterable[str]) -> int:
    """Number of blocks of a model with these parameters; 0 if none has the name of a block."""
    parts = (name.split(".") for name in names)
    blocks = [int(p[1]) for p in parts if p[0] == "blocks" and len(p) > 1 and p[1].isdigit()]
    return max(blocks, default=-1) + 1


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter, as BEiT counts (`get_num_layer_for_vit`, also MAE's): embeddings 0,
    block i is i + 1, and what follows, the last norm included, depth + 1.

    Raises `ValueError` for a parameter of another model.
    """
    check_names([name], "layer_decay")
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return 0 if parts[0] in STEM else depth + 1


def check_names(names: Iterable[str], rule: str) -> None:
    """Raises `ValueError` for names that are not of a ViT's parts, by which `rule` goes."""
    unknown = [name for name in names if name.split(".")[0] not in ("blocks", *STEM, *TAIL)]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"{rule} goes by the names of a ViT's parts (patch_embed, blocks.0, head, ...), which "
            f"do not cover {', '.join(unknown[:5])}{more}"
        )


def check_muon(ranks: Mapping[str, int]) -> None:
    """Raises `ValueError` if Muon would leave all, or those of unknown parts, to Adam."""
    check_names(ranks, "optimizer 'muon'")
    if not any(is_orthogonalized(name, rank) for name, rank in ranks.items()):
        raise ValueError(
            "optimizer 'muon' moves the matrices of blocks.0, blocks.1, ..., and no parameter that "
            "is trained is one: use optimizer 'adamw'"
        )


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
    return name.startswith("blocks.") and rank == 2 and _kinds(name, rank) == ("kernels",)


def moments_of(name: str, rank: int, config: OptimConfig) -> tuple[str, ...]:
    """Which moments the optimizer keeps of a parameter that it trains: `m`, and in Adam `v`."""
    if config.optimizer == "adamw":
        return ("m", "v")
    if config.optimizer == "muon":
        return ("m",) if is_orthogonalized(name, rank) else ("m", "v")
    return ("m",) if config.optimizer == "lion" or config.momentum else ()
