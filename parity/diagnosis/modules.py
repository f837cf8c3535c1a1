"""Formulas of the usual layers: linear, convolution, LayerNorm, BatchNorm, activation.

Shapes: b images, i inputs, o outputs of a layer.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.diagnosis.segments import Segment, Settings, representable
from parity.diagnosis.trace import Event, Trace
from parity.structures import numpy, tensor

EPSILONS = ("1e-06", "1e-05", "1e-12", "1e-08", "1e-07", "0.0001", "0.001", "0.01", "0.0")
ACTIVATIONS = {
    "erf GELU": F.gelu,
    "tanh GELU": lambda x: F.gelu(x, approximate="tanh"),
    "quick GELU (x sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU": F.relu,
    "SiLU": F.silu,
    "squared ReLU": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "no activation": lambda x: x,
}
FAST_VARIANCE = 1e-9
"""A two-pass LayerNorm moves by about 1e-12 under the shift of `_shifted`, a fast one by 1e-7."""


def of_modules(trace: Trace, partner: Trace) -> Iterator[Segment]:
    """Every layer of a known kind. `partner` is the other side, which may know its settings."""
    for path, event in trace.events.items():
        if event.input is None or event.output is None:
            continue
        weight = trace.weight(path)
        kind = event.kind
        if kind.startswith("LayerNorm"):
            yield _norm(trace, event)
        elif kind.startswith("BatchNorm") and trace.weight(path, "running_var") is not None:
            yield _batch_norm(trace, event)
        elif weight is None:
            continue
        elif kind in ("Linear", "Dense", "NonDynamicallyQuantizableLinear"):
            yield _linear(trace, event, weight)
        elif kind in ("Conv", "Conv2d") and weight.ndim == 4:
            twin = partner.events.get(path, event)
            module = next(
                (e.module for e in (event, twin) if isinstance(e.module, nn.Conv2d)), None
            )
            if module is not None:
                segment = _conv(trace, event, weight, module)
                if twin.input is not None and twin.input.shape != event.input.shape:
                    segment = replace(segment, ignored=("padding",))  # one side pads before it
                yield segment
    yield from _activations(trace)


def _linear(trace: Trace, event: Event, weight: Tensor) -> Segment:
    bias, x = trace.weight(event.path, "bias"), event.input
    knobs: dict[str, tuple[str, ...]] = {"kernel": ("as stored",)}
    if weight.shape[0] == weight.shape[1]:
        knobs["kernel"] += ("transposed",)
    if bias is not None:
        knobs["bias"] = ("added", "left out")
        if event.path.endswith("qkv"):
            knobs["bias"] += ("without query", "without key", "without value")
    if event.kind == "Linear" or event.kind == "Dense":
        knobs["products"] = ("exact", "of TF32 factors", "of bfloat16 factors")

    def predict(settings: Settings) -> Tensor | None:
        matrix = weight.T if settings["kernel"] == "transposed" else weight
        factors = [_rounded(t, settings.get("products", "exact")) for t in (x, matrix)]
        return F.linear(*factors, _bias(bias, settings))

    return Segment(event.path, _output(event), knobs, predict)


def _conv(trace: Trace, event: Event, weight: Tensor, module: nn.Conv2d) -> Segment:
    bias, x = trace.weight(event.path, "bias"), event.input
    knobs: dict[str, tuple[str, ...]] = {
        "kernel": ("as stored", "channels reversed", "height and width swapped"),
        "products": ("exact", "of TF32 factors", "of bfloat16 factors"),
    }
    if weight.shape[2] != weight.shape[3]:
        knobs["kernel"] = knobs["kernel"][:2]
    if bias is not None:
        knobs["bias"] = ("added", "left out")
    if any(k != s for k, s in zip(module.kernel_size, module.stride, strict=True)):
        knobs["padding"] = (f"{module.padding}", "SAME, the odd pixel at the end")

    def predict(settings: Settings) -> Tensor | None:
        kernel = {"channels reversed": weight.flip(1), "as stored": weight}.get(
            settings["kernel"], weight.mT
        )
        factors = [_rounded(t, settings["products"]) for t in (x, kernel)]
        padding = module.padding
        if settings.get("padding", "").startswith("SAME"):
            factors[0], padding = F.pad(factors[0], _same_padding(x, module)), 0
        return F.conv2d(
            factors[0],
            factors[1],
            _bias(bias, settings),
            module.stride,
            padding,
            module.dilation,
            module.groups,
        )

    return Segment(event.path, _output(event), knobs, predict)


def _norm(trace: Trace, event: Event) -> Segment:
    weight, bias, x = trace.weight(event.path), trace.weight(event.path, "bias"), event.input
    knobs: dict[str, tuple[str, ...]] = {"epsilon": EPSILONS, "mean": ("subtracted", "kept (RMS)")}
    if weight is not None:
        knobs["scale"] = ("applied", "left out")
    if bias is not None:
        knobs["bias"] = ("added", "left out")

    def predict(settings: Settings) -> Tensor | None:
        y = torch.as_tensor(x)
        y = y if settings["mean"] == "kept (RMS)" else y - y.mean(-1, keepdim=True)
        y = y / torch.sqrt(y.square().mean(-1, keepdim=True) + float(settings["epsilon"]))
        y = y if weight is None or settings["scale"] == "left out" else y * weight
        return y if bias is None or settings["bias"] == "left out" else y + bias

    if not _is_fast(trace, event):
        return Segment(event.path, _output(event), knobs, predict, {"variance": "two-pass"})
    mean, variance = torch.as_tensor(x).mean(-1), torch.as_tensor(x).var(-1, correction=0)
    return Segment(
        event.path,
        _output(event),
        knobs,
        predict,
        {"variance": "fast, E[x^2] - E[x]^2"},
        slack=max(1.0, float((mean.square() / variance).max())),
    )


def _batch_norm(trace: Trace, event: Event) -> Segment:
    """In evaluation. PyTorch's layout: channels are the second axis."""
    weight, bias, mean, var = (
        None if (t := trace.weight(event.path, leaf)) is None else t[:, None, None]
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    x = torch.as_tensor(event.input)
    if x.ndim != 4:  # of vectors (b, c): one pixel each
        x = x[..., None, None]
    knobs: dict[str, tuple[str, ...]] = {
        "epsilon": ("1e-05", *(e for e in EPSILONS if e != "1e-05")),
        "statistics": ("running", "of the batch"),
    }
    if weight is not None:
        knobs["scale"] = ("applied", "left out")
    if bias is not None:
        knobs["bias"] = ("added", "left out")

    def predict(settings: Settings) -> Tensor | None:
        m, v = torch.as_tensor(mean), torch.as_tensor(var)
        if settings["statistics"] == "of the batch":
            v, m = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        y = (x - m) / torch.sqrt(v + float(settings["epsilon"]))
        y = y if weight is None or settings["scale"] == "left out" else y * weight
        y = y if bias is None or settings["bias"] == "left out" else y + bias
        return y.reshape(_output(event).shape)

    return Segment(event.path, _output(event), knobs, predict)


def _is_fast(trace: Trace, event: Event) -> bool:
    """LayerNorm ignores a constant added to its input; the fast variance does not."""
    if representable(_output(event), torch.float32):
        return False  # coarse arithmetic looks alike
    x = torch.as_tensor(event.input)[:1]
    x = x - x.mean(-1, keepdim=True)
    x = x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
    try:
        outputs = [_again(event, values) for values in (x, x + 1e5)]
    except Exception:  # a module that cannot be called on its own
        return False
    return bool((outputs[0] - outputs[1]).abs().max() > FAST_VARIANCE * outputs[0].abs().max())


@torch.no_grad()
def _again(event: Event, x: Tensor) -> Tensor:
    if isinstance(event.module, nn.Module):
        return event.module(x).double()
    import jax.numpy as jnp

    return tensor(numpy(event.module(jnp.asarray(x.numpy()))))


def _activations(trace: Trace) -> Iterator[Segment]:
    """What lies between two layers of one module that follow each other, element by element."""
    parents = dict.fromkeys(path.rpartition(".")[0] for path in trace.events if path)
    for parent in parents:
        parts = [e for e in trace.within(parent) if _is_hidden(trace, e)]
        for first, second in pairwise(parts):
            x, y = first.output, second.input
            if "fc1_" in first.path:
                continue  # a gated MLP (`vision.of_gates`)
            if x is None or y is None or x.shape != y.shape or x.shape[-1] == 0:
                continue

            def predict(settings: Settings, x: Tensor = x) -> Tensor | None:
                return ACTIVATIONS[settings["activation"]](x)

            yield Segment(parent, y, {"activation": tuple(ACTIVATIONS)}, predict, optional=True)


def _is_hidden(trace: Trace, event: Event) -> bool:
    weight = trace.weight(event.path)
    return weight is not None and weight.ndim == 2


def _same_padding(x: Tensor | None, module: nn.Conv2d) -> list[int]:
    pads: list[int] = []
    for axis in (1, 0):  # width first, as F.pad takes it
        size, k, s = (
            torch.as_tensor(x).shape[2 + axis],
            module.kernel_size[axis],
            module.stride[axis],
        )
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return pads


def _bias(bias: Tensor | None, settings: Settings) -> Tensor | None:
    form = settings.get("bias", "added")
    if bias is None or form == "left out":
        return None
    if form.startswith("without"):
        bias = bias.clone().reshape(3, -1)
        bias[("query", "key", "value").index(form.split()[1])] = 0
        return bias.flatten()
    return bias


def _rounded(x: Tensor | None, products: str) -> Tensor:
    values = torch.as_tensor(x)
    if "bfloat16" in products:
        return values.bfloat16().double()
    if "TF32" in products:  # ten bits of mantissa, to nearest even
        bits = values.float().view(torch.int32)
        bits = bits + 0xFFF + ((bits >> 13) & 1)
        return (bits & ~0x1FFF).view(torch.float32).double()
    return values


def _output(event: Event) -> Tensor:
    return torch.as_tensor(event.output)
