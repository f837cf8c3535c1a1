"""Why two sides train differently: each step's formulas, side by side."""

from dataclasses import replace
from typing import Any

import torch

from parity import inputs
from parity.diagnosis.segments import Identified, closest, identify, rivals_of
from parity.diagnosis.steps import (
    L2,
    Run,
    loss_of,
    of_average,
    of_first_moment,
    of_loss,
    of_second_moment,
    of_updates,
    read_step,
)
from parity.diagnosis.trace import gap_of
from parity.findings import Attempt, Cause
from parity.structures import tensor

Found = dict[str, Identified]


def explain_training(
    pair: Any, jax: Any, torch_side: Any, steps: int, bound: float
) -> tuple[list[Cause], list[str], list[Attempt]]:
    """Causes, places that nothing explains, and what was tried there."""
    ours, theirs = (_identified(pair, side, steps, bound) for side in (jax, torch_side))
    causes: list[Cause] = []
    unexplained, attempts = [], []
    for place in (p for p in ours if p in theirs):  # an unknown loss has no known gradient
        a, b = closest(ours[place], theirs[place])
        if a.settings is None or b.settings is None:
            if a.settings is b.settings and gap_of(a.segment.target, b.segment.target) <= bound:
                continue
            unexplained.append(place)
            attempts += a.as_attempts("JAX") + b.as_attempts("PyTorch")
            continue
        for what, form in a.settings.items():
            other = b.settings.get(what, form)
            told = any(c.what == what == "weight decay" for c in causes)  # in the gradient, then
            if form != other and not told:
                effect = a.segment.predict({**a.settings, **b.settings})
                causes.append(
                    Cause(
                        place=place,
                        what=what,
                        jax=form,
                        torch=other,
                        gap=gap_of(effect, a.segment.target),
                        residual=max(a.residual, b.residual),
                        places=(place,),
                        rivals=rivals_of(what, a, b),
                    )
                )
    return causes, unexplained, attempts


def _identified(pair: Any, side: Any, steps: int, bound: float) -> Found:
    """What each formula of one side's training step turned out to be."""
    run, images = _run(pair, side, steps)
    found = {"loss": identify(of_loss(run), bound)}
    settings = found["loss"].settings
    if settings is not None:
        logits = run.logits.clone().requires_grad_()
        loss_of(logits, run.labels, run.optim.label_smoothing, settings).backward()
        pull = torch.as_tensor(logits.grad).numpy()
        gradient = {name: tensor(value) for name, value in side.gradients(images, pull)}
        found["first moment"] = identify(of_first_moment(run, gradient), bound)
        run = _with_betas(run, found["first moment"])
        found["second moment"] = identify(of_second_moment(run), bound)
        run = _with_betas(run, found["second moment"])
    first = found.get("first moment")
    coupled = bool(first and first.settings and first.settings["weight decay"] == L2[1])
    found["update"] = identify(of_updates(run, coupled), bound)
    average = of_average(run)
    if average is not None:
        found["moving average"] = identify(average, bound)
    return found


def _run(pair: Any, side: Any, steps: int) -> tuple[Run, Any]:
    """A training run without dropout, and the images of its first batch."""
    from parity.check import optim_config

    batches = [
        inputs.Batch(batch.images, batch.labels, {})
        for batch in pair.feed.batches({}, steps, "float64")
    ]
    optim = optim_config(steps)
    outputs = {name: tensor(value) for name, value in side.outputs(batches[0].images)}
    recorded = [
        read_step((name, tensor(value)) for name, value in measurements)
        for measurements in side.train(optim, batches)
    ]
    start = {name: value for name, value in _start(side).items() if name in recorded[0].params}
    labels = torch.from_numpy(batches[0].labels)
    return Run(start, outputs["logits"], labels, recorded, optim), batches[0].images


def _with_betas(run: Run, found: Identified) -> Run:
    """The run with the decay rates of the moments as they turned out to be."""
    betas = {k: float(v) for k, v in (found.settings or {}).items() if k in ("b1", "b2")}
    return replace(run, optim=replace(run.optim, **betas))


def _start(side: Any) -> dict[str, torch.Tensor]:
    return {name: tensor(value) for name, value in side.state().items()}
