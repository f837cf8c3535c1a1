"""Save and load a training run between two steps. Twin: `vit_jax/training_state.py`.

model, optimizer, optim, step, ema = load_training("run")
train_step(model, optimizer, images, labels, masks, config=optim, step=step, ema=ema)
"""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vit_spec import Header, OptimConfig, Preprocessing, TrainingState, training_state
from vit_spec.groups import moments_of
from vit_spec.layout import State
from vit_torch.api import from_state, get_state, to_numpy, to_tensor
from vit_torch.training import Params, make_optimizer, moments
from vit_torch.vit import ViT

Training = tuple[ViT, torch.optim.Optimizer, OptimConfig, int, Params | None]
SETTINGS = (
    *("betas", "eps", "weight_decay", "amsgrad", "maximize", "momentum", "dampening", "nesterov"),
    *("share", "orthogonal"),
)


def save_training(
    model: ViT,
    path: str | os.PathLike[str],
    optimizer: torch.optim.Optimizer,
    optim: OptimConfig,
    *,
    step: int,
    ema: Params | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> None:
    """Writes the directory from which both twins train on (see `vit_spec.training_state`).

    `step` is the number of updates done. Raises `ValueError` if `optimizer` is not one of `optim`.
    """
    training = get_training(
        model, optimizer, optim, step=step, ema=ema, preprocessing=preprocessing, labels=labels
    )
    training_state.write(path, training)


def load_training(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Training:
    """Model, optimizer, its settings, updates done and moving average of a directory.

    `dtype` None keeps the file's. Raises `FileNotFoundError`, or `ValueError` naming every missing,
    extra and wrong-shaped tensor.
    """
    return from_training(training_state.read(path), dtype=dtype, device=device)


def get_training(
    model: ViT,
    optimizer: torch.optim.Optimizer,
    optim: OptimConfig,
    *,
    step: int,
    ema: Params | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> TrainingState:
    """A run as NumPy arrays by name; they share memory with a model on the CPU.

    Raises `ValueError` if `optimizer` is not one of `optim`, or counts other steps.
    """
    _check(model, optimizer, optim, step)
    header = Header(
        config=model.config, preprocessing=preprocessing or Preprocessing(), labels=labels
    )
    m, v = moments(model, optimizer)
    if step == 0 and not optimizer.state:  # PyTorch makes the moments in the first step
        m, v = (_zeros(model, optim, kind) for kind in ("m", "v"))
    return TrainingState(
        header=header,
        optim=optim,
        step=step,
        params=get_state(model),
        m=_arrays(m),
        v=_arrays(v),
        ema=None if ema is None else _arrays(ema),
    )


def from_training(
    training: TrainingState,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Training:
    """The inverse of `get_training`: copies, in the dtype of the parameters."""
    model = from_state(training.header.config, training.params, dtype=dtype, device=device)
    named = dict(model.named_parameters())

    def placed(tree: State) -> Params:
        return {
            name: to_tensor(tree[name]).to(p.device, p.dtype, copy=True)
            for name, p in named.items()
            if name in tree
        }

    optimizer = make_optimizer(model, training.optim)
    _fill(optimizer, named, placed(training.m), placed(training.v), training)
    ema = None if training.ema is None else placed(training.ema)
    return model, optimizer, training.optim, training.step, ema


def _check(
    model: nn.Module, optimizer: torch.optim.Optimizer, optim: OptimConfig, step: int
) -> None:
    """Raises `ValueError` unless `make_optimizer(model, optim)` could go on from `optimizer`."""
    ours, expected = _settings(optimizer), _settings(make_optimizer(model, optim))
    for name, parameter in model.named_parameters():
        found = ours.get(parameter)
        if found != expected.get(parameter):
            raise ValueError(
                f"the optimizer's settings for {name} are {found}, and optim says "
                f"{expected.get(parameter)}: make it with make_optimizer(model, optim)"
            )
    counts = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    if counts - {float(step)}:
        raise ValueError(
            f"step {step} is not what the optimizer counts, "
            f"{', '.join(f'{count:.0f}' for count in sorted(counts))}: give the number of updates "
            f"done"
        )


def _fill(
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, Tensor],
    m: Params,
    v: Params,
    training: TrainingState,
) -> None:
    """Gives the optimizer the moments, as it would have made them."""
    kind, done = training.optim.optimizer, training.step
    first = "momentum_buffer" if kind == "sgd" else "exp_avg"
    for name in m:
        state = optimizer.state[named[name]]
        if kind == "adamw":
            state["step"] = torch.tensor(float(done))  # on the CPU, as AdamW makes it
        if kind == "muon":
            state["step"] = done
        state[first] = m[name]
        if name in v:
            state["exp_avg_sq"] = v[name]


def _zeros(model: nn.Module, optim: OptimConfig, kind: str) -> Params:
    return {
        name: torch.zeros_like(p)
        for name, p in model.named_parameters()
        if p.requires_grad and kind in moments_of(name, p.ndim, optim)
    }


def _settings(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, object]]:
    """The settings of each parameter, in the form that a comparison needs."""
    return {
        parameter: {
            k: tuple(group[k]) if k == "betas" else group[k] for k in SETTINGS if k in group
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _arrays(tensors: Params) -> State:
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}
