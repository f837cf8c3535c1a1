"""`parity.check` of models that are not this project's: Linen, NNX, functions; what users hit."""

from functools import partial
from typing import NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity
from parity.pair import make_pair
from tests.parity.linen_vit import RULES, linen_vit, torch_twin

RNG = np.random.default_rng(0)
IMAGES = parity.Image(RNG.normal(size=(3, 32, 32, 3)))


def test_a_linen_vit_equals_torchs_encoder_at_all_levels():
    apply, variables = linen_vit()
    report = parity.check(
        (apply, variables), torch_twin(variables), inputs=IMAGES, rules=RULES, steps=6
    )
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS
    assert report.subject == "LinenViT and TorchViT"
    points = {gap.name for gap in report.of("layers")}
    assert {"patches", "layers.1.norm2", "layers.1.linear1", "norm", "head", "output"} <= points


def test_the_tanh_gelu_of_flax_is_named_as_the_cause():
    apply, variables = linen_vit(activation=linen.gelu)
    twin = torch_twin(variables)
    report = parity.check((apply, variables), twin, inputs=IMAGES, rules=RULES, level="layers")
    assert report.of("weights") and not [g for g in report.failures if g.level == "weights"]
    cause = next(c for c in report.diagnosis.causes if c.what == "activation")
    assert (cause.jax, cause.torch) == ("tanh GELU", "erf GELU")
    assert cause.residual < 1e-12 < cause.gap
    assert f"cause: {cause}" in parity.render(report)


class Cnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, epsilon: float = 1e-5):
        self.conv = nnx.Conv(3, 8, (3, 3), padding=1, rngs=rngs)
        self.bn = nnx.BatchNorm(8, momentum=0.9, epsilon=epsilon, rngs=rngs)
        self.fc = nnx.Linear(8, 5, rngs=rngs)
        for stat in (self.bn.mean, self.bn.var):
            stat[...] = jnp.asarray(RNG.uniform(0.5, 2, 8), "float32")

    def __call__(self, images):
        return self.fc(nnx.relu(self.bn(self.conv(images))).mean((1, 2)))


class TorchCnn(torch.nn.Module):
    def __init__(self, twin: Cnn):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.relu, self.fc = torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 5)
        state = {".".join(p): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(twin))}
        carried = parity.Names().to_torch(state)
        self.load_state_dict({n: torch.tensor(a) for n, a in carried.items()}, strict=False)

    def forward(self, images):
        return self.fc(self.relu(self.bn(self.conv(images))).mean((2, 3)))


def test_a_cnn_with_batch_norm_and_an_activation_in_place():
    model = Cnn(nnx.Rngs(0))
    report = parity.check(model, TorchCnn(model), inputs=IMAGES, steps=4)
    assert report.passed, parity.render(report)
    assert {"bn.running_mean", "bn.running_var"} <= {g.name for g in report.of("weights")}
    assert {g.name for g in report.of("layers")} == {"conv", "bn", "fc", "output"}


def test_another_epsilon_of_batch_norm_is_named():
    model = Cnn(nnx.Rngs(0), epsilon=1e-3)
    report = parity.check(model, TorchCnn(model), inputs=IMAGES, level="layers")
    causes = [(c.place, c.what, c.jax, c.torch) for c in report.diagnosis.causes]
    assert causes == [("bn", "epsilon", "0.001", "1e-05")]


class LinenNormed(linen.Module):
    @linen.compact
    def __call__(self, images, train: bool):
        x = linen.Conv(8, (3, 3), padding=1, name="conv")(images)
        how = {"momentum": 0.9, "epsilon": 1e-5, "name": "bn"}  # PyTorch calls it 0.1
        x = linen.BatchNorm(use_running_average=not train, **how)(x)
        return linen.Dense(5, name="fc")(linen.relu(x).mean((1, 2)))


def test_linens_batch_statistics_are_no_parameters():
    model = LinenNormed()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    twin = TorchCnn(Cnn(nnx.Rngs(0)))
    carried = {n: t.detach().numpy() for n, t in twin.state_dict().items() if t.ndim}
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [".".join(k.key for k in path[1:]) for path, _ in leaves]
    state = parity.Names().to_jax(
        carried, {n: leaf.ndim for n, (_, leaf) in zip(names, leaves, strict=True)}
    )
    variables = jax.tree.unflatten(structure, [jnp.asarray(state[name]) for name in names])
    report = parity.check((partial(model.apply, train=False), variables), twin, inputs=IMAGES)
    assert report.passed, parity.render(report)
    assert not [g for g in report.of("gradients") if "running" in g.name]


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


def test_inputs_and_outputs_of_any_structure_and_settings_among_them():
    kernel = RNG.normal(size=(4, 6)).astype("float32")
    inputs = {
        "pair": Pair(RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))),
        "scale": RNG.normal(size=(3, 1)),
        "double": True,
    }

    class Twin(torch.nn.Linear):
        def forward(self, pair, scale, double):
            parts = [super(Twin, self).forward(x) * scale for x in pair]
            return {"sum": parts[0] + parts[1], "all": [2 * p if double else p for p in parts]}

    def function(params, pair, scale, double):
        parts = [x @ params["kernel"] * scale for x in pair]
        return {"sum": parts[0] + parts[1], "all": [2 * p if double else p for p in parts]}

    twin = Twin(4, 6, bias=False)
    twin.load_state_dict({"weight": torch.tensor(kernel.T.copy())})
    report = parity.check((function, {"kernel": kernel}), twin, inputs=inputs, steps=3)
    assert report.passed, parity.render(report)
    assert [g.name for g in report.of("outputs")] == ["output.sum", "output.all.0", "output.all.1"]
    assert {"input 0", "input 1", "input 2"} < {g.name for g in report.of("gradients")}


class LinenTokens(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        return linen.Dense(5, name="head")(linen.Embed(11, 8, name="embed")(tokens).mean(1))


class TorchTokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 5)
        self.register_buffer("places", torch.arange(4.0), persistent=False)  # not of the state

    def forward(self, tokens):
        return self.head(self.embed(tokens).mean(1))


def test_integer_inputs():
    twin = TorchTokens()
    state = {n: t.detach().numpy() for n, t in twin.state_dict().items()}
    params = {
        "embed": {"embedding": state["embed.weight"]},
        "head": {"kernel": state["head.weight"].T, "bias": state["head.bias"]},
    }
    tokens = RNG.integers(0, 11, size=(3, 4))
    model = LinenTokens().apply
    report = parity.check((model, {"params": params}), twin, inputs=tokens, steps=4)
    assert report.passed, parity.render(report)


def test_a_model_that_computes_in_one_dtype_is_measured_not_refused():
    twin = torch.nn.Linear(4, 3)
    params = {"kernel": twin.weight.detach().numpy().T, "bias": twin.bias.detach().numpy()}
    model = linen.Dense(3, dtype=jnp.float32).apply
    report = parity.check(
        (model, {"params": params}), twin, inputs=RNG.normal(size=(3, 4)), level="gradients"
    )
    assert 1e-9 < max(g.gap for g in report.of("gradients")) < 1e-5


def test_a_bias_that_the_softmax_cannot_see_is_measured_beside_its_weight():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            scores = self.query(x) @ self.key(x).mT
            return scores.softmax(-1) @ self.value(x)

    def function(params, x):
        q, k, v = (x @ params[n]["kernel"] + params[n]["bias"] for n in ("query", "key", "value"))
        return jax.nn.softmax(q @ k.mT) @ v

    twin = Attention()
    params = {
        name: {"kernel": m.weight.detach().numpy().T, "bias": m.bias.detach().numpy()}
        for name, m in twin.named_children()
    }
    report = parity.check((function, params), twin, inputs=RNG.normal(size=(3, 5, 8)), steps=3)
    assert report.passed, parity.render(report)
    assert "key" in {g.name for g in report.of("gradients")}
    assert "the bias of key has zero gradient" in report.notes[0]


def linear(params, x):
    return x @ params["a"]["kernel"]


FLAT = {"a": {"kernel": np.ones((4, 3), "float32")}}
X = np.ones((2, 4))
THREE = parity.fused(parity.permute(1, 0))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ((linear, FLAT), {}, "give inputs="),
        ((linear, FLAT), {"inputs": torch.ones(2, 4)}, "inputs is of type torch.Tensor"),
        ((linear, {"a": {"kernel": 1.0, "name": "b"}}), {"inputs": X}, "a.kernel is of type float"),
        (
            (linear, FLAT),
            {"inputs": X, "rules": [parity.Rule(("a.kernel", "b.kernel"), "a.weight", THREE)]},
            "matches a.kernel, but there is no b.kernel",
        ),
        (
            (linear, FLAT),
            {"inputs": X, "rules": [parity.Rule(("a.kernel", "b.kernel"), "weight")]},
            "pairs 2 names with 1 and has no operation",
        ),
        (
            (linear, FLAT),
            {"inputs": X, "rules": [parity.Rule("a.kernel", "a.wieght")]},
            "a rule takes a.kernel to an unknown PyTorch name 'a.wieght'",
        ),
        (
            (linear, FLAT),
            {"inputs": X, "rules": [parity.Rule("a.kernel", "weight", parity.permute(2, 0, 1))]},
            r"the rule for weight does not fit a.kernel \(4, 3\)",
        ),
        ((linear, FLAT), {"inputs": np.ones((2, 5))}, r"model fails with inputs \(2, 5\)"),
        ((linear, FLAT), {"inputs": np.ones((2, 5, 5, 3))}, "as parity.Image"),
        (
            (linear, FLAT),
            {"inputs": X, "rules": [parity.Rule("{part}.kernel", "weight")]},
            "all names of a rule need the same placeholders",
        ),
    ],
    ids=[
        "no_inputs",
        "tensor",
        "no_array",
        "half_a_rule",
        "no_op",
        "typo",
        "axes",
        "shape",
        "no_image",
        "placeholders",
    ],
)
def test_what_cannot_be_checked_is_named_with_the_way_out(model, options, message):
    with pytest.raises(ValueError, match=message):
        parity.check(model, torch.nn.Linear(4, 3), **options)


def test_the_models_are_given_in_order_and_both():
    with pytest.raises(ValueError, match="give a PyTorch model to compare with"):
        make_pair((linear, FLAT), given=X)
    with pytest.raises(ValueError, match="give the JAX model first"):
        make_pair(torch.nn.Linear(4, 3), (linear, FLAT), given=X)
