"""Losses of logits. Twin: `vit_torch/losses.py`.

Shapes: b images, k classes.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vit_spec import OptimConfig


def loss_fn(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Mean cross-entropy of logits (b, k) with labels (b,) or probabilities (b, k).

    Integer `labels` name a class each; floating ones, as Mixup and CutMix make them, are the
    targets themselves. `label_smoothing` acts on both. All in at least float32.
    """
    return losses(logits, labels, OptimConfig(label_smoothing=label_smoothing)).mean()


def losses(logits: Array, labels: Array, config: OptimConfig) -> Array:
    """The loss of each image (b,), as `config` defines it; arguments as those of `loss_fn`."""
    logits = _widened(logits)
    if labels.ndim == logits.ndim:
        targets = labels.astype(logits.dtype)
    else:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, config.label_smoothing)
    if config.loss == "softmax":
        return optax.softmax_cross_entropy(logits, targets)
    if config.target_threshold is not None:
        targets = (targets > config.target_threshold).astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def distillation_losses(logits: Array, teacher: Array, config: OptimConfig) -> Array:
    """What the teacher's logits (b, k) cost each image (b,): DeiT's, section 4.

    `hard`: cross-entropy with the teacher's likeliest class. `soft`: T^2 KL(teacher || student) of
    the probabilities at temperature T, as in the paper; DeiT's code divides this by k once more.
    """
    logits, teacher = _widened(logits), jax.lax.stop_gradient(_widened(teacher))
    if config.distill == "hard":
        return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(-1))
    t = config.distill_temperature
    ours, theirs = jax.nn.log_softmax(logits / t), jax.nn.log_softmax(teacher / t)
    return t * t * (jnp.exp(theirs) * (theirs - ours)).sum(-1)


def hits(logits: Array, labels: Array) -> Array:
    """Whether the largest logit (b, k) is that of the label (b,), or of the likeliest (b, k)."""
    classes = labels.argmax(-1) if labels.ndim == logits.ndim else labels
    return logits.argmax(-1) == classes


def _widened(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
