"""Any PyTorch model as a side of a check: a module, or a function. Twin: `parity/any_jax.py`."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vit_torch.training as training
from parity.capture import Call, torch_calls
from parity.feeds import AnyBatch
from parity.partners import torch_tensors
from parity.row_sums import ExactRowSums
from parity.sides import Measurements, in_dtype, train_measurements
from parity.structures import Image, arguments, is_float, named, numpy, refused, replaced
from vit_spec import OptimConfig, learning_rate
from vit_spec.layout import State
from vit_torch.api import to_numpy, to_tensor
from vit_torch.losses import loss_fn


class AnyTorch:
    """A `torch.nn.Module` in evaluation mode, or a function of tensors, in one dtype.

    `left_out` are tensors that JAX lacks on purpose, `kwargs` go to this model alone, and `pick`
    chooses from what it returns.
    """

    name = "torch"

    def __init__(
        self,
        model: Any,
        dtype: str,
        *,
        left_out: Collection[str] = (),
        kwargs: Mapping[str, Any] | None = None,
        pick: Callable[[Any], Any] | None = None,
    ):
        self.kwargs, self.pick = kwargs or {}, pick or (lambda output: output)
        self.left_out = left_out
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.model: Any = model
        self.sums = ExactRowSums()
        self.device = torch.device("cpu")
        if isinstance(model, nn.Module):
            self.model = in_dtype(model, self.dtype)
            for name, parameter in self.model.named_parameters():  # what is frozen is one's choice
                parameter.requires_grad_(name not in left_out and is_float(parameter))
            self.device = next((p.device for p in self.model.parameters()), self.device)

    def state(self) -> State:
        """Parameters and saved buffers of floating type by name."""
        tensors = torch_tensors(self.model)[0]
        return {name: to_numpy(t) for name, t in tensors.items() if name not in self.left_out}

    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        if not isinstance(self.model, nn.Module):
            return {}
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def outputs(self, given: Any) -> Measurements:
        """Every output by its place in the structure."""
        args, kwargs = self._arguments(given)
        try:
            output = self.model(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise refused("PyTorch", given, error) from error
        for name, value in self._named(output).items():
            yield name, numpy(value)

    def layers(self, given: Any) -> Measurements:
        """The output of every module that was called, as they finished."""
        for call in self.calls(given):
            for name, value in named(call.output, call.path or "output"):
                yield name, numpy(value)

    def gradients(self, given: Any, cotangent: Mapping[str, np.ndarray]) -> Measurements:
        """Gradients of sum(outputs * cotangent) for floating-point inputs and every parameter."""
        leaves: list[Tensor] = []
        images: list[bool] = []

        def leaf(value: Any) -> Any:
            leaves.append(self._leaf(value))
            images.append(isinstance(value, Image))
            if not is_float(leaves[-1]):
                return leaves[-1]
            return leaves[-1].requires_grad_().clone()  # the model may work in place

        args, kwargs = arguments(replaced(given, leaf))
        outputs = self._named(self.model(*args, **{**kwargs, **self._own()}))
        pulled = {
            name: to_tensor(pull).to(self.device, outputs[name].dtype)
            for name, pull in cotangent.items()
            if isinstance(outputs[name], Tensor) and outputs[name].requires_grad
        }
        sources = {
            **{f"input {i}": leaf for i, leaf in enumerate(leaves) if is_float(leaf)},
            **self.parameters(),
        }
        grads = [None] * len(sources)
        if pulled and sources:
            with self.sums:
                grads = torch.autograd.grad(
                    [outputs[name] for name in pulled],
                    list(sources.values()),
                    list(pulled.values()),
                    allow_unused=True,
                )
        for (name, source), grad in zip(sources.items(), grads, strict=True):
            grad = torch.zeros_like(source) if grad is None else grad
            image = name.startswith("input ") and images[int(name.split()[1])]
            yield name, to_numpy(grad.permute(0, 2, 3, 1) if image else grad)

    def train(self, config: OptimConfig, batches: Iterable[AnyBatch]) -> Iterator[Measurements]:
        """One stream a step: loss, gradient norm, rate, parameters, moments and average."""
        model = copy.deepcopy(self.model)
        optimizer = training.make_optimizer(model, config)
        ema = None  # of parameters, as on JAX's side; `init_ema` refuses running statistics
        if config.ema_decay is not None:
            ema = {name: p.detach().clone() for name, p in model.named_parameters()}
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad(set_to_none=False)
            args, kwargs = self._arguments(batch.inputs)
            outputs = self._named(model(*args, **kwargs))
            targets = {name: to_tensor(t).to(self.device) for name, t in batch.targets.items()}
            value = loss(outputs, targets, config)
            with self.sums:
                value.backward()
            grads = []
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            for parameter in trained.values():  # Optax updates what got no gradient as well
                parameter.grad = (
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                )
                grads.append(parameter.grad)
            norm = training.clip_gradients(grads, config.clip_norm)
            optimizer.step()
            training.average(ema, model, config, step)
            metrics = {
                "loss": value,
                "grad_norm": norm,
                "lr": torch.tensor(learning_rate(config, step), dtype=torch.float64),
            }
            first, second = training.moments(model, optimizer)
            average = {n: a for n, a in (ema or {}).items() if n in trained}
            trees = {"param": trained, "m": first, "v": second, "ema": average}
            yield train_measurements(metrics, trees)

    def calls(self, given: Any) -> list[Call]:
        """Every module call of one forward pass."""
        args, kwargs = self._arguments(given)
        with torch.no_grad():
            if isinstance(self.model, nn.Module):
                with torch_calls(self.model) as calls:
                    self.model(*args, **kwargs)
                return calls
            return [Call("", None, args, kwargs, self.model(*args, **kwargs))]

    def _named(self, output: Any) -> dict[str, Any]:
        return dict(named(self.pick(output), "output"))

    def _own(self) -> dict[str, Any]:
        return replaced(self.kwargs, self._leaf)

    def _arguments(self, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = arguments(replaced(given, self._leaf))
        return args, {**kwargs, **self._own()}

    def _leaf(self, value: Any) -> Tensor:
        array = value.array if isinstance(value, Image) else value
        tensor = to_tensor(np.array(array)).to(self.device)  # the model may work in place
        tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return tensor.permute(0, 3, 1, 2).contiguous() if isinstance(value, Image) else tensor


def loss(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], config: OptimConfig
) -> Tensor:
    """Cross-entropy where targets are classes, otherwise half the mean square difference."""
    parts = [
        0.5 * (outputs[name] - target).square().mean()
        if target.is_floating_point()
        else loss_fn(outputs[name], target, label_smoothing=config.label_smoothing)
        for name, target in targets.items()
    ]
    return torch.stack(parts).sum()
