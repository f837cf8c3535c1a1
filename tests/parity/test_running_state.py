"""State beside the parameters: what models update in training is compared, and named."""

from typing import Any

import flax.linen as ln
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity
from parity.diagnosis.running import explain_running
from parity.pair import make_pair
from parity.precision import exact
from parity.tolerance import proof_bound

IMAGES = parity.Image(np.random.default_rng(0).normal(1.0, 2.0, size=(3, 6, 4, 5)))
N = 3 * 6 * 4
VECTORS = np.random.default_rng(1).normal(1.0, 2.0, size=(7, 5))


class Ours(nnx.Module):
    def __init__(self, momentum=0.9, norm: Any = nnx.BatchNorm):
        rngs = nnx.Rngs(0)
        self.bn = norm(5, momentum=momentum, epsilon=1e-5, rngs=rngs)
        self.fc = nnx.Linear(5, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.drop(self.bn(x))
        return self.fc(x.mean((1, 2)) if x.ndim == 4 else x)


class Theirs(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.bn, self.fc = norm, torch.nn.Linear(5, 2)

    def forward(self, x):
        x = torch.nn.functional.dropout(self.bn(x), training=self.training)
        return self.fc(x.mean((2, 3)) if x.ndim == 4 else x)


class Linen(ln.Module):
    momentum: float = 0.9

    @ln.compact
    def __call__(self, x, train):
        norm = ln.BatchNorm(
            use_running_average=not train, momentum=self.momentum, epsilon=1e-5, name="bn"
        )
        return ln.Dense(2, name="fc")(norm(x))


class OwnLinen(ln.Module):
    """Keeps a mean by itself, if it is told to."""

    @ln.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1])
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return ln.Dense(2, name="fc")(x - mean.value)


class OwnTorch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))
        self.fc = torch.nn.Linear(5, 2)

    def forward(self, x):
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean(0)
        return self.fc(x - self.running_mean)


class OverLess(nnx.BatchNorm):
    """Takes the variance over n - 1 values, as PyTorch does."""

    def __call__(self, x, **how):
        old = self.var[...]
        y = super().__call__(x, **how)
        n = x.size // x.shape[-1]
        if not self.use_running_average:
            self.var[...] = old + (self.var[...] - old * self.momentum) * n / (n - 1) - 0.1 * old
        return y


class Frozen(torch.nn.Module):
    """Never updates its statistics, like that of torchvision."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
        self.register_buffer("running_mean", torch.zeros(5))
        self.register_buffer("running_var", torch.ones(5))

    def forward(self, x):
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return torch.nn.functional.batch_norm(x, mean, var, self.weight, self.bias)


class Level(torch.nn.Module):
    """Keeps a moving average of what it sees; `mean` only so that names mirror."""

    def __init__(self, decay):
        super().__init__()
        self.decay = decay
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.level.mul_(self.decay).add_((1 - self.decay) * x.mean())
        return x - self.level


class JaxLevel(nnx.Module):
    def __init__(self, *args, **options):
        self.level, self.use_running_average = nnx.BatchStat(jnp.zeros(())), False

    def __call__(self, x):
        if not self.use_running_average:
            self.level[...] = 0.9 * self.level[...] + 0.1 * x.mean()
        return x - self.level[...]


def statistics(norm):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return norm


def compared(ours, norm, inputs: Any = IMAGES):
    """Gaps by name, notes, causes, what is unexplained."""
    theirs = Theirs(norm)
    ours = parity.transfer(theirs, ours)
    with exact():
        pair = make_pair(ours, theirs, given=inputs)
        sides, given = pair.sides("float64"), pair.feed.sets("float64")[""]
        jax_state, torch_state = (dict(stream) for stream in pair.running(sides, given))
        found = explain_running(*sides, given, proof_bound(1))
    gaps = {n: np.abs(jax_state[n] - torch_state[n]).max() for n in torch_state}
    return gaps, pair.notes, *found


def test_equal_momentum_passes_and_the_factor_of_the_variance_is_said():
    gaps, notes, causes, unexplained = compared(Ours(), statistics(torch.nn.BatchNorm2d(5)))
    assert gaps.keys() == {"state bn.running_mean", "state bn.running_var"}
    assert max(gaps.values()) < 1e-14
    assert f"n / (n - 1) times as much in PyTorch ({N / (N - 1):.6g} here, n = {N})" in notes[-1]
    assert (causes, unexplained) == ([], [])


GIVEN = {"images": (IMAGES, torch.nn.BatchNorm2d), "vectors": (VECTORS, torch.nn.BatchNorm1d)}


@pytest.mark.parametrize(("inputs", "norm"), GIVEN.values(), ids=GIVEN)
def test_another_momentum_is_named_in_the_terms_of_both(inputs, norm):
    gaps, _, causes, unexplained = compared(Ours(0.99), statistics(norm(5)), inputs)
    assert min(gaps.values()) > 1e-3
    assert {(c.place, c.what, c.jax, c.torch) for c in causes} == {
        ("bn", "momentum", "0.99", "0.1 (that is 0.9 in Flax's terms)")
    }
    assert unexplained == []


def test_a_check_at_training_finds_it_in_linen_behind_a_function():
    model, theirs = Linen(0.99), Theirs(statistics(torch.nn.BatchNorm1d(5)))
    variables = model.init(jax.random.key(0), jnp.zeros((2, 5)), train=False)
    ours = parity.transfer(theirs, (lambda v, x: model.apply(v, x, train=False), variables))
    report = parity.check(ours, theirs, inputs=VECTORS, steps=2)
    assert [g.name for g in report.failures] == ["state bn.running_mean", "state bn.running_var"]
    assert {g.level for g in report.failures} == {"training"}
    text = parity.render(report)
    assert "bn: momentum: JAX 0.99, PyTorch 0.1 (that is 0.9 in Flax's terms)" in text


def test_a_port_that_takes_the_variance_as_pytorch_does_passes_without_a_word():
    gaps, notes, *found = compared(Ours(norm=OverLess), statistics(torch.nn.BatchNorm2d(5)))
    assert max(gaps.values()) < 1e-13
    assert notes == ()
    assert found == [[], []]


def test_statistics_that_one_side_freezes_are_said_to_be_left_out():
    gaps, notes, *found = compared(Ours(), Frozen())
    assert gaps == {}
    assert notes[-1].startswith("bn.running_mean, bn.running_var: a module of one side does not")
    assert found == [[], []]


def test_other_state_than_batch_norms_is_compared():
    gaps, *_ = compared(Ours(norm=JaxLevel), Level(0.9))
    assert gaps == {"state bn.level": pytest.approx(0, abs=1e-14)}
    gaps, _, causes, unexplained = compared(Ours(norm=JaxLevel), Level(0.8))
    assert gaps["state bn.level"] > 1e-2
    assert (causes, unexplained) == ([], ["state bn.level"])


def test_one_value_a_channel_is_left_alone():
    gaps, *_ = compared(Ours(), statistics(torch.nn.BatchNorm1d(5)), VECTORS[:1])
    assert gaps == {}


def test_state_of_a_module_that_is_told_to_train_by_a_flag_of_its_own_is_left_out():
    model = OwnLinen()
    variables = model.init(jax.random.key(0), jnp.ones((2, 5)), False)
    theirs = OwnTorch()
    parity.transfer((model.apply, variables), theirs)
    given = (VECTORS,)
    report = parity.check(
        (lambda variables, x: model.apply(variables, x, False), variables), theirs, inputs=given,
        steps=2,
    )  # fmt: skip
    assert report.passed
    assert any("running_mean: a module of one side does not update" in n for n in report.notes)


def test_a_batch_norm_of_another_axis_that_is_given_its_input_by_name_is_compared():
    class First(nnx.Module):
        def __init__(self):
            self.bn = nnx.BatchNorm(5, axis=1, epsilon=1e-5, momentum=0.9, rngs=nnx.Rngs(0))
            self.fc = nnx.Linear(5, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.fc(self.bn(x=x).mean((2, 3)))

    class Second(Theirs):
        def forward(self, x):
            return self.fc(self.bn(input=x).mean((2, 3)))

    ours, theirs = First(), Second(torch.nn.BatchNorm2d(5))
    parity.transfer(ours, theirs)
    channels_first = np.moveaxis(IMAGES.array, -1, 1)
    report = parity.check(ours, theirs, inputs=(channels_first,), steps=2)
    assert report.passed
    assert any(gap.name == "state bn.running_var" for gap in report.gaps)
