"""Loss, optimizer and one training step. Twin: `vit_jax/training.py`.

Shapes: b images, k classes.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_spec import OptimConfig, is_decayed, learning_rate

Metrics = dict[str, Tensor]
Params = dict[str, Tensor]


def make_optimizer(
    model: nn.Module,
    config: OptimConfig,
    *,
    is_decayed: Callable[[str, int], bool] = is_decayed,
) -> torch.optim.AdamW:
    """AdamW that decays kernels only; `train_step` sets the learning rate and clips.

    `is_decayed(name, rank)` says whether weight decay acts on a parameter.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for n, p in named if is_decayed(n, p.ndim)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for n, p in named if not is_decayed(n, p.ndim)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.b1, config.b2), eps=config.eps)


def init_ema(model: nn.Module, config: OptimConfig) -> Params | None:
    """The moving average before the first step."""
    if config.ema_decay is None:
        return None
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def loss_fn(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (b, k) with labels (b,) or probabilities (b, k).

    Integer `labels` name a class each; floating ones, as Mixup and CutMix make them, are the
    targets themselves. `label_smoothing` acts on both. All in at least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.ndim == logits.ndim:
        labels = labels.to(logits.dtype)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit (b, k) is that of the label (b,), or of the likeliest (b, k)."""
    classes = labels.argmax(-1) if labels.ndim == logits.ndim else labels
    return logits.argmax(-1) == classes


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    masks: Mapping[str, Tensor] | None = None,
    *,
    config: OptimConfig,
    step: int,
    ema: Params | None = None,
) -> Metrics:
    """Update number `step` (from 0) of `model`, `optimizer` and `ema`, in place.

    Metrics are of the batch before the update: `loss`, `accuracy`, the gradients' norm before
    clipping `grad_norm`, and the learning rate `lr`.
    """
    lr = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    logits = model(images, masks)
    loss = loss_fn(logits, labels, label_smoothing=config.label_smoothing)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = clip_gradients(grads, config.clip_norm)
    optimizer.step()
    average(ema, model, config)
    accuracy = hits(logits, labels).float().mean()
    return {
        "loss": loss.detach(),
        "accuracy": accuracy,
        "grad_norm": norm,
        "lr": torch.tensor(lr, dtype=torch.float64),
    }


@torch.no_grad()
def clip_gradients(grads: list[Tensor], limit: float | None) -> Tensor:
    """Scales gradients in place to a global norm of at most `limit`; returns the norm before.

    Unlike `torch.nn.utils.clip_grad_norm_` nothing is added to the norm in the division, as in
    `optax.clip_by_global_norm`.
    """
    # `torch.linalg.vector_norm` would add up in sequence: ten times the rounding of `sum` in
    # float32.
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    if limit is not None and norm >= limit:
        for g in grads:
            g.div_(norm).mul_(limit)
    return norm


@torch.no_grad()
def average(ema: Params | None, model: nn.Module, config: OptimConfig) -> None:
    """decay * ema + (1 - decay) * parameters, in place."""
    if ema is None or config.ema_decay is None:
        return
    for name, parameter in model.named_parameters():
        ema[name].mul_(config.ema_decay).add_(parameter, alpha=1 - config.ema_decay)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Params, Params]:
    """Adam's first and second moments by parameter name."""
    named = dict(model.named_parameters())
    states = {name: optimizer.state[p] for name, p in named.items() if p in optimizer.state}
    first = {name: s["exp_avg"] for name, s in states.items()}
    return first, {name: s["exp_avg_sq"] for name, s in states.items()}
