"""Optimizers: PyTorch's, and what it lacks. Twin: `vit_jax/optimizers.py`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vit_spec import OptimConfig, is_decayed
from vit_spec.groups import (
    check_muon,
    check_names,
    depth_of,
    frozen_names,
    is_orthogonalized,
    layer_share,
)

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the five iterations of Muon (https://kellerjordan.github.io/posts/muon)."""
MUON_RMS = 0.2
"""Size of Muon's steps, which is that of AdamW's: https://arxiv.org/abs/2502.16982, equation 4."""


def make_optimizer(
    model: nn.Module,
    config: OptimConfig,
    *,
    is_decayed: Callable[[str, int], bool] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of `config`; `train_step` sets the learning rate and clips.

    `is_decayed(name, rank)` says whether weight decay acts on a parameter; None: as `config` does.
    Parameters that `config` freezes no longer ask for gradients. Raises `ValueError` for layer-wise
    rates and Muon with parameters of unknown parts.
    """
    freeze(model, config)
    c, groups = config, _groups(model, config, is_decayed)
    if c.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=c.lr, betas=(c.b1, c.b2), eps=c.eps)
    if c.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum)
    if c.optimizer == "lion":
        return Lion(groups, lr=c.lr, betas=(c.b1, c.b2))
    return Muon(groups, lr=c.lr, momentum=c.momentum, betas=(c.b1, c.b2), eps=c.eps)


def freeze(model: nn.Module, config: OptimConfig) -> None:
    """Takes `requires_grad` from what `config` freezes. Raises `ValueError` as `frozen_names`."""
    if config.freeze:
        named = dict(model.named_parameters())
        for name in frozen_names(named, config.freeze):
            named[name].requires_grad_(False)


def _groups(
    model: nn.Module, config: OptimConfig, decays: Callable[[str, int], bool] | None
) -> list[dict[str, Any]]:
    """Parameters with the same weight decay, share of the learning rate and rule."""
    named = dict(model.named_parameters())
    if config.layer_decay < 1:
        check_names(named, f"layer_decay {config.layer_decay}")
    if config.optimizer == "muon":
        check_muon({name: p.ndim for name, p in named.items() if p.requires_grad})
    depth = depth_of(named) if config.layer_decay < 1 else 0
    groups: dict[Any, list[Tensor]] = {}
    for name, p in named.items():
        if not p.requires_grad:
            continue
        if decays is not None:
            decayed = decays(name, p.ndim)
        else:
            decayed = is_decayed(name, p.ndim, config.decayed)
        share = layer_share(name, depth, config.layer_decay) if config.layer_decay < 1 else 1.0
        orthogonal = config.optimizer == "muon" and is_orthogonalized(name, p.ndim)
        groups.setdefault((not decayed, share, orthogonal), []).append(p)
    return [
        {
            "params": groups[key],
            "weight_decay": 0.0 if key[0] else config.weight_decay,
            "share": key[1],
            "orthogonal": key[2],
        }
        for key in sorted(groups)
    ]


class Lion(torch.optim.Optimizer):
    """Lion (https://arxiv.org/abs/2302.06675), algorithm 2: `optax.lion`."""

    def __init__(self, groups: Any, *, lr: float, betas: tuple[float, float]):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        for group, p, state in _with_gradients(self):
            b1, b2 = group["betas"]
            m = state.setdefault("exp_avg", torch.zeros_like(p))
            direction = (b1 * m + (1 - b1) * p.grad).sign()
            m.copy_(b2 * m + (1 - b2) * p.grad)
            p.sub_(group["lr"] * (direction + group["weight_decay"] * p))


class Muon(torch.optim.Optimizer):
    """Muon in the parameters' own type: `optax.contrib.scale_by_muon`; `torch.optim.Muon`
    orthogonalizes in bfloat16 and corrects no bias. Adam in groups that are not `orthogonal`."""

    def __init__(
        self, groups: Any, *, lr: float, momentum: float, betas: tuple[float, float], eps: float
    ):
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, defaults | {"orthogonal": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        for group, p, state in _with_gradients(self):
            t = state["step"] = state.get("step", 0) + 1
            direction = (_muon if group["orthogonal"] else _adam)(p, state, group, t)
            p.sub_(group["lr"] * (direction + group["weight_decay"] * p))


def _muon(p: Any, state: dict[str, Any], group: dict[str, Any], t: int) -> Tensor:
    c = group["momentum"]
    m = state.setdefault("exp_avg", torch.zeros_like(p))
    m.copy_(c * m + (1 - c) * p.grad)
    ahead = c * m / (1 - c ** (t + 1)) + (1 - c) * p.grad / (1 - c**t)  # Nesterov
    return MUON_RMS * max(p.shape) ** 0.5 * orthogonalized(ahead, group["eps"])


def _adam(p: Any, state: dict[str, Any], group: dict[str, Any], t: int) -> Tensor:
    b1, b2 = group["betas"]
    m = state.setdefault("exp_avg", torch.zeros_like(p))
    v = state.setdefault("exp_avg_sq", torch.zeros_like(p))
    m.copy_(b1 * m + (1 - b1) * p.grad)
    v.copy_(b2 * v + (1 - b2) * p.grad * p.grad)
    return m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + group["eps"])


def orthogonalized(x: Tensor, eps: float) -> Tensor:
    """Five Newton-Schulz iterations on a matrix: its singular values come near 1."""
    if x.shape[0] > x.shape[1]:
        return orthogonalized(x.T, eps).T
    x, (a, b, c) = x / (x.norm() + eps), NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _with_gradients(optimizer: torch.optim.Optimizer) -> Any:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                yield group, p, optimizer.state[p]
