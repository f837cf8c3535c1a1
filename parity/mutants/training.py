"""Bugs in the loss, the optimizer, the schedule and the moving average."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mutants.mutant import Mutant, Plant
from parity.mutants.torch_training import TorchTraining
from vit_spec import OptimConfig, learning_rate
from vit_torch.losses import loss_fn
from vit_torch.training import clip_gradients


def _with(**parts: Any) -> Callable[[Plant], None]:
    """One part of the PyTorch side's training exchanged."""
    return lambda plant: setattr(plant, "torch_training", TorchTraining(**parts))


def _cosine(c: OptimConfig, done: float, length: float) -> float:
    progress = min(1.0, done / max(length, 1e-9))
    return c.end_lr + (c.lr - c.end_lr) * (1 + math.cos(math.pi * progress)) / 2


def _early_end(c: OptimConfig, t: int) -> float:
    w = c.warmup_steps
    return learning_rate(c, t) if t < w else _cosine(c, t - w, c.total_steps - w - 1)


def _long_cosine(c: OptimConfig, t: int) -> float:
    w = c.warmup_steps
    return learning_rate(c, t) if t < w else _cosine(c, t - w, c.total_steps)


def _constant(c: OptimConfig, t: int) -> float:
    return learning_rate(c, t) if t < c.warmup_steps else c.lr


def _first_fraction(c: OptimConfig, t: int) -> float:
    return c.lr * (t + 1) / c.warmup_steps if t < c.warmup_steps else learning_rate(c, t)


def _clip_with_epsilon(grads: list[Tensor], limit: float | None) -> Tensor:
    return torch.nn.utils.clip_grad_norm_(_holders(grads), limit or math.inf)


def _holders(grads: list[Tensor]) -> list[Tensor]:
    """Parameters whose gradients are the given tensors."""
    holders = [torch.zeros_like(g) for g in grads]
    for holder, grad in zip(holders, grads, strict=True):
        holder.grad = grad
    return holders


def _clip_each(grads: list[Tensor], limit: float | None) -> Tensor:
    norm = clip_gradients(grads, None)
    for grad in grads:
        clip_gradients([grad], limit)
    return norm


def _clip_square(grads: list[Tensor], limit: float | None) -> Tensor:
    norm = clip_gradients(grads, None)
    for grad in grads:
        grad.mul_(min(1.0, (limit or math.inf) / float(norm) ** 2))
    return norm


def _others_only(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    k = logits.shape[-1]
    hot = F.one_hot(labels, k).to(logits.dtype)
    targets = hot * (1 - label_smoothing) + (1 - hot) * label_smoothing / (k - 1)
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def _mean_of_means(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Gradient accumulation over two microbatches of unequal size."""
    half = math.ceil(len(labels) / 2)
    parts = ((logits[:half], labels[:half]), (logits[half:], labels[half:]))
    return sum(loss_fn(x, y, label_smoothing=label_smoothing) for x, y in parts) / 2  # type: ignore


def _sum(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    return loss_fn(logits, labels, label_smoothing=label_smoothing) * len(labels)


TRAINING = (
    Mutant("label smoothing left out", "training",
           _with(loss=lambda x, y, label_smoothing: loss_fn(x, y)), "label smoothing",
           "without smoothing", "loss"),
    Mutant("label smoothing to the other classes", "training", _with(loss=_others_only),
           "label smoothing", "other classes only", "loss"),
    Mutant("gradient accumulation: mean of unequal means", "training", _with(loss=_mean_of_means),
           "reduction", "mean of the means", "loss"),
    Mutant("loss summed over the batch", "training", _with(loss=_sum), "reduction", "sum", "loss"),
    Mutant("clipping: 1e-6 added to the norm", "training", _with(clip=_clip_with_epsilon),
           "clipping", "1e-6", "first moment"),
    Mutant("clipping tensor by tensor", "training", _with(clip=_clip_each), "clipping",
           "tensor by tensor", "first moment"),
    Mutant("clipping: root of the norm missing", "training", _with(clip=_clip_square), "clipping",
           "without the root", "first moment"),
    Mutant("no clipping", "training", _with(clip=lambda g, limit: clip_gradients(g, None)),
           "clipping", "none", "first moment"),
    Mutant("weight decay in the gradient (Adam, L2)", "training", _with(decay="in gradient"),
           "weight decay", "L2", "first moment"),
    Mutant("weight decay independent of the rate", "training", _with(decay="independent"),
           "weight decay", "independent", "update"),
    Mutant("weight decay left out", "training", _with(optim={"weight_decay": 0.0}),
           "weight decay", "none", "update"),
    Mutant("decay of every parameter", "training", _with(is_decayed=lambda name, rank: True),
           "decayed", "every parameter", "update"),
    Mutant("decay of all but biases", "training",
           _with(is_decayed=lambda name, rank: not name.endswith("bias")), "decayed",
           "all but biases", "update"),
    Mutant("decay of every tensor of rank 2 or more", "training",
           _with(is_decayed=lambda name, rank: rank >= 2), "decayed", "rank 2", "update"),
    Mutant("AdamW epsilon inside the root", "training", _with(epsilon="inside"), "epsilon",
           "inside the root", "update"),
    Mutant("AdamW epsilon before bias correction", "training", _with(epsilon="before correction"),
           "epsilon", "before bias correction", "update"),
    Mutant("no bias correction", "training", _with(bias_correction=False), "bias correction",
           "none", "update"),
    Mutant("b1 0.95 for 0.9", "training", _with(optim={"b1": 0.95}), "b1", "0.95", "first moment"),
    Mutant("b2 0.95 for 0.999", "training", _with(optim={"b2": 0.95}), "b2", "0.95",
           "second moment"),
    Mutant("schedule one step early", "training", _with(rate=lambda c, t: learning_rate(c, t + 1)),
           "schedule", "one step early", "update"),
    Mutant("schedule one step late", "training",
           _with(rate=lambda c, t: learning_rate(c, max(0, t - 1))), "schedule", "one step late",
           "update"),
    Mutant("cosine ends one step before", "training", _with(rate=_early_end), "schedule",
           "ends one step before", "update"),
    Mutant("cosine over all steps, warmup on top", "training", _with(rate=_long_cosine),
           "schedule", "warmup on top", "update"),
    Mutant("no cosine", "training", _with(rate=_constant), "schedule", "constant", "update"),
    Mutant("no warmup", "training", _with(rate=lambda c, t: _cosine(c, t, c.total_steps)),
           "schedule", "without warmup", "update"),
    Mutant("warmup from the first fraction", "training", _with(rate=_first_fraction), "schedule",
           "first fraction", "update"),
    Mutant("moving average warmed up", "training",
           _with(ema=lambda c, t: min(c.ema_decay, (1 + t) / (10 + t))), "decay", "warmed up",
           "moving average"),
    Mutant("moving average of the old parameters", "training", _with(ema_before=True), "of",
           "before the update", "moving average"),
    Mutant("moving average: decay exchanged", "training",
           _with(ema=lambda c, t: 1 - c.ema_decay), "decay", "exchanged", "moving average"),
)  # fmt: skip
