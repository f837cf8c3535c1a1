"""NaN, infinity and overflow: where they first appear on each side, and nobody else is accused."""

import math
from typing import Any

import jax.nn as jnn
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity
from parity.diagnosis.trace import gap_of

X = np.random.default_rng(0).normal(size=(3, 5))
GIVEN = f"what fc1 is given ({int((X < 0).sum())} NaN of 15 values)"  # by the root


class Ours(nnx.Module):
    def __init__(self, change, scale=1.0):
        self.fc1, self.fc2 = (nnx.Linear(5, 5, rngs=nnx.Rngs(i)) for i in range(2))
        self.fc1.kernel[...] = self.fc1.kernel[...] * scale
        self.change = change

    def __call__(self, x):
        return self.fc2(jnn.relu(self.fc1(self.change(x))))


class Theirs(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)
        self.change = change

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.change(x))))


def report(jax_change, torch_change, scale=1.0, **options) -> Any:
    ours = Ours(jax_change, scale)
    theirs = parity.transfer(ours, Theirs(torch_change))
    found = parity.check(ours, theirs, inputs=X, **{"level": "outputs", **options})
    assert not found.passed
    assert found.diagnosis is not None
    return found


def absolute(x):
    return abs(x) ** 0.5


def test_a_layer_that_is_given_nan_is_not_accused():
    found = report(absolute, torch.sqrt).diagnosis
    assert found.location is not None
    assert (found.location.culprit, found.location.reached) == ("the model", "fc1")
    assert "Look between the model's input and fc1" in str(found.location)
    assert found.notes == (f"NaN or infinity in PyTorch only, first in {GIVEN}",)


def test_nan_on_both_sides_is_named_by_its_first_place_and_no_pass():
    found = report(jnp.sqrt, torch.sqrt)
    assert found.diagnosis.location is None
    assert found.diagnosis.notes == (f"NaN or infinity on both sides, first in {GIVEN}",)
    assert "gap nan" not in parity.render(found)


def test_other_places_are_named_side_by_side():
    found = report(lambda x: 1 / (x - x), torch.sqrt).diagnosis
    assert found.notes == (
        "NaN or infinity on both sides: JAX first in what fc1 is given (15 infinite of 15 values), "
        f"PyTorch first in {GIVEN}",
    )


def test_nan_in_the_inputs_is_said_to_be_there():
    given = X.copy()
    given[0, 0] = math.nan
    theirs = parity.transfer(ours := Ours(lambda x: x), Theirs(lambda x: x))
    (note,) = parity.diagnose(ours, theirs, inputs=given, level="outputs").notes
    assert note == "NaN or infinity on both sides, first in the inputs (1 NaN of 15 values)"


def test_overflow_is_no_loss_of_digits():
    (note,) = report(lambda x: x, lambda x: x, scale=4e4, dtype="float16").diagnosis.notes
    assert note.startswith("in float64 both sides agree; in float16 NaN or infinity on both sides")
    assert "first in the output of fc1 (" in note
    assert "exceed 65504, the largest number of float16" in note
    assert "digits" not in note


def test_weights_that_do_not_fit_are_named():
    (note,) = report(lambda x: x, lambda x: x, scale=4e5, dtype="float16").diagnosis.notes
    assert "in float16 weights overflow, fc1.weight: values up to " in note
    assert "exceed 65504, the largest number of float16" in note


INF, NAN = math.inf, math.nan
COMPARED = {
    "NaN at the same place": ([1.0, NAN], [1.0, NAN], 0.0),
    "infinity at the same place": ([2.0, -INF], [1.0, -INF], 1.0),
    "NaN for infinity": ([1.0, NAN], [1.0, INF], INF),
    "the other infinity": ([1.0, -INF], [1.0, INF], INF),
    "NaN on one side": ([1.0, 7.0], [1.0, NAN], INF),
    "NaN on the other": ([1.0, NAN], [1.0, 7.0], INF),
    "nothing else": ([NAN], [NAN], 0.0),
}


@pytest.mark.parametrize(("a", "b", "gap"), COMPARED.values(), ids=COMPARED)
def test_values_that_are_not_finite_are_compared_by_their_place(a, b, gap):
    assert gap_of(torch.tensor(a), torch.tensor(b)) == gap
