"""Formulas of a training step: loss, clipping, AdamW, schedule, moving average.

Each side is judged by its own numbers: logits and gradients before the first step, then
parameters and moments after every step.

Shapes: b images, k classes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.diagnosis.segments import Segment, Settings
from vit_spec import OptimConfig, is_decayed, learning_rate

Tree = Mapping[str, Tensor]
CLIP_EPSILON = 1e-6
"""Of `torch.nn.utils.clip_grad_norm_`."""


@dataclass(frozen=True)
class Step:
    """What a side reports after one update."""

    scalars: Tree  # loss, grad_norm, lr
    params: Tree
    m: Tree
    v: Tree
    ema: Tree


@dataclass(frozen=True)
class Run:
    """The beginning of a training run of one side."""

    start: Tree  # parameters before the first step
    logits: Tensor  # (b, k) of the first batch before the first step
    labels: Tensor  # (b,) of that batch
    steps: list[Step]
    optim: OptimConfig


def read_step(measurements: Iterator[tuple[str, Tensor]]) -> Step:
    """A step from what a side yields for it."""
    trees: dict[str, dict[str, Tensor]] = {"": {}, "param": {}, "m": {}, "v": {}, "ema": {}}
    for name, value in measurements:
        kind, _, parameter = name.rpartition(" ")
        trees[kind][parameter] = value
    return Step(trees[""], trees["param"], trees["m"], trees["v"], trees["ema"])


LOSSES = ("smoothed to all classes", "without smoothing", "smoothed to the other classes only")
MEANS = ("mean of the batch", "sum of the batch", "mean of the means of unequal parts")


def loss_of(logits: Tensor, labels: Tensor, smoothing: float, settings: Settings) -> Tensor:
    """The loss under given settings, differentiable in the logits."""
    k = logits.shape[-1]
    hot = F.one_hot(labels, k).double()
    form = settings["label smoothing"]
    if form == LOSSES[0]:
        targets = (1 - smoothing) * hot + smoothing / k
    elif form == LOSSES[1]:
        targets = hot
    else:
        targets = (1 - smoothing) * hot + smoothing / (k - 1) * (1 - hot)
    each = -(targets * logits.log_softmax(-1)).sum(-1)
    mean = settings["reduction"]
    if mean == MEANS[1]:
        return each.sum()
    if mean == MEANS[2]:
        half = math.ceil(len(each) / 2)
        return (each[:half].mean() + each[half:].mean()) / 2
    return each.mean()


def of_loss(run: Run) -> Segment:
    """The loss of the first batch."""

    def predict(settings: Settings) -> Tensor:
        value = loss_of(run.logits, run.labels, run.optim.label_smoothing, settings)
        return value.reshape(run.steps[0].scalars["loss"].shape)

    smoothing = LOSSES if run.optim.label_smoothing else (LOSSES[1],)
    knobs = {"label smoothing": smoothing, "reduction": MEANS}
    return Segment("loss", run.steps[0].scalars["loss"], knobs, predict)


CLIPS = ("to the global norm", "with 1e-6 added to the norm", "tensor by tensor", "none",
         "without the root of the norm", "value by value")  # fmt: skip
L2 = ("decoupled from the gradient", "added to the gradient (L2)")


def of_first_moment(run: Run, gradient: Tree) -> Segment:
    """Adam's first moment after the first step, from the gradient of that side."""
    names = [name for name in run.steps[0].m if name in gradient]
    knobs = {"clipping": CLIPS, "weight decay": L2, "b1": (f"{run.optim.b1:g}", "0.95", "0.8")}

    def predict(settings: Settings) -> Tensor:
        clipped = _clipped({n: gradient[n] for n in names}, run.optim.clip_norm, settings)
        if settings["weight decay"] == L2[1]:
            clipped = {
                n: g + run.optim.weight_decay * run.start[n] if is_decayed(n, g.ndim) else g
                for n, g in clipped.items()
            }
        return (1 - float(settings["b1"])) * _joined(clipped, names)

    return Segment("first moment", _joined(run.steps[0].m, names), knobs, predict)


def of_second_moment(run: Run) -> Segment:
    """Adam's second moment after the first step, from the first moment."""
    last = run.steps[0]

    def predict(settings: Settings) -> Tensor:
        gradient = _joined(last.m) / (1 - run.optim.b1)
        return (1 - float(settings["b2"])) * gradient.square()

    knobs = {"b2": (f"{run.optim.b2:g}", "0.99", "0.95", "0.98", "0.9")}
    return Segment("second moment", _joined(last.v), knobs, predict)


def _clipped(gradient: Tree, limit: float | None, settings: Settings) -> Tree:
    form = settings["clipping"]
    if limit is None or form == "none":
        return gradient
    if form == "tensor by tensor":
        return {n: g * min(1.0, limit / max(float(g.norm()), 1e-300)) for n, g in gradient.items()}
    if form == "value by value":
        return {n: g.clamp(-limit, limit) for n, g in gradient.items()}
    square = sum(float(g.square().sum()) for g in gradient.values())
    norm = square if form == "without the root of the norm" else math.sqrt(square)
    norm += CLIP_EPSILON if form == CLIPS[1] else 0.0
    return {n: g * min(1.0, limit / norm) for n, g in gradient.items()}


SCHEDULES = ("warmup from 0, cosine to the end", "one step early", "one step late",
             "cosine that ends one step before", "constant after warmup", "without warmup",
             "warmup from the first fraction", "cosine over warmup as well",
             "cosine over all steps, warmup on top")  # fmt: skip
DECAYS = ("times the learning rate", "independent of the learning rate", "none")
MASKS = ("kernels only", "every parameter", "all but biases", "every tensor of rank 2 or more")
PLACES = ("outside the root", "inside the root", "before bias correction", "left out")
CORRECTIONS = ("both moments", "none", "first moment only", "second moment only")


def of_updates(run: Run, coupled: bool) -> Segment:
    """The updates of the steps; `coupled`: the decay has been seen in the gradient already."""
    befores = [run.start, *(step.params for step in run.steps[:-1])]
    names = list(run.start)
    knobs = {
        "schedule": SCHEDULES,
        "weight decay": ("none",) if coupled else DECAYS,
        "decayed": MASKS,
        "epsilon": PLACES,
        "bias correction": CORRECTIONS,
    }
    # A difference of parameters has lost digits, so the parameters are what is compared.
    after = torch.cat([_joined(s.params, names) for s in run.steps])

    def predict(settings: Settings) -> Tensor:
        return torch.cat(
            [
                _joined(_updated(run, before, step, t, settings), names)
                for t, (before, step) in enumerate(zip(befores, run.steps, strict=True))
            ]
        )

    return Segment("update", after, knobs, predict)


def _updated(run: Run, before: Tree, step: Step, t: int, settings: Settings) -> Tree:
    c = run.optim
    lr = rate(c, t, settings["schedule"])
    form = settings["bias correction"]
    first = 1 - c.b1 ** (t + 1) if form in (CORRECTIONS[0], CORRECTIONS[2]) else 1.0
    second = 1 - c.b2 ** (t + 1) if form in (CORRECTIONS[0], CORRECTIONS[3]) else 1.0
    after = {}
    for name, p in before.items():
        if name not in step.m:
            after[name] = p
            continue
        m, v, place = step.m[name] / first, step.v[name] / second, settings["epsilon"]
        if place == PLACES[1]:
            root = (v + c.eps).sqrt()
        elif place == PLACES[2]:
            root = v.sqrt() + c.eps / math.sqrt(second)
        else:
            root = v.sqrt() + (0.0 if place == PLACES[3] else c.eps)
        after[name] = p - lr * m / root.clamp_min(1e-300)
        if _is_decayed(name, p.ndim, settings["decayed"]) and settings["weight decay"] != "none":
            scale = lr if settings["weight decay"] == DECAYS[0] else 1.0
            after[name] = after[name] - scale * c.weight_decay * p
    return after


def rate(c: OptimConfig, t: int, form: str) -> float:
    """The learning rate of update `t` under a form of the schedule."""
    w, total = c.warmup_steps, c.total_steps

    def cosine(done: float, length: float) -> float:
        progress = min(1.0, done / length) if length > 0 else 1.0
        return c.end_lr + (c.lr - c.end_lr) * (1 + math.cos(math.pi * progress)) / 2

    warm = t < w
    if form == SCHEDULES[1]:
        return learning_rate(c, t + 1)
    if form == SCHEDULES[2]:
        return learning_rate(c, max(0, t - 1))
    if form == SCHEDULES[3] and not warm:
        return cosine(t - w, total - w - 1)
    if form == SCHEDULES[4] and not warm:
        return c.lr
    if form == SCHEDULES[5]:
        return cosine(t, total)
    if form == SCHEDULES[6] and warm:
        return c.lr * (t + 1) / w
    if form == SCHEDULES[7]:
        return c.lr * t / w if warm else cosine(t, total)
    if form == SCHEDULES[8] and not warm:
        return cosine(t - w, total)
    return learning_rate(c, t)


def _is_decayed(name: str, rank: int, form: str) -> bool:
    if form == MASKS[1]:
        return True
    if form == MASKS[2]:
        return not name.endswith("bias")
    if form == MASKS[3]:
        return rank >= 2
    return is_decayed(name, rank)


AVERAGES = ("constant", "warmed up, at most (1 + t) / (10 + t)", "exchanged with 1 - decay")
AVERAGED = ("parameters after the update", "parameters before the update")


def of_average(run: Run) -> Segment | None:
    """The moving average of the parameters."""
    if run.optim.ema_decay is None or not run.steps[0].ema:
        return None
    decay = run.optim.ema_decay
    befores = [run.start, *(step.params for step in run.steps[:-1])]
    averages = [run.start, *(step.ema for step in run.steps[:-1])]

    def predict(settings: Settings) -> Tensor:
        found = []
        for t, step in enumerate(run.steps):
            d = {AVERAGES[0]: decay, AVERAGES[1]: min(decay, (1 + t) / (10 + t))}.get(
                settings["decay"], 1 - decay
            )
            source = step.params if settings["of"] == AVERAGED[0] else befores[t]
            names = list(step.ema)
            found.append(d * _joined(averages[t], names) + (1 - d) * _joined(source, names))
        return torch.cat(found)

    target = torch.cat([_joined(step.ema) for step in run.steps])
    return Segment("moving average", target, {"decay": AVERAGES, "of": AVERAGED}, predict)


def _joined(tree: Tree, names: list[str] | None = None) -> Tensor:
    return torch.cat([tree[name].flatten() for name in (names or tree)])
