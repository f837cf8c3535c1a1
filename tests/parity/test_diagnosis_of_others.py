"""Diagnosis of models that are not ours: what is harmless is no cause, and no bug hides another."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import parity

pytestmark = pytest.mark.usefixtures("quickly_compiled")

IMAGES = parity.Image(np.random.default_rng(0).normal(size=(3, 8, 6, 3)))


class Ours(nnx.Module):
    """Pads by SAME, and its norm has Flax's fast variance."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, padding="SAME", rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.norm.scale[...] = jax.random.normal(rngs(), 8)
        self.fc1, self.fc2 = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.conv(x).mean((1, 2)))
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Theirs(torch.nn.Module):
    """Pads before the convolution: another way to the same values."""

    def __init__(self, *, eps=1e-5, gelu="none", flipped=False):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.LayerNorm(8, eps=eps)
        self.fc1, self.fc2 = torch.nn.Linear(8, 16), torch.nn.Linear(16, 5)
        self.gelu, self.flipped = gelu, flipped

    def forward(self, x):
        x = x.flip(1) if self.flipped else x
        x = self.norm(self.conv(F.pad(x, (0, 1, 0, 1))).mean((2, 3)))
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class Patches(Theirs):
    """Takes the image as it is."""

    def forward(self, x):
        x = x.flip(1) if self.flipped else x
        x = self.norm(self.conv(x).mean((2, 3)))
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class JaxPatches(Ours):
    def __init__(self):
        super().__init__()
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, padding="VALID", rngs=nnx.Rngs(1))


def diagnosis(ours, theirs, weight=""):
    parity.transfer(ours, theirs)
    with torch.no_grad():
        for parameter in [theirs.get_parameter(weight)] if weight else []:
            parameter.view(-1)[1] += 1
    return parity.diagnose(ours, theirs, inputs=IMAGES, level="layers")


def whats(found):
    return {cause.what for cause in found.causes}


def test_other_padding_and_fast_variance_are_no_cause_of_a_wrong_weight():
    found = diagnosis(Ours(), Theirs(), "norm.weight")
    assert found.causes == ()
    assert found.unexplained == ("norm.weight",)


def test_nor_beside_a_wrong_epsilon_and_a_wrong_activation():
    found = diagnosis(Ours(), Theirs(eps=1e-3, gelu="tanh"))
    assert whats(found) == {"epsilon", "activation"}
    assert found.unexplained == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"channels"}),
        ({"eps": 1e-3}, {"channels", "epsilon"}),
        ({"gelu": "tanh"}, {"channels", "activation"}),
    ],
    ids=["alone", "epsilon", "activation"],
)
def test_reversed_channels_show_beside_another_bug(options, expected):
    found = diagnosis(JaxPatches(), Patches(flipped=True, **options))
    assert whats(found) == expected
    assert found.location is not None
    assert (found.location.first, found.location.culprit) == ("conv", "the model")
    assert "but not the cause: given equal inputs, the model already differs before conv" in str(
        found.location
    )


def test_nan_is_named_by_its_tensor_and_nothing_else_is_accused():
    ours, theirs = JaxPatches(), Patches()
    theirs.fc1.weight.data[0, 0] = float("nan")
    found = diagnosis(parity.transfer(theirs, ours), theirs)
    assert (found.causes, found.unexplained) == ((), ("fc1.weight",))
    assert "1 in JAX, 1 in PyTorch" in found.notes[0]


def test_names_that_do_not_mirror_are_one_finding():
    ours, theirs = JaxPatches(), torch.nn.Sequential(Patches())
    report = parity.check(ours, theirs, inputs=IMAGES, level="weights")
    assert 'parity.Rule("", "0")' in report.notes[0]
    assert report.diagnosis is not None
    assert [cause.what for cause in report.diagnosis.causes] == ["names"]


class OurAttention(nnx.Module):
    def __init__(self):
        self.norm = nnx.LayerNorm(12, epsilon=1e-5, rngs=nnx.Rngs(0))
        self.attn = nnx.MultiHeadAttention(4, 12, decode=False, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.attn(self.norm(x))


class TheirAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(12)
        self.attn = torch.nn.MultiheadAttention(12, 4, batch_first=True)

    def forward(self, x):
        x = self.norm(x)
        return self.attn(x, x, x, need_weights=False)[0]


def rules(heads):
    parts = ("query", "key", "value")
    return [
        *(
            parity.Rule(
                tuple(f"attn.{part}.{leaf}" for part in parts),
                f"attn.in_proj_{name}",
                parity.fused(parity.heads(heads)),
            )
            for leaf, name in (("kernel", "weight"), ("bias", "bias"))
        ),
        parity.Rule("attn.out.kernel", "attn.out_proj.weight", parity.heads(4, output=True)),
        parity.Rule("attn.out.bias", "attn.out_proj.bias"),
    ]


X = np.random.default_rng(0).normal(size=(3, 7, 12))


def test_a_module_that_takes_other_arguments_is_still_the_culprit():
    ours, theirs = OurAttention(), TheirAttention()
    parity.transfer(ours, theirs, rules=rules(4))
    found = parity.diagnose(ours, theirs, inputs=X, rules=rules(4), level="outputs")
    assert found.location is not None
    assert found.location.culprit == "attn"
    assert found.unexplained == ("attn",)
    assert "softmax in float32" in found.notes[0]


def test_a_rule_for_another_number_of_heads_is_refused():
    ours, theirs = OurAttention(), TheirAttention()
    parity.transfer(ours, theirs, rules=rules(4))
    with pytest.raises(ValueError, match=r"attn\.query\.bias has shape \(4, 3\), and"):
        parity.check(ours, theirs, inputs=X, rules=rules(3), level="weights")


class Tripled(nnx.Module):
    """Its part gets three times the input: another way to the same values."""

    def __init__(self):
        self.part = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.part(3 * x) / 3


def test_rounding_of_float64_is_not_called_that_of_float32():
    ours, theirs = Tripled(), torch.nn.Sequential()
    theirs.add_module("part", torch.nn.Linear(4, 4, bias=False))
    parity.transfer(theirs, ours)
    rows = np.random.default_rng(0).normal(size=(3, 4))
    report = parity.check(ours, theirs, inputs=rows, level="layers")
    assert [gap.name for gap in report.failures] == ["part"]
    assert report.diagnosis.location.own_gap < 1e-14
    assert report.diagnosis.notes == ()
