"""What changes from step to step: the learning rate, and the decay of the moving average."""

import math

from vit_spec.optim import OptimConfig


def learning_rate(config: OptimConfig, step: int) -> float:
    """Learning rate of the update number `step`, counted from 0.

    Warmup is lr * step / warmup_steps. `cosine`, the closed form of
    `optax.warmup_cosine_decay_schedule`: end_lr + (lr - end_lr) (1 + cos(pi * progress)) / 2.
    `rsqrt`, big_vision's (`create_learning_rate_schedule`): lr / sqrt(1 + n / timescale) for n
    steps after warmup; over the last `cooldown_steps` its distance from `end_lr` shrinks linearly
    to 0.
    """
    c, after = config, step - config.warmup_steps
    if after < 0:
        return c.lr * step / c.warmup_steps
    if c.schedule == "cosine":
        length = c.total_steps - c.warmup_steps
        progress = min(1.0, after / length) if length else 1.0
        return c.end_lr + (c.lr - c.end_lr) * (1 + math.cos(math.pi * progress)) / 2
    rate = c.lr / math.sqrt(1 + after / c.timescale)
    if not c.cooldown_steps:
        return rate
    left = min(1.0, max(0, c.total_steps - step) / c.cooldown_steps)
    return c.end_lr + (rate - c.end_lr) * left


def ema_decay(config: OptimConfig, step: int) -> float:
    """Decay of the moving average in the update number `step`, counted from 0.

    Raises `ValueError` if there is no average.
    """
    if config.ema_decay is None:
        raise ValueError("ema_decay is None: there is no moving average")
    if config.ema_warmup == "timm":
        return min(config.ema_decay, 1 - (1 + step) ** (-2 / 3))
    if config.ema_warmup == "tensorflow":
        return min(config.ema_decay, (1 + step) / (10 + step))
    return config.ema_decay
