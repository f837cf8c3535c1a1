"""Rules are held to the same everywhere; tensors of one side, tied tensors, buffers, rounding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import parity
from parity import Rule

X = np.random.default_rng(0).normal(size=(3, 4))


class Jax(nnx.Module):
    def __init__(self, seed=0, **options):
        rngs = nnx.Rngs(seed)
        self.fc = nnx.Linear(4, 6, rngs=rngs, **options)
        self.out = nnx.Linear(6, 4, rngs=rngs, **options)

    def __call__(self, x):
        return self.out(jnp.tanh(self.fc(x)))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = torch.nn.Linear(4, 6), torch.nn.Linear(6, 4)

    def forward(self, x):
        return self.out(torch.tanh(self.fc(x)))


WAYS = {
    "check": lambda ours, theirs, rules: parity.check(ours, theirs, inputs=X, rules=rules),
    "diagnose": lambda ours, theirs, rules: parity.diagnose(ours, theirs, inputs=X, rules=rules),
    "to_jax": lambda ours, theirs, rules: parity.transfer(theirs, ours, rules=rules),
    "to_torch": lambda ours, theirs, rules: parity.transfer(ours, theirs, rules=rules),
}
WRONG = {
    "misspelt": (Rule("fd", "fc"), "matches no JAX name; they look like fc.bias"),
    "exchanged": (
        Rule("fc.weight", "fc.kernel"),
        "matches no JAX name; its sides are exchanged",
    ),
    "no_target": (Rule("fc.bias", "fc.bais"), "unknown PyTorch name 'fc.bais'"),
    "no_module": (Rule("fc", "fd"), "unknown PyTorch name 'fd.bias'"),
    "left_out": (parity.only_torch("mean"), "matches no PyTorch name"),
    "twice": (Rule("fc.bias", "out.bias"), "a rule before it takes all of its names"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_rule_that_pairs_nothing_is_one_error_everywhere(way, wrong):
    rule, message = WRONG[wrong]
    rules = [Rule("fc.bias", "fc.bias"), rule] if wrong == "twice" else [rule]
    with pytest.raises(ValueError, match=message):
        WAYS[way](Jax(), Torch(), rules)


def test_of_two_rules_for_one_module_the_second_is_an_error_and_a_longer_one_is_not():
    with pytest.raises(ValueError, match=r"torch='out'.*a rule before it takes all of its names"):
        parity.transfer(Jax(), Torch(), rules=[Rule("fc", "fc"), Rule("fc", "out")])
    rules = [Rule("fc", "fc"), Rule("fc.bias", "fc.bias"), Rule("fc.kernel", "fc.weight")]
    parity.transfer(Jax(), Torch(), rules=rules)


A_TEXT: Any = "heads"
NO_RULES = {
    "pair": (("fc", "fc"), r"a list of parity.Rule.* got \('fc', 'fc'\)"),
    "op": (Rule("fc", "fc", A_TEXT), r"with an operation of parity or none: got 'heads'"),
    "word": (Rule("{1a}", "{1a}"), r"a placeholder is a word, such as \{i\}: got 1a"),
    "all": (parity.only_jax(""), "leaves out the whole model"),
}


@pytest.mark.parametrize("wrong", NO_RULES)
def test_what_is_no_rule_is_refused_with_what_is_one(wrong):
    rule, message = NO_RULES[wrong]
    with pytest.raises(ValueError, match=message):
        parity.transfer(Jax(), Torch(), rules=[rule])


def test_a_second_model_of_jax_and_inputs_of_no_images_are_refused():
    with pytest.raises(ValueError, match=r"the second model is a Jax, not a torch\.nn\.Module"):
        parity.check(Jax(), Jax(), inputs=X)
    with pytest.raises(ValueError, match="inputs is empty: nothing would be compared"):
        parity.check(Jax(), Torch(), inputs=X[:0])


def test_inputs_that_overflow_or_are_nan_are_reported_without_warnings():
    ours, theirs = Jax(), Torch()
    parity.transfer(ours, theirs)
    assert not parity.check(ours, theirs, inputs=X * 1e6, dtype="float16", level="outputs").passed
    broken = np.concatenate([np.full((1, 4), np.nan), X])
    assert not parity.check(ours, theirs, inputs=broken, level="training", steps=2).passed


def test_all_wrong_rules_are_said_at_once():
    with pytest.raises(ValueError, match=r"'a'.*'c'"):
        parity.transfer(Torch(), Jax(), rules=[Rule("a", "b"), Rule("c", "d")])


def test_a_missing_partner_comes_with_the_rule_to_type():
    class Renamed(Torch):
        def __init__(self):
            super().__init__()
            self.proj, self.out = self.out, None

        def forward(self, x):
            return self.proj(torch.tanh(self.fc(x)))

    ours, theirs = Jax(), Renamed()
    with pytest.raises(ValueError, match=r'parity\.Rule\("out", "proj"\)'):
        parity.transfer(theirs, ours)
    rules = [Rule("out", "proj")]
    parity.transfer(theirs, ours, rules=rules)
    report = parity.check(ours, theirs, inputs=X, rules=rules, level="layers")
    assert report.passed and {"fc", "proj"} < {g.name for g in report.of("layers")}


class WithHead(Torch):
    """A head that is not used here, a frozen table, and a buffer that JAX has as a constant."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)
        self.table = torch.nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("mean", torch.full((4,), 0.5))

    def forward(self, x):
        return super().forward((x - self.mean) * self.table)


class Constant(Jax):
    def __init__(self):
        super().__init__()
        self.spare = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return super().__call__(x - 0.5) * self.spare[...]


LEFT = [parity.only_torch(name) for name in ("head", "table", "mean")]


def test_what_one_side_has_on_purpose_is_left_out_through_training():
    ours, theirs = Constant(), WithHead()
    before = {name: t.clone() for name, t in theirs.state_dict().items()}
    with pytest.raises(ValueError, match=r'parity\.only_torch\("head\.weight"\)|only_torch'):
        parity.transfer(ours, theirs)
    rules = [*LEFT, parity.only_jax("spare")]
    parity.transfer(ours, theirs, rules=rules)
    assert torch.equal(theirs.head.weight, before["head.weight"])
    report = parity.check(ours, theirs, inputs=X, rules=rules, steps=4)
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS
    assert {g.name for g in report.of("weights")} == {
        "fc.weight", "fc.bias", "out.weight", "out.bias"
    }  # fmt: skip
    assert "spare in JAX; head.bias, head.weight, mean and 1 more in PyTorch" in report.notes[0]


def test_a_parameter_that_pytorch_freezes_is_compared_like_any_other():
    theirs = Torch()
    theirs.fc.weight.requires_grad_(False)
    ours = parity.transfer(theirs, Jax())
    report = parity.check(ours, theirs, inputs=X, steps=3)
    assert report.passed, parity.render(report)
    assert "fc.weight" in {g.name for g in report.of("gradients")}
    assert not theirs.fc.weight.requires_grad


class Scaled(Jax):
    def __init__(self):
        super().__init__()
        self.scale = nnx.Variable(jnp.ones(4))
        self.count = nnx.Variable(jnp.zeros(2))  # has no partner and needs none

    def __call__(self, x):
        return super().__call__(x) * self.scale[...]


class TorchScaled(Torch):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((4,), 1.5))

    def forward(self, x):
        return super().forward(x) * self.scale


def test_a_variable_that_is_no_parameter_is_the_partner_of_a_buffer():
    ours, theirs = Scaled(), TorchScaled()
    parity.transfer(theirs, ours)
    assert float(ours.scale[...][0]) == 1.5
    report = parity.check(ours, theirs, inputs=X, level="gradients")
    assert report.passed, parity.render(report)
    assert "scale" in {g.name for g in report.of("weights")} - {
        g.name for g in report.of("gradients")
    }
    ours.scale[...] = jnp.full(4, 2.0)
    assert "scale" in {
        g.name for g in parity.check(ours, theirs, inputs=X, level="weights").failures
    }


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids)))


class Attend(linen.Module):
    @linen.compact
    def __call__(self, ids):
        embed = linen.Embed(11, 6, name="embed")
        return embed.attend(jnp.tanh(embed(ids)))


class Copies(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.head = nnx.Linear(6, 11, use_bias=False, rngs=rngs)

    def __call__(self, ids):
        return self.head(jnp.tanh(self.embed(ids)))


IDS = np.random.default_rng(0).integers(0, 11, (3, 5))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_tied_tensor_goes_by_either_of_its_names(name):
    theirs, again = Tied(), Tied()
    model = Attend()
    pair = (model.apply, model.init(jax.random.key(0), IDS))
    rules = [Rule("embed.embedding", name)]
    pair = parity.transfer(theirs, pair, rules=rules)
    report = parity.check(pair, theirs, inputs=IDS, rules=rules, steps=3)
    assert report.passed, parity.render(report)
    parity.transfer(pair, again, rules=rules)
    assert torch.equal(again.embed.weight, theirs.embed.weight)
    assert again.head.weight is again.embed.weight


def test_one_tensor_of_pytorch_never_gets_two_values():
    ours, theirs = Copies(nnx.Rngs(0)), Tied()
    before = theirs.embed.weight.clone()
    with pytest.raises(ValueError, match="head.weight and embed.weight are one tensor in PyTorch"):
        parity.transfer(ours, theirs)
    assert torch.equal(theirs.embed.weight, before)
    ours.head.kernel[...] = ours.embed.embedding[...].T
    parity.transfer(ours, theirs)
    report = parity.check(ours, theirs, inputs=IDS, level="gradients")
    assert not [g for g in report.failures if g.level != "gradients"], parity.render(report)
    assert "one tensor in PyTorch and two in JAX" in report.notes[0]
    assert not report.passed


def test_rounding_into_the_targets_dtype_is_said():
    theirs, ours = Torch(), Jax(param_dtype=jnp.bfloat16)
    with pytest.warns(UserWarning, match="rounded fc.bias, fc.kernel, out.bias and 1 more from"):
        parity.transfer(theirs, ours)
    parity.transfer(ours, theirs)  # wider: nothing is rounded
    assert parity.check(ours, theirs, inputs=X, level="weights").passed
