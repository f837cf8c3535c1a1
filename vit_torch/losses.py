"""Losses of logits. Twin: `vit_jax/losses.py`.

Shapes: b images, k classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_spec import OptimConfig


def loss_fn(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (b, k) with labels (b,) or probabilities (b, k).

    Integer `labels` name a class each; floating ones, as Mixup and CutMix make them, are the
    targets themselves. `label_smoothing` acts on both. All in at least float32.
    """
    return losses(logits, labels, OptimConfig(label_smoothing=label_smoothing)).mean()


def losses(logits: Tensor, labels: Tensor, config: OptimConfig) -> Tensor:
    """The loss of each image (b,), as `config` defines it; arguments as those of `loss_fn`."""
    logits = _widened(logits)
    if labels.ndim == logits.ndim:
        labels = labels.to(logits.dtype)
    smoothing = config.label_smoothing
    if config.loss == "softmax":
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    classes = logits.shape[-1]
    targets = labels if labels.ndim == logits.ndim else F.one_hot(labels.long(), classes)
    targets = targets.to(logits.dtype) * (1 - smoothing) + smoothing / classes
    if config.target_threshold is not None:
        targets = (targets > config.target_threshold).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def distillation_losses(logits: Tensor, teacher: Tensor, config: OptimConfig) -> Tensor:
    """What the teacher's logits (b, k) cost each image (b,): DeiT's, section 4.

    `hard`: cross-entropy with the teacher's likeliest class. `soft`: T^2 KL(teacher || student) of
    the probabilities at temperature T, as in the paper; DeiT's code divides this by k once more.
    """
    logits, teacher = _widened(logits), _widened(teacher).detach()
    if config.distill == "hard":
        return F.cross_entropy(logits, teacher.argmax(-1), reduction="none")
    t = config.distill_temperature
    ours, theirs = (logits / t).log_softmax(-1), (teacher / t).log_softmax(-1)
    return t * t * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit (b, k) is that of the label (b,), or of the likeliest (b, k)."""
    classes = labels.argmax(-1) if labels.ndim == logits.ndim else labels
    return logits.argmax(-1) == classes


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
