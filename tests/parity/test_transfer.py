"""`parity.transfer`: weights of one's own models, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import parity

RULES = [
    parity.Rule("stem.kernel", "conv.weight"),
    parity.Rule("stem.bias", "conv.bias"),
    parity.Rule("norm.bias", "bn.bias"),
    parity.Rule("norm.scale", "bn.weight"),
    parity.Rule("norm.mean", "bn.running_mean"),
    parity.Rule("norm.var", "bn.running_var"),
]
IMAGES = parity.Image(np.random.default_rng(0).normal(size=(3, 8, 6, 3)))


class Nnx(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.norm.mean[...] = jax.random.normal(rngs(), 4)

    def __call__(self, x):
        return self.norm(self.stem(x)).mean((1, 2))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), name="stem")(x)
        norm = linen.BatchNorm(use_running_average=True, epsilon=1e-5, name="norm")
        return norm(x).mean((1, 2))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.bn(self.conv(x)).mean((2, 3))


def same(ours, theirs):
    report = parity.check(ours, theirs, inputs=IMAGES, rules=RULES, level="outputs")
    assert report.passed, parity.render(report)


def test_nnx_takes_pytorchs_weights_and_pytorch_takes_them_back():
    ours, theirs, again = Nnx(), Torch(), Torch()
    assert parity.transfer(theirs, ours, rules=RULES) is ours
    same(ours, theirs)
    assert parity.transfer(ours, again, rules=RULES) is again
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_linen_variables_come_back_as_a_new_pair():
    model = Linen()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)))
    before = jax.tree.map(np.asarray, variables)
    pair = parity.transfer(Torch(), (model.apply, variables), rules=RULES)
    theirs = parity.transfer(pair, Torch(), rules=RULES)
    same(pair, theirs)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_names_without_a_partner_are_all_said_and_nothing_is_changed():
    ours, theirs = Nnx(), Torch()
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    with pytest.raises(ValueError, match=r"stem\.bias, stem\.kernel in JAX; conv\.weight, conv\."):
        parity.transfer(ours, theirs, rules=RULES[2:])
    with pytest.raises(ValueError, match=r"nothing in JAX; extra in PyTorch"):
        theirs.extra = torch.nn.Parameter(torch.ones(2))
        parity.transfer(theirs, ours, rules=RULES)
    assert all(torch.equal(before[name], theirs.state_dict()[name]) for name in before)


def test_shapes_that_do_not_fit_are_all_said():
    theirs = Torch()
    theirs.conv = torch.nn.Conv2d(3, 4, 5, padding=2)
    with pytest.raises(ValueError, match=r"conv\.weight would get shape \(4, 3, 3, 3\), and has"):
        parity.transfer(Nnx(), theirs, rules=RULES)


def test_two_models_of_one_framework_are_refused():
    with pytest.raises(ValueError, match="one model must be a torch.nn.Module"):
        parity.transfer(Torch(), Torch())
