"""What a worker does in PyTorch: timm, or our twin, in training and in inference.

timm is given what makes it fast: channels-last images and convolution, fused AdamW, the loss in the
compiled graph, products of float32 in TF32 on a GPU (as XLA has them).
"""

import contextlib
import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_torch
from benchmarks._cases import Case
from benchmarks._work import Work
from vit_spec import OptimConfig
from vit_torch.training import train_step

OPTIM = OptimConfig(warmup_steps=100, total_steps=100_000)
PLACES = {"cpu": "cpu", "gpu": "cuda"}


def train(library: str, case: Case, options: dict[str, Any], device: str) -> Work:
    """One training step: forward, cross-entropy, backward, clipping to norm 1, AdamW.

    bfloat16 is autocast over float32 parameters; with the option `pure`, parameters and optimizer
    are in bfloat16 as well.
    """
    model, images = _prepared(library, case, device, bool(options.get("pure")))
    labels = torch.arange(case.batch_size, device=images.device) % case.config.num_classes
    context = _precision(case, options, images.device.type)
    make = _timm_step if library == "timm" else _twin_step
    step = make(model.train(), images, labels, context, partial(_compiled, options=options))

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        _wait(device)

    return Work(run=run, amount=case.batch_size, rest=partial(_rest, device), peak=_peak(device))


def infer(library: str, case: Case, options: dict[str, Any], device: str) -> Work:
    """Logits, parameters and images in `case.dtype`; a batch of one waits for each result."""
    model, images = _prepared(library, case, device, case.dtype == "bfloat16")
    forward = _compiled(model.eval(), options=options)

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                forward(images)
                if case.batch_size == 1:
                    _wait(device)
        _wait(device)

    return Work(run=run, amount=case.batch_size, rest=partial(_rest, device), peak=_peak(device))


def compile(library: str, case: Case, options: dict[str, Any], device: str) -> Work:
    """The first training step as a whole; the facts are seconds."""
    work = train(library, case, options, device)
    begin = time.perf_counter()
    work.run(1)
    work.facts = {"seconds": {"first": time.perf_counter() - begin}}
    return work


def _prepared(library: str, case: Case, device: str, pure: bool) -> tuple[nn.Module, Tensor]:
    """The model and random images on the device."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if device == "gpu" else "highest")
    config, place = case.config, PLACES[device]
    if library == "timm":
        # which makes torchvision importable
        create = importlib.import_module("tests.oracles.timm_models").create_model
        changes: dict[str, Any] = {} if case.depth is None else {"depth": case.depth}
        if not case.class_token:
            changes |= {"class_token": False, "global_pool": "avg"}
        model = create(case.variant, img_size=case.image_size, **changes)
    else:
        model = vit_torch.create(config)
    count = sum(p.numel() for p in model.parameters())
    shape = (case.batch_size, config.in_channels, *config.image_shape)
    images = torch.randn(shape)
    if pure:
        model, images = model.bfloat16(), images.bfloat16()
    layout: Any = {"device": place, "memory_format": torch.channels_last}
    model, images = model.to(**layout), images.to(**layout)
    _check(library, case, count)
    return model, images


def _check(library: str, case: Case, count: int) -> None:
    """The same model for all, as far as its parameters tell."""
    from vit_spec import count_parameters

    wanted = count_parameters(case.config)
    if count != wanted:
        raise ValueError(f"{library}'s {case} has {count:,} parameters, ours {wanted:,}")


def _compiled(what: Any, options: dict[str, Any]) -> Any:
    if "eager" in options:
        return what
    return torch.compile(what, mode=options.get("mode"), dynamic=False)


def _precision(case: Case, options: dict[str, Any], place: str) -> Callable[[], Any]:
    if case.dtype == "float32" or "pure" in options:
        return contextlib.nullcontext
    return partial(torch.autocast, place, torch.bfloat16)


def _timm_step(
    model: nn.Module, images: Tensor, labels: Tensor, context: Any, compiled: Any
) -> Callable[[], None]:
    """As timm's own training script does it: two groups of weight decay, fused AdamW."""
    from timm.optim import param_groups_weight_decay

    groups = param_groups_weight_decay(model, OPTIM.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.lr, betas=(OPTIM.b1, OPTIM.b2), fused=True)
    parameters = list(model.parameters())

    def objective(images: Tensor, labels: Tensor) -> Tensor:
        with context():
            return F.cross_entropy(model(images).float(), labels)

    objective = compiled(objective)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(images, labels).backward()
        nn.utils.clip_grad_norm_(parameters, OPTIM.clip_norm or float("inf"))
        optimizer.step()

    return step


def _twin_step(
    model: nn.Module, images: Tensor, labels: Tensor, context: Any, compiled: Any
) -> Callable[[], None]:
    """The reference step of `vit_torch.training`, its model compiled."""
    optimizer = vit_torch.training.make_optimizer(model, OPTIM)
    faster, count = compiled(model), 0

    def step() -> None:
        nonlocal count
        with context():
            train_step(faster, optimizer, images, labels, config=OPTIM, step=count)
        count += 1

    return step


def _wait(device: str) -> None:
    if device == "gpu":
        torch.cuda.synchronize()


def _rest(device: str) -> None:
    if device == "gpu":
        torch.cuda.empty_cache()


def _peak(device: str) -> Callable[[Callable[[], None]], dict[str, Any]] | None:
    """Of the device while something runs; on a CPU, of the process instead."""
    if device == "cpu":
        return None

    def measured(run: Callable[[], None]) -> dict[str, Any]:
        torch.cuda.reset_peak_memory_stats()
        run()
        return {"kind": "device", "peak": torch.cuda.max_memory_allocated()}

    return measured
