"""Models that never got the same weights are called that, before anything else."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity

X = np.random.default_rng(0).normal(size=(3, 8))


class Jax(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        return self.fc2(nnx.relu(self.fc1(self.norm(x))))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.fc1, self.fc2 = torch.nn.Linear(8, 16), torch.nn.Linear(16, 5)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.norm(x))))


def test_weights_that_were_never_transferred_are_called_that_first():
    ours, theirs = Jax(), Torch()
    report = parity.check(ours, theirs, inputs=X, level="layers")
    text = parity.render(report).partition("diagnosis:\n")[2]
    assert text == (
        "  every weight differs (2 of 2 kernels are unrelated): the two models do not hold the "
        "same weights; parity.transfer(torch_model, jax_model) first"
    )
    assert "he two models do not hold the same weights" in parity.html(report)
    parity.transfer(theirs, ours)  # the line that was told
    assert parity.check(ours, theirs, inputs=X, level="layers").passed


def rounded(kernel):
    return kernel.astype(jnp.bfloat16).astype(jnp.float32)


@pytest.mark.parametrize(
    "damage",
    [rounded, lambda k: -k, lambda k: k + 0.1 * jnp.sin(jnp.arange(k.size)).reshape(k.shape)],
    ids=["rounded", "sign", "trained_on"],
)
def test_weights_that_are_related_are_not_called_that(damage):
    theirs = Torch()
    ours = parity.transfer(theirs, Jax())
    for layer in (ours.fc1, ours.fc2):
        layer.kernel[...] = damage(layer.kernel[...])
    found = parity.diagnose(ours, theirs, inputs=X, level="layers")
    assert found.advice == "" and (found.causes or found.unexplained)


def test_one_layer_that_was_not_loaded_is_placed_there():
    theirs = Torch()
    ours = parity.transfer(theirs, Jax())
    ours.fc1.kernel[...] = Jax(1).fc1.kernel[...]
    found = parity.diagnose(ours, theirs, inputs=X, level="layers")
    assert found.advice == "" and found.unexplained == ("fc1.weight",)
