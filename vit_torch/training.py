"""State and one training step. Twin: `vit_jax/training.py`.

Shapes: b images, k classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vit_spec import OptimConfig, learning_rate
from vit_spec.schedule import ema_decay
from vit_torch.buffers import check_no_buffers
from vit_torch.losses import distillation_losses, hits, losses
from vit_torch.optimizers import make_optimizer

__all__ = ["average", "clip_gradients", "init_ema", "make_optimizer", "moments", "train_step"]

Metrics = dict[str, Tensor]
Params = dict[str, Tensor]


def init_ema(model: nn.Module, config: OptimConfig) -> Params | None:
    """The moving average before the first step. Raises `ValueError` for a model with buffers."""
    if config.ema_decay is None:
        return None
    check_no_buffers(model, "a moving average")
    return {name: p.detach().clone() for name, p in model.named_parameters()}


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
    teacher: Tensor | None = None,
    weights: Tensor | None = None,
) -> Metrics:
    """Update number `step` (from 0) of `model`, `optimizer` and `ema`, in place.

    `teacher` (b, k): the teacher's logits, which `config.distill` asks for. `weights` (b,): the
    share of each image in all means; 0 leaves one out, such as padding. Metrics are of the batch
    before the update: `loss`, `accuracy`, the gradients' norm before clipping `grad_norm`, and the
    learning rate `lr`.
    """
    lr = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)
    optimizer.zero_grad(set_to_none=True)
    wide = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    shares = images.new_ones(len(labels), dtype=wide) if weights is None else weights.to(wide)
    batch = (images, labels, masks, teacher, shares / shares.sum())
    loss, accuracy = accumulated(model, batch, config)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = clip_gradients(grads, config.clip_norm)
    optimizer.step()
    average(ema, model, config, step)
    return {
        "loss": loss,
        "accuracy": accuracy.float(),
        "grad_norm": norm,
        "lr": torch.tensor(lr, dtype=torch.float64),
    }


def accumulated(model: nn.Module, batch: Any, config: OptimConfig) -> tuple[Tensor, Tensor]:
    """Gradients of the weighted loss, part by part; the loss and the accuracy.

    Part i of n has the images i, i + n, ...
    """
    images, labels, masks, teacher, shares = batch
    if len(labels) % config.accumulate:
        raise ValueError(
            f"a batch of {len(labels)} has no {config.accumulate} equal parts: set accumulate to a "
            f"divisor of {len(labels)}"
        )
    loss, accuracy = shares.new_zeros(()), shares.new_zeros(())
    for first in range(config.accumulate):
        part = slice(first, None, config.accumulate)
        some = None if masks is None else {site: mask[part] for site, mask in masks.items()}
        taught = None if teacher is None else teacher[part]
        logits, cost = costs(model, images[part], labels[part], some, taught, config)
        value = (shares[part] * cost).sum()
        value.backward()
        loss += value.detach()
        accuracy += (shares[part] * hits(logits, labels[part])).sum()
    return loss, accuracy


def costs(
    model: Any, images: Tensor, labels: Tensor, masks: Any, teacher: Any, config: OptimConfig
) -> tuple[Tensor, Tensor]:
    """Logits (b, k), and what each image (b,) costs with the teacher's share.

    With a distillation token the labels have the first head and the teacher the second one.
    """
    if (teacher is None) != (config.distill == "none"):
        raise ValueError(
            f"distill {config.distill!r} and {'no ' if teacher is None else ''}logits of a "
            f"teacher: give both or neither"
        )
    if teacher is None:
        logits = model(images, masks)
        return logits, losses(logits, labels, config)
    if model.config.distillation_token:
        ours, distilled = model.distilled(images, masks)
    else:
        ours = distilled = model(images, masks)
    share = config.distill_alpha
    cost = (1 - share) * losses(ours, labels, config)
    cost = cost + share * distillation_losses(distilled, teacher, config)
    return (ours + distilled) / 2, cost


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
def average(ema: Params | None, model: nn.Module, config: OptimConfig, step: int) -> None:
    """decay * ema + (1 - decay) * parameters after update `step` (from 0), in place."""
    if ema is None or config.ema_decay is None:
        return
    decay = ema_decay(config, step)
    for name, parameter in model.named_parameters():
        ema[name].mul_(decay).add_(parameter, alpha=1 - decay)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Params, Params]:
    """First and second moments by parameter name, as far as the optimizer keeps them."""
    first, second = {}, {}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            if key in ("exp_avg", "momentum_buffer"):
                first[name] = value
            elif key == "exp_avg_sq":
                second[name] = value
    return first, second
