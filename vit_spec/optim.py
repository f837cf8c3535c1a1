"""The settings of an optimizer, as numbers and names that both twins' training steps read.

What they mean over time is in `vit_spec.schedule`, for each parameter in `vit_spec.groups`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Optimizer = Literal["adamw", "lion", "muon", "sgd"]
Schedule = Literal["cosine", "rsqrt"]
Loss = Literal["softmax", "bce"]
Kind = Literal["kernels", "biases", "norms", "tokens", "positions"]
EmaWarmup = Literal["none", "timm", "tensorflow"]
Distillation = Literal["none", "hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How parameters are updated. The default is AdamW with linear warmup and cosine decay.

    One step: the mean gradient over the batch, clipped to a global norm; the optimizer's direction;
    weight decay; times the learning rate and the share of the layer.

    `adamw` (https://arxiv.org/abs/1711.05101): bias correction, epsilon outside the root, decay
    times the learning rate: `optax.adamw`, `torch.optim.AdamW`. `lion`
    (https://arxiv.org/abs/2302.06675): the sign of a momentum, decay as in AdamW; the paper takes
    a learning rate 3 to 10 times smaller, a decay as much larger, and `b2` 0.99. `muon`
    (https://arxiv.org/abs/2502.16982): the matrices of the blocks move by their orthogonalized
    Nesterov momentum, scaled to the size of AdamW's steps, all else by AdamW, so the numbers of
    AdamW carry over; usual `momentum` 0.95. `sgd`: with `momentum`, and decay added to the
    gradient, as in `torch.optim.SGD`.
    """

    optimizer: Optimizer = "adamw"
    """Rule of the update."""
    lr: float = 1e-3
    """Peak learning rate."""
    end_lr: float = 0.0
    """Learning rate at and after the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0, its value at step 0."""
    total_steps: int = 1000
    """Steps after which the learning rate has reached `end_lr`, warmup and cooldown included."""
    schedule: Schedule = "cosine"
    """What follows warmup: half a cosine, or lr / sqrt(1 + steps / timescale) and a cooldown."""
    timescale: int = 10_000
    """Steps after warmup in which `rsqrt` falls to lr / sqrt(2)."""
    cooldown_steps: int = 0
    """Last steps of `rsqrt`, over which the learning rate goes linearly to `end_lr`; 0: it stays
    at what rsqrt gives."""
    layer_decay: float = 1.0
    """Factor of the learning rate from a layer to the one below it: embeddings, blocks, head."""
    weight_decay: float = 0.05
    """Weight decay of the parameters that `decayed` names."""
    decayed: tuple[Kind, ...] = ("kernels",)
    """What weight decay acts on: `kernels`, `biases` of linear layers, `norms` (their scales and
    biases, and LayerScale), `tokens`, `positions`."""
    b1: float = 0.9
    """Decay of the first moment of AdamW and Lion."""
    b2: float = 0.999
    """Decay of the second moment of AdamW; of the momentum of Lion."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    momentum: float = 0.9
    """Decay of the momentum of SGD and Muon."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients; None: no clipping. No epsilon in the division."""
    accumulate: int = 1
    """Parts of a batch that go through the model one after the other, to save memory. Their
    gradients add up to exactly the batch's mean; the batch's size does not change."""
    loss: Loss = "softmax"
    """`softmax`: cross-entropy over the classes; `bce`: binary cross-entropy of each class, their
    mean."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    target_threshold: float | None = None
    """With `bce`, targets above it count as 1 and the others as 0: 0 in DeiT III, whose mixed
    images show both their classes; None: targets as they are."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the parameters; None: no average."""
    ema_warmup: EmaWarmup = "none"
    """How that decay begins, at most `ema_decay` after t updates: `timm`: 1 - (1 + t)^(-2/3), of
    its ModelEmaV3; `tensorflow`: (1 + t) / (10 + t), of its ExponentialMovingAverage."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by patterns of their names in a checkpoint, such as
    `patch_embed.*`; one that begins with `!` takes back those before: `* !head.*`."""
    distill: Distillation = "none"
    """Learning from a teacher's logits (https://arxiv.org/abs/2012.12877): `hard`, its likeliest
    class; `soft`, its probabilities at `distill_temperature`."""
    distill_alpha: float = 0.5
    """Share of the teacher in the loss; DeiT: 0.5 for `hard`, 0.1 for `soft`."""
    distill_temperature: float = 3.0
    """Divides both logits in `soft`."""

    def __post_init__(self) -> None:
        found = [
            f"{name} {getattr(self, name)!r} is none of {', '.join(map(repr, allowed))}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        found += [
            f"{name} {getattr(self, name)!r} must not be negative"
            for name in ("lr", "end_lr", "warmup_steps", "weight_decay", "eps", "cooldown_steps")
            if getattr(self, name) < 0
        ]
        found += [
            f"{name} {getattr(self, name)} must be at least 1"
            for name in ("total_steps", "timescale", "accumulate")
            if getattr(self, name) < 1
        ]
        found += self._steps() + self._shares() + self._decayed()
        if self.clip_norm is not None and not self.clip_norm > 0:
            found.append(f"clip_norm {self.clip_norm!r} must be positive, or None for no clipping")
        if not self.distill_temperature > 0:
            found.append(f"distill_temperature {self.distill_temperature!r} must be positive")
        if self.ema_warmup != "none" and self.ema_decay is None:
            found.append(f"ema_warmup {self.ema_warmup!r} needs an ema_decay, such as 0.9999")
        if self.target_threshold is not None and self.loss != "bce":
            found.append("target_threshold needs loss='bce'")
        if self.target_threshold is not None and self.label_smoothing:
            found.append(
                "target_threshold undoes label_smoothing, and below it every target is 1: set "
                "label_smoothing to 0 or target_threshold to None"
            )
        if found:
            raise ValueError("; ".join(found))

    def _steps(self) -> list[str]:
        """What does not fit into the steps there are."""
        if self.total_steps < 1:
            return []
        if self.warmup_steps > self.total_steps:
            return [
                f"warmup_steps {self.warmup_steps} is more than total_steps {self.total_steps}, "
                f"which include it: set warmup_steps to {self.total_steps // 10}, say, or "
                f"total_steps to at least {self.warmup_steps}"
            ]
        if self.cooldown_steps and self.schedule != "rsqrt":
            return [f"cooldown_steps {self.cooldown_steps} needs schedule='rsqrt'"]
        if self.warmup_steps + self.cooldown_steps > self.total_steps:
            return [
                f"warmup_steps {self.warmup_steps} and cooldown_steps {self.cooldown_steps} are "
                f"more than total_steps {self.total_steps}, which include them: set cooldown_steps "
                f"to at most {self.total_steps - self.warmup_steps}"
            ]
        return []

    def _shares(self) -> list[str]:
        found = []
        for name in ("b1", "b2", "momentum", "label_smoothing", "ema_decay", "target_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                found.append(f"{name} {value!r} is outside [0, 1)")
        if not 0 < self.layer_decay <= 1:
            found.append(f"layer_decay {self.layer_decay!r} is outside (0, 1]; 1 means none")
        if not 0 <= self.distill_alpha <= 1:
            found.append(f"distill_alpha {self.distill_alpha!r} is outside [0, 1]")
        return found

    def _decayed(self) -> list[str]:
        unknown = [kind for kind in self.decayed if kind not in get_args(Kind)]
        if not unknown:
            return []
        return [
            f"decayed {', '.join(map(repr, unknown))} is none of "
            f"{', '.join(map(repr, get_args(Kind)))}"
        ]


CHOICES = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "loss": get_args(Loss),
    "ema_warmup": get_args(EmaWarmup),
    "distill": get_args(Distillation),
}
"""Settings that are one of some names."""
