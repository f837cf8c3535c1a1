"""Localisation and diagnosis: of live models, of functions, of broken numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity


def _images(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_equal_models_have_no_diagnosis(pair):
    found = parity.diagnose(*pair, level="layers")
    assert found == parity.Diagnosis()


def test_a_failed_check_localises_and_explains(pair):
    jax_model, torch_model = pair
    torch_model.blocks[0].mlp.activation = "gelu_tanh"
    report = parity.check(jax_model, torch_model, level="layers")
    location = report.diagnosis.location
    assert location.first == "blocks.0.mlp.fc2"
    assert location.culprit == "blocks.0.mlp"
    assert set(location.sound) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
    text = parity.render(report)
    assert "activation: JAX erf GELU, PyTorch tanh GELU" in text
    assert "blocks.0.mlp.fc2 is the first point that differs" in text
    assert "given equal inputs, blocks.0.mlp already differs before blocks.0.mlp.fc2" in text


def test_a_changed_weight_is_named_with_its_tensor(pair):
    jax_model, torch_model = pair
    torch_model.head.weight.data[0, 0] += 0.5
    found = parity.diagnose(jax_model, torch_model, level="weights")
    assert found.unexplained == ("head.weight",)
    assert found.notes == ("head.weight: 1 of 224 values differ",)
    assert found.ruled_out == ()


def test_nan_in_one_side_is_a_failure_named_by_place(pair):
    jax_model, torch_model = pair
    torch_model.blocks[1].norm2.bias.data[3] = float("nan")
    report = parity.check(jax_model, torch_model, level="layers")
    assert not report.passed
    first = next(gap for gap in report.failures if gap.level == "layers")
    assert first.name.startswith("blocks.1.mlp")
    assert "PyTorch has" in first.note
    assert "blocks.1.norm2" in str(report.diagnosis)


def test_a_nan_in_both_sides_is_no_pass(tiny):
    from parity.inputs import random_state
    from parity.precision import exact
    from vit_jax.api import from_state as jax_from
    from vit_torch.api import from_state as torch_from

    state = random_state(tiny, 0)
    state["blocks.0.norm1.weight"][0] = np.inf
    with exact():
        report = parity.check(jax_from(tiny, state), torch_from(tiny, state), level="outputs")
    assert not report.passed


FUNCTIONS = {
    "reversed channels": (lambda x: x.mean((2, 3)).flip(-1), "last axis reversed"),
    "softmax": (lambda x: x.mean((2, 3)).softmax(-1), "probabilities"),
    "range": (lambda x: (x / 255).mean((2, 3)), "divided by 255"),
}


@pytest.mark.parametrize(("torch_fn", "words"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_compared_and_explained_by_inputs_and_outputs(torch_fn, words):
    report = parity.compare(lambda x: x.mean((1, 2)), torch_fn, parity.Image(_images(3, 8, 6, 4)))
    assert not report.passed
    (cause,) = report.diagnosis.causes
    assert words in cause.torch + cause.jax


def test_equal_functions_pass_with_gradients_of_their_inputs():
    report = parity.compare(
        lambda x, y: {"a": jnp.sin(x) @ y, "b": x.sum()},
        lambda x, y: {"a": torch.sin(x) @ y, "b": x.sum()},
        (_images(3, 5), _images(5, 2)),
    )
    assert report.passed, parity.render(report)
    assert {gap.name for gap in report.of("gradients")} == {"input 0", "input 1"}


class Jax(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 32, rngs=rngs)

    def __call__(self, x):
        return self.fc2(jax.nn.gelu(self.fc1(self.norm(x))))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(32)
        self.fc1, self.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

    def forward(self, x):
        return self.fc2(torch.nn.functional.gelu(self.fc1(self.norm(x))))


def test_the_defaults_of_flax_and_pytorch_are_told_apart_in_foreign_models():
    ours, theirs = Jax(nnx.Rngs(0)), Torch()
    for name in ("fc1", "fc2"):
        linear = getattr(theirs, name)
        getattr(ours, name).kernel[...] = jnp.asarray(linear.weight.detach().numpy().T)
        getattr(ours, name).bias[...] = jnp.asarray(linear.bias.detach().numpy())
    report = parity.check(ours, theirs, inputs=_images(5, 32), level="layers")
    found = {cause.what: cause for cause in report.diagnosis.causes}
    assert found["epsilon"].jax == "1e-06"
    assert found["epsilon"].torch == "1e-05"
    assert found["activation"].jax == "tanh GELU"
    assert found["activation"].torch == "erf GELU"
    assert report.diagnosis.explained
