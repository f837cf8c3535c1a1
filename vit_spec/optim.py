"""AdamW with linear warmup and cosine decay, as numbers that both twins' training steps read."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW (https://arxiv.org/abs/1711.05101) with decoupled decay, times the learning rate.

    One step: clip the gradients to a global norm, Adam with bias correction and epsilon outside
    the root, add `weight_decay * parameter` for kernels (see `is_decayed`), multiply by the
    learning rate. This is `optax.adamw` and `torch.optim.AdamW`.
    """

    lr: float = 1e-3
    """Peak learning rate."""
    end_lr: float = 0.0
    """Learning rate at and after the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0, its value at step 0."""
    total_steps: int = 1000
    """Steps after which the cosine has reached `end_lr`, warmup included."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the kernels."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients; None: no clipping. No epsilon in the division."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the parameters; None: no average."""

    def __post_init__(self) -> None:
        found = [
            f"{name} {getattr(self, name)!r} must not be negative"
            for name in ("lr", "end_lr", "warmup_steps", "weight_decay", "eps")
            if getattr(self, name) < 0
        ]
        if self.total_steps < 1:
            found.append(f"total_steps {self.total_steps} must be at least 1")
        elif self.warmup_steps > self.total_steps:
            found.append(
                f"warmup_steps {self.warmup_steps} is more than total_steps {self.total_steps}, "
                f"which include it: set warmup_steps to {self.total_steps // 10}, say, or "
                f"total_steps to at least {self.warmup_steps}"
            )
        for name in ("b1", "b2", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                found.append(f"{name} {value!r} is outside [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            found.append(f"clip_norm {self.clip_norm!r} must be positive, or None for no clipping")
        if found:
            raise ValueError("; ".join(found))


def learning_rate(config: OptimConfig, step: int) -> float:
    """Learning rate of the update number `step`, counted from 0.

    The closed form of `optax.warmup_cosine_decay_schedule`: lr * step / warmup_steps, then
    end_lr + (lr - end_lr) (1 + cos(pi * progress)) / 2.
    """
    c = config
    if step < c.warmup_steps:
        return c.lr * step / c.warmup_steps
    length = c.total_steps - c.warmup_steps
    progress = min(1.0, (step - c.warmup_steps) / length) if length else 1.0
    return c.end_lr + (c.lr - c.end_lr) * (1 + math.cos(math.pi * progress)) / 2


def is_decayed(name: str, rank: int) -> bool:
    """Whether weight decay acts on a parameter: kernels only, as in timm, DeiT and big_vision.

    Biases, norms, LayerScale, tokens and position embeddings are left alone. Takes either twin's
    name of the parameter.
    """
    return rank >= 2 and name.rpartition(".")[2] in ("kernel", "weight")
