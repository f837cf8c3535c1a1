"""`vit_torch.training` with every part exchangeable: the reference recipe, to be mutated."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vit_spec import OptimConfig, is_decayed, learning_rate
from vit_torch import losses, training


class AdamW(torch.optim.Optimizer):
    """AdamW with the variants that are found in the wild; its defaults are `torch.optim.AdamW`."""

    def __init__(self, groups: Any, config: OptimConfig, variant: "TorchTraining"):
        super().__init__(groups, {"lr": config.lr, "weight_decay": 0.0})
        self.config, self.variant = config, variant

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        c, variant = self.config, self.variant
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(
                        step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
                    )
                state["step"] += 1
                grad = p.grad + decay * p if variant.decay == "in gradient" else p.grad
                state["exp_avg"].lerp_(grad, 1 - c.b1)
                state["exp_avg_sq"].mul_(c.b2).addcmul_(grad, grad, value=1 - c.b2)
                first, second = (
                    (1 - b ** state["step"]) if variant.bias_correction else 1.0
                    for b in (c.b1, c.b2)
                )
                if variant.decay == "times rate":
                    p.mul_(1 - lr * decay)
                elif variant.decay == "independent":
                    p.mul_(1 - decay)
                m, v = state["exp_avg"] / first, state["exp_avg_sq"] / second
                if variant.epsilon == "inside":
                    root = (v + c.eps).sqrt()
                elif variant.epsilon == "before correction":
                    root = (state["exp_avg_sq"].sqrt() + c.eps) / math.sqrt(second)
                else:
                    root = v.sqrt() + c.eps
                p.sub_(lr * m / root)


@dataclass(frozen=True)
class TorchTraining:
    """The functions of `vit_torch.training`, with one part changed or none."""

    rate: Callable[[OptimConfig, int], float] = learning_rate
    clip: Callable[[list[Tensor], float | None], Tensor] = training.clip_gradients
    loss: Callable[..., Tensor] = losses.loss_fn
    is_decayed: Callable[[str, int], bool] = is_decayed
    decay: str = "times rate"  # "in gradient", "independent"
    epsilon: str = "outside"  # "inside", "before correction"
    bias_correction: bool = True
    optim: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # changed fields
    ema: Callable[[OptimConfig, int], float] = lambda config, step: config.ema_decay or 0.0
    ema_before: bool = False

    def make_optimizer(self, model: nn.Module, config: OptimConfig) -> AdamW:
        """AdamW over decayed and other parameters."""
        config = dataclasses.replace(config, **self.optim)
        named = list(model.named_parameters())
        groups = [
            {
                "params": [p for n, p in named if self.is_decayed(n, p.ndim) == decayed],
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for decayed in (True, False)
        ]
        return AdamW([g for g in groups if g["params"]], config, self)

    def init_ema(self, model: nn.Module, config: OptimConfig) -> Any:
        """As `vit_torch.training.init_ema`."""
        return training.init_ema(model, config)

    def moments(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """As `vit_torch.training.moments`."""
        return training.moments(model, optimizer)

    def train_step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        masks: Any = None,
        *,
        config: OptimConfig,
        step: int,
        ema: Any = None,
    ) -> dict[str, Tensor]:
        """As `vit_torch.training.train_step`."""
        lr = self.rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        logits = model(images, masks)
        loss = self.loss(logits, labels, label_smoothing=config.label_smoothing)
        loss.backward()
        norm = self.clip([p.grad for p in model.parameters() if p.grad is not None],
                         config.clip_norm)  # fmt: skip
        decay = dataclasses.replace(config, ema_decay=self.ema(config, step))
        if self.ema_before:
            training.average(ema, model, decay, step)
        optimizer.step()
        if not self.ema_before:
            training.average(ema, model, decay, step)
        return {
            "loss": loss.detach(),
            "accuracy": (logits.argmax(-1) == labels).float().mean(),
            "grad_norm": norm,
            "lr": torch.tensor(lr, dtype=torch.float64),
        }
