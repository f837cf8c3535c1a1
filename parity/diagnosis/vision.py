"""Formulas of a Vision Transformer between its layers, where modules have timm's names.

Attention, gated MLPs, residual branches, pooling; for each side from its own inputs.

Shapes: b images, t tokens, d width, h heads of k channels, (r, c) the grid of patches.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.diagnosis.modules import ACTIVATIONS
from parity.diagnosis.segments import Segment, Settings
from parity.diagnosis.trace import Trace

LAYOUTS = ("(3, heads, channels)", "(heads, 3, channels)", "(heads, channels, 3)")
SCALES = ("1 / sqrt(head channels)", "1 / sqrt(width)", "none", "1 / head channels")
ORDERS = tuple(", ".join(order) for order in itertools.permutations(("query", "key", "value")))

HEADS = {"head": "class token", "head_dist": "distillation token"}


def of_attention(trace: Trace, num_heads: int | None) -> Iterator[Segment]:
    """Between `qkv` and `proj` of every attention."""
    for path, event in trace.events.items():
        if not path.endswith("qkv") or event.output is None:
            continue
        parent = path.removesuffix("qkv")
        proj = trace.events.get(f"{parent}proj")
        if proj is None or proj.input is None:
            continue
        qkv, width = event.output, proj.input.shape[-1]
        norms = [trace.events.get(f"{parent}{x}_norm") for x in "qk"]
        normed = [e.output for e in norms if e is not None and e.output is not None]
        usual = [num_heads] if num_heads else []
        divisors = [h for h in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if width % h == 0]
        knobs: dict[str, tuple[str, ...]] = {
            "order in qkv": ORDERS,
            "layout of qkv": LAYOUTS,
            "heads": tuple(str(h) for h in dict.fromkeys([*usual, *divisors])),
            "scale": SCALES,
        }
        if f"{parent}q_norm.weight" in trace.state:
            knobs["norm of query and key"] = ("applied", "left out")[len(normed) < 2 :]

        def predict(
            settings: Settings, qkv: Tensor = qkv, width: int = width, normed: list = normed
        ) -> Tensor | None:
            return _attend(qkv, width, normed, settings)

        yield Segment(parent.rstrip("."), proj.input, knobs, predict)


def _attend(qkv: Tensor, width: int, normed: list[Tensor], settings: Settings) -> Tensor | None:
    b, t, _ = qkv.shape
    h = int(settings["heads"])
    k = width // h
    layout = settings["layout of qkv"]
    if layout == LAYOUTS[0]:
        parts = qkv.reshape(b, t, 3, h, k).permute(2, 0, 3, 1, 4)
    elif layout == LAYOUTS[1]:
        parts = qkv.reshape(b, t, h, 3, k).permute(3, 0, 2, 1, 4)
    else:
        parts = qkv.reshape(b, t, h, k, 3).permute(4, 0, 2, 1, 3)
    named = dict(zip(settings["order in qkv"].split(", "), parts, strict=True))
    q, key, v = named["query"], named["key"], named["value"]
    if settings.get("norm of query and key") == "applied":
        if normed[0].shape != q.shape:
            return None
        q, key = normed
    scale = (k**-0.5, width**-0.5, 1.0, 1.0 / k)[SCALES.index(settings["scale"])]
    weights = ((q @ key.mT) * scale).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(b, t, width)


def of_residuals(trace: Trace) -> Iterator[Segment]:
    """Both branches of every block with `norm1`, `attn`, `norm2`, `mlp`."""
    for path in [p.removesuffix(".norm1") for p in trace.events if p.endswith(".norm1")]:
        events = [trace.events.get(f"{path}.{part}") for part in ("norm1", "attn", "norm2", "mlp")]
        block = trace.events.get(path)
        if block is None or any(e is None for e in events):
            continue
        x, attn, middle, mlp = events
        yield from _branch(trace, path, "1", "attn", x.input, attn.output, middle.input)  # type: ignore
        yield from _branch(trace, path, "2", "mlp", middle.input, mlp.output, block.output)  # type: ignore


def _branch(
    trace: Trace, path: str, number: str, name: str, x: Tensor, y: Tensor, total: Tensor
) -> Iterator[Segment]:
    gamma = trace.state.get(f"{path}.ls{number}.gamma")
    knobs: dict[str, tuple[str, ...]] = {"residual": ("added", "left out")}
    if gamma is not None:
        knobs["LayerScale"] = ("applied", "left out", "applied twice")

    def predict(settings: Settings) -> Tensor:
        form = settings.get("LayerScale", "left out")
        scale = 1 if form == "left out" or gamma is None else gamma
        scale = scale * scale if form == "applied twice" else scale
        return (x if settings["residual"] == "added" else 0) + y * scale

    yield Segment(f"{path} after {name}", total, knobs, predict)


def of_gates(trace: Trace) -> Iterator[Segment]:
    """Between the layers of every gated MLP: `fc1` of both halves, or `fc1_g` and `fc1_x`."""
    for path, second in trace.events.items():
        if path.rpartition(".")[2] != "fc2" or second.input is None:
            continue
        parent, width = path.removesuffix("fc2"), second.input.shape[-1]
        first, *more = (trace.events.get(f"{parent}{name}") for name in ("fc1", "fc1_g", "fc1_x"))
        if first is not None and first.output is not None:
            halves = first.output.chunk(2, dim=-1)
        else:
            halves = tuple(e.output for e in more if e is not None and e.output is not None)
        if len(halves) != 2 or any(half.shape[-1] != width for half in halves):
            continue

        def predict(settings: Settings, halves: tuple = halves) -> Tensor:
            gate, values = halves if settings["gate"] == "the first half" else halves[::-1]
            return ACTIVATIONS[settings["activation of the gate"]](gate) * values

        knobs = {
            "gate": ("the first half", "the second half"),
            "activation of the gate": tuple(sorted(ACTIVATIONS, key="SiLU".__ne__)),
        }
        yield Segment(parent.rstrip("."), second.input, knobs, predict, optional=True)


def of_pooling(trace: Trace, prefix: int, norm_eps: float, usual: str) -> Iterator[Segment]:
    """From the last block to the head. `usual` is the config's pooling, `prefix` its tokens before
    the patches."""
    last = [p for p in trace.events if p.startswith("blocks.") and p.count(".") == 1]
    head, pool = trace.events.get("head"), trace.events.get("attn_pool")
    if not last or head is None or head.input is None:
        return
    tokens = torch.as_tensor(trace.events[last[-1]].output)
    norm = {k.partition(".")[2]: v for k, v in trace.state.items()
            if k.partition(".")[0] in ("norm", "fc_norm")}  # fmt: skip
    norms = ("before pooling", "after pooling", "left out")
    if not norm:
        norms = norms[2:]
    elif "norm.weight" not in trace.state:
        norms = ("after pooling", "before pooling", "left out")
    forms = ("class token", "mean of patches", "mean of all tokens", "mean of all but the first",
             "last token", "maximum of patches")  # fmt: skip
    same = {0: "mean of all tokens", 1: "mean of all but the first"}.get(prefix)
    forms = tuple(form for form in forms if form != same)  # as "mean of patches" says
    if "dist_token" in trace.state:
        forms += (HEADS["head_dist"],)
    first = {"token": forms[0], "mean": forms[1]}.get(usual, forms[0])
    knobs: dict[str, tuple[str, ...]] = {
        "last norm": norms,
        "pooling": (first, *(form for form in forms if form != first)),
        "epsilon": (f"{norm_eps:g}", "1e-05", "1e-06", "1e-12"),
    }
    knobs["epsilon"] = tuple(dict.fromkeys(knobs["epsilon"]))
    fc, fc_bias = trace.state.get("pre_logits.fc.weight"), trace.state.get("pre_logits.fc.bias")
    if fc is not None:
        knobs["pre-logits"] = ("tanh", "without tanh", "left out")
    if pool is not None:
        norms = tuple(form for form in norms if form != "after pooling")
        knobs = {"last norm": norms, "epsilon": knobs["epsilon"],
                 "pooling": ("patches", "all tokens")}  # fmt: skip

    def normed(x: Tensor, settings: Settings) -> Tensor:
        for event in (trace.events.get("norm"), trace.events.get("fc_norm")):
            if event and event.input is not None and torch.equal(event.input, x):
                return torch.as_tensor(event.output)  # judged as a layer of its own
        width = x.shape[-1:]
        return F.layer_norm(x, width, norm["weight"], norm["bias"], float(settings["epsilon"]))

    def predict(settings: Settings) -> Tensor | None:
        x = normed(tokens, settings) if settings["last norm"] == "before pooling" else tokens
        x = _pooled(x, settings["pooling"], prefix)
        if settings["last norm"] == "after pooling" and pool is None:
            x = normed(x, settings)
        if pool is None and fc is not None and settings["pre-logits"] != "left out":
            x = F.linear(x, fc, fc_bias)
            x = torch.tanh(x) if settings["pre-logits"] == "tanh" else x
        return x

    target = head.input if pool is None else torch.as_tensor(pool.input)
    yield Segment("pool", target, knobs, predict, ignored=("epsilon",))


def of_heads(trace: Trace) -> Iterator[Segment]:
    """Which token DeiT's second head takes, and what is made of the logits of both; the first head
    is `of_pooling`'s."""
    last, whole = trace.events.get("norm"), trace.events.get("")
    if "head_dist.weight" not in trace.state or last is None or last.output is None:
        return
    heads = {name: event for name in HEADS if (event := trace.events.get(name)) is not None}
    tokens = dict(zip(HEADS.values(), last.output.unbind(1), strict=False))
    second = heads.get("head_dist")
    if second is not None and second.input is not None:
        knobs = {"token of the head": tuple(reversed(tokens))}
        yield Segment("head_dist", second.input, knobs, lambda s: tokens[s["token of the head"]])
    if whole is None or whole.output is None:
        return
    logits = {HEADS[name]: event.output for name, event in heads.items()}
    one, other = (logits.get(text) for text in HEADS.values())

    def predict(settings: Settings) -> Tensor | None:
        form = settings["logits"]
        if form in logits:
            return logits[form]
        if one is None or other is None:
            return None
        return (one + other) / 2 if form == "mean of both heads" else one + other

    knobs = {"logits": ("mean of both heads", "sum of both heads", *HEADS.values())}
    yield Segment("logits", whole.output, knobs, predict)


def _pooled(x: Tensor, form: str, prefix: int) -> Tensor:
    patches = x[:, prefix:]
    return {
        "class token": lambda: x[:, 0],
        "distillation token": lambda: x[:, 1],
        "mean of patches": lambda: patches.mean(1),
        "mean of all tokens": lambda: x.mean(1),
        "mean of all but the first": lambda: x[:, 1:].mean(1),
        "last token": lambda: x[:, -1],
        "maximum of patches": lambda: patches.amax(1),
        "patches": lambda: patches,
        "all tokens": lambda: x,
    }[form]()
