"""Measuring points of models whose layers are cut or shaped otherwise: attention above all."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity
from parity import Rule

D, H = 24, 3
X = np.random.default_rng(0).normal(size=(3, 5, D))


def softmax(q, k, v, **unused):
    """Flax's own takes float32; (b, t, h, k)."""
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.attn = nnx.MultiHeadAttention(
            H, D, decode=False, attention_fn=softmax, rngs=rngs, deterministic=True
        )
        self.head = nnx.Linear(D, 7, rngs=rngs)

    def __call__(self, x):
        return self.head(self.attn(x).mean(1))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.MultiHeadDotProductAttention(H, name="attn")(x, x)
        return linen.Dense(7, name="head")(x.mean(1))


class Fused(linen.Module):
    """One DenseGeneral for query, key and value."""

    @linen.compact
    def __call__(self, x):
        q, k, v = jnp.moveaxis(linen.DenseGeneral((3, H, D // H), name="qkv")(x), 2, 0)
        x = linen.DenseGeneral(D, axis=(-2, -1), name="out")(softmax(q, k, v))
        return linen.Dense(7, name="head")(x.mean(1))


def attention(q, k, v):
    q, k, v = (x.unflatten(-1, (H, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Separate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(D, D) for _ in range(4))

    def forward(self, x):
        return self.o(attention(self.q(x), self.k(x), self.v(x)))


class Qkv(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o = torch.nn.Linear(D, 3 * D), torch.nn.Linear(D, D)

    def forward(self, x):
        return self.o(attention(*self.qkv(x).chunk(3, -1)))


class InProjection(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = torch.nn.MultiheadAttention(D, H, batch_first=True)

    def forward(self, x):
        return self.mha(x, x, x)[0]


class Block(torch.nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn, self.head = attn(), torch.nn.Linear(D, 7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(std=0.3)

    def forward(self, x):
        return self.head(self.attn(x).mean(1))


THREE = ("attn.query", "attn.key", "attn.value")
OUT = Rule("attn.out", "attn.o", parity.heads(H, output=True))
SEPARATE = [*(Rule(n, f"attn.{n[5]}", parity.heads(H)) for n in THREE), OUT]
QKV = [Rule(THREE, "attn.qkv", parity.fused(parity.heads(H))), OUT]
MHA = [
    *(
        Rule(
            tuple(f"{n}.{ours}" for n in THREE),
            f"attn.mha.in_proj_{theirs}",
            parity.fused(parity.heads(H)),
        )
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    ),
    Rule("attn.out", "attn.mha.out_proj", parity.heads(H, output=True)),
    Rule("attn", "attn.mha"),
]
NO_ATTN = parity.heads(H, output=True)
FUSED_QKV = [
    Rule("qkv", "attn.qkv", parity.dense_general(features=(3, H, -1))),
    Rule("out", "attn.o", NO_ATTN),
]
FUSED_SEPARATE = [
    Rule(
        "qkv",
        ("attn.q", "attn.k", "attn.v"),
        parity.split(parity.dense_general(features=(3, H, -1))),
    ),
    Rule("out", "attn.o", NO_ATTN),
]


def pair(ours, theirs, rules):
    if issubclass(ours, nnx.Module):
        return parity.transfer(theirs, ours(nnx.Rngs(0)), rules=rules)
    model = ours()
    return parity.transfer(theirs, (model.apply, model.init(jax.random.key(0), X)), rules=rules)


@pytest.mark.parametrize(
    ("ours", "theirs", "rules", "points"),
    [
        (NnxBlock, Separate, SEPARATE, {"attn", "attn.q", "attn.k", "attn.v", "attn.o"}),
        (LinenBlock, Separate, SEPARATE, {"attn", "attn.q", "attn.k", "attn.v", "attn.o"}),
        (NnxBlock, Qkv, QKV, {"attn", "attn.qkv", "attn.o"}),
        (LinenBlock, Qkv, QKV, {"attn", "attn.qkv", "attn.o"}),
        (LinenBlock, InProjection, MHA, {"attn.mha.0"}),
        (Fused, Qkv, FUSED_QKV, {"attn.qkv", "attn.o"}),
        (Fused, Separate, FUSED_SEPARATE, {"attn.q", "attn.k", "attn.v", "attn.o"}),
    ],
    ids=["nnx", "linen", "nnx_qkv", "linen_qkv", "linen_mha", "fused_qkv", "fused_separate"],
)
def test_attention_of_flax_agrees_with_linears_at_every_point(ours, theirs, rules, points):
    twin = Block(theirs)
    report = parity.check(pair(ours, twin, rules), twin, inputs=X, rules=rules, level="gradients")
    assert report.passed, parity.render(report)
    assert {g.name for g in report.of("layers")} == {*points, "head", "output"}


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, 2 * self.bias)


def located(ours, theirs, rules):
    diagnosis = parity.diagnose(ours, theirs, inputs=X, rules=rules, level="layers")
    return diagnosis.location.culprit, [c.place for c in diagnosis.causes]


def test_a_bug_in_attention_is_placed_in_attention_not_in_its_projections():
    class Unscaled(Separate):
        def forward(self, x):
            return self.o(attention(4 * self.q(x), self.k(x), self.v(x)))

    twin = Block(Unscaled)
    ours = pair(LinenBlock, twin, SEPARATE)
    assert located(ours, twin, SEPARATE)[0] == "attn"


@pytest.mark.parametrize(("name", "place"), [("q", "attn.q"), ("o", "attn.o")])
def test_a_bug_in_a_projection_is_placed_there(name, place):
    twin = Block(Separate)
    ours = pair(LinenBlock, twin, SEPARATE)
    getattr(twin.attn, name).__class__ = Doubled
    assert located(ours, twin, SEPARATE)[0] == place


def test_a_bug_in_a_fused_projection_is_placed_there():
    twin = Block(Qkv)
    ours = pair(LinenBlock, twin, QKV)
    twin.attn.qkv.__class__ = Doubled
    assert located(ours, twin, QKV)[0] == "attn.qkv"


class Owner(nnx.Module):
    """The token is the encoder's; PyTorch's embedding has it."""

    def __init__(self, rngs):
        self.proj, self.head = nnx.Linear(D, D, rngs=rngs), nnx.Linear(D, D, rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, D)))

    def __call__(self, x):
        return self.head(self.proj(x) + self.token[...])


class Outer(nnx.Module):
    def __init__(self, rngs):
        self.encoder = Owner(rngs)

    def __call__(self, x):
        return jax.nn.relu(self.encoder(x))


class TorchEmbedding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.token = torch.nn.Linear(D, D), torch.nn.Parameter(torch.randn(1, 1, D))

    def forward(self, x):
        return self.proj(x) + self.token


class TorchOwner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings, self.head = TorchEmbedding(), torch.nn.Linear(D, D)

    def forward(self, x):
        return self.head(self.embeddings(x))


class TorchOuter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = TorchOwner()

    def forward(self, x):
        return torch.relu(self.vit(x))


HIGHER = [
    Rule("encoder.token", "vit.embeddings.token"),
    *(
        Rule(f"encoder.{ours}.{leaf}", f"vit.{theirs}.{torch_leaf}")
        for ours, theirs in (("proj", "embeddings.proj"), ("head", "head"))
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    ),
]


@pytest.mark.parametrize("explicit", [False, True])
def test_modules_that_hold_other_parameters_are_compared_only_if_a_rule_says_so(explicit):
    rules = [*HIGHER, Rule("encoder", "vit")] if explicit else HIGHER
    twin = TorchOuter()
    ours = parity.transfer(twin, Outer(nnx.Rngs(0)), rules=rules)
    report = parity.check(ours, twin, inputs=X, rules=rules, level="layers")
    assert report.passed, parity.render(report)
    points = {g.name for g in report.of("layers")}
    assert "vit.embeddings" not in points and ("vit" in points) is explicit


class Transposed(nnx.Module):
    """Tokens after the channels, in its first layer."""

    def __init__(self, rngs):
        self.mix = nnx.data(Mixed(rngs))
        self.head = nnx.Linear(D, 7, rngs=rngs)

    def __call__(self, x):
        return self.head(self.mix(x).mT)


class Mixed(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(D, D, rngs=rngs)

    def __call__(self, x):
        return self.fc(x).mT


class TorchMixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Sequential()
        self.mix.add_module("fc", torch.nn.Linear(D, D))
        self.head = torch.nn.Linear(D, 7)

    def forward(self, x):
        return self.head(self.mix(x))


def test_a_point_of_another_shape_is_left_out_with_a_note_and_no_failure():
    twin = TorchMixed()
    ours = parity.transfer(twin, Transposed(nnx.Rngs(0)))
    report = parity.check(ours, twin, inputs=X, level="layers")
    assert report.passed, parity.render(report)
    assert {g.name for g in report.of("layers")} == {"mix.fc", "head", "output"}
    assert "mix (JAX (3, 24, 5), PyTorch (3, 5, 24))" in " ".join(report.notes)
    twin.head.__class__ = Doubled
    diagnosis = parity.diagnose(ours, twin, inputs=X, level="layers")
    assert diagnosis.location.first == diagnosis.location.culprit == "head"


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return x + linen.Dense(D, name="fc")(jnp.tanh(x)), None

        run = linen.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return run(name="layers")(x, None)[0]


class TorchLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(D, D)

    def forward(self, x):
        return x + self.fc(torch.tanh(x))


def test_scanned_layers_agree_with_a_list_of_modules_through_training():
    rules = [Rule("layers", "{i}", parity.stacked(3))]
    twin = torch.nn.Sequential(*(TorchLayer() for _ in range(3)))
    report = parity.check(pair(Scanned, twin, rules), twin, inputs=X, rules=rules, steps=3)
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS
    assert {"0.fc.weight", "2.fc.bias"} < {g.name for g in report.of("gradients")}
    assert "inside of stacked layers: 0, 0.fc, 1 and 3 more" in report.notes[-1]
    ours = pair(Scanned, twin, rules)
    with torch.no_grad():
        twin[1].fc.bias += 1
    failed = parity.check(ours, twin, inputs=X, rules=rules, level="weights")
    assert [g.name for g in failed.failures] == ["1.fc.bias"]
