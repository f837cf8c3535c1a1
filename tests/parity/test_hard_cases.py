"""Checks that could lie: nothing compared, healthy parts accused, users' objects changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import parity
from parity.diagnosis.diagnose import explain_pair
from parity.inputs import random_state
from parity.mutants.mutant import SUBJECT, Plant
from parity.mutants.torch_training import TorchTraining
from parity.precision import exact
from vit_torch.losses import loss_fn

X = np.random.default_rng(0).normal(size=(4, 8))


class JaxMlp(nnx.Module):
    def __init__(self, rngs):
        self.fc1, self.fc2, self.fc3 = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))

    def __call__(self, x):
        x = self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))
        return self.fc3(inputs=nnx.relu(x))


class TorchMlp(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(8, 8) for _ in range(3))
        self.factor = factor

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.gelu(self.fc1(x))) * self.factor))


def _pair(factor=1.0):
    ours, theirs = JaxMlp(nnx.Rngs(0)), TorchMlp(factor)
    for name in ("fc1", "fc2", "fc3"):
        linear = getattr(theirs, name)
        getattr(ours, name).kernel[...] = jnp.asarray(linear.weight.detach().numpy().T)
        getattr(ours, name).bias[...] = jnp.asarray(linear.bias.detach().numpy())
    return ours, theirs


def test_two_activations_of_one_module_are_judged_one_by_one():
    assert parity.diagnose(*_pair(), inputs=X) == parity.Diagnosis()


def test_a_module_called_by_keyword_gets_the_same_input_when_it_is_called_again():
    found = parity.diagnose(*_pair(factor=1.5), inputs=X)
    assert found.location is not None
    assert found.location.culprit == "the model"
    assert "fc3" in found.location.sound


def test_behaviours_without_effect_are_no_cause(tiny):
    plant = Plant(tiny.replace(norm_eps=1e-12), 0)
    for state in (plant.jax_state, plant.torch_state):
        state["pos_embed"] = state["pos_embed"] * 300
    with exact():
        found = explain_pair(plant.pair(), level="layers")
    assert found.causes == found.unexplained == ()


def test_the_same_nan_on_both_sides_fails_the_weights(tiny):
    state = random_state(tiny, 0)
    state["head.bias"][1] = np.nan
    plant = Plant(tiny, 0)
    plant.jax_state = plant.torch_state = state
    with exact():
        pair = plant.pair()
        report = parity.check(pair.jax_model, pair.torch_model, level="weights")
    assert [gap.name for gap in report.failures] == ["head.bias"]


def test_numbers_are_compared_and_nothing_is_an_error():
    assert not parity.compare(lambda x: 1.0, lambda x: 2.0, X).passed
    with pytest.raises(ValueError, match="no output to compare"):
        parity.compare(lambda x: None, lambda x: None, X)


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="matches no JAX name"):
        parity.check(*_pair(), inputs=X, rules=[parity.Rule("typo.kernel", "fc1.weight")])


def test_the_models_of_a_user_keep_their_gradients_and_inputs():
    ours, theirs = _pair()
    given = X.copy()
    assert parity.check(ours, theirs, inputs=given, level="gradients").passed
    assert all(p.grad is None for p in theirs.parameters())
    report = parity.compare(lambda x: jnp.maximum(x, 0), lambda x: x.relu_(), given)
    assert report.passed, parity.render(report)
    np.testing.assert_array_equal(given, X)


@pytest.mark.parametrize("jax_fn", [lambda x: x.T, lambda x: x > 0], ids=["shape", "bool"])
def test_outputs_of_another_form_are_a_failure_not_a_crash(jax_fn):
    report = parity.compare(jax_fn, lambda x: x, X)
    assert not report.passed


def test_a_stopped_gradient_is_a_failure_with_an_explanation():
    report = parity.compare(lambda x: jax.lax.stop_gradient(x) * x, lambda x: x * x, X)
    assert {gap.level for gap in report.failures} == {"gradients"}
    assert report.diagnosis is not None
    assert report.diagnosis.unexplained == ("gradient of input 0",)
    assert "the forward passes agree" in report.diagnosis.notes[0]


def test_models_of_one_shape_and_two_configs_are_compared_and_explained(tiny):
    state = random_state(tiny, 0)
    with exact():
        ours, theirs = Plant(tiny.replace(activation="gelu_tanh"), 0), Plant(tiny, 0)
        ours.jax_state = theirs.torch_state = state
        report = parity.check(ours.pair().jax_model, theirs.pair().torch_model, level="outputs")
    assert not report.passed
    assert any("activation 'gelu_tanh' in JAX and 'gelu' in PyTorch" in n for n in report.notes)
    assert report.diagnosis is not None
    assert report.diagnosis.causes[0].what == "activation"


def test_an_unknown_loss_is_unexplained():
    plant = Plant(SUBJECT, 0)
    plant.torch_training = TorchTraining(loss=lambda x, y, **o: 2 * loss_fn(x, y, **o))
    with exact():
        found = explain_pair(plant.pair(), steps=3)
    assert "loss" in found.unexplained
    assert not found.causes
