"""Inexact sums over rows are told from errors: healthy pairs pass, small bugs do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import parity
from parity.check import check_pair
from parity.mutants.mutant import Plant
from parity.precision import exact
from parity.row_sums import ExactRowSums, largest, plain_sums
from parity.wide_sums import with_wide_sums
from vit_jax.norm import LayerNorm
from vit_spec import ViTConfig

pytestmark = pytest.mark.usefixtures("quickly_compiled")
ROWS, WIDTH = 6280, 64  # 8 images of 785 tokens


@pytest.fixture(autouse=True)
def _one_accumulator():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def layer_norm_gradients(dtype, rows=ROWS):
    """PyTorch's gradients of scale and bias, and the exact sums, of random rows."""
    rng = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(rows, WIDTH, generator=rng).to(dtype) for _ in range(2))
    norm = nn.LayerNorm(WIDTH, eps=1e-6).to(dtype)
    norm(x).backward(grad)
    scaled = grad.double() * torch.layer_norm(x.double(), (WIDTH,), eps=1e-6)
    return norm.weight.grad, norm.bias.grad, scaled, grad.double()


def off(sums, exact_sums):
    return largest(sums.double() - exact_sums) / largest(exact_sums)


@pytest.mark.parametrize("rows", [50, 800, ROWS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_layer_norms_gradients_lose_what_a_plain_sum_of_their_type_loses(dtype, rows):
    *owns, scaled, grad = layer_norm_gradients(dtype, rows)
    for own, terms in zip(owns, (scaled, grad), strict=True):
        plain = off(plain_sums(terms, dtype)[-1], terms.sum(0))
        assert 0.4 * plain < off(own, terms.sum(0)) < 2.5 * plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_exact_sums_of_the_rows_are_compared(dtype):
    weight, bias, *_ = layer_norm_gradients(dtype)
    with ExactRowSums() as sums:
        exact_weight, exact_bias, scaled, grad = layer_norm_gradients(dtype)
    eps = torch.finfo(dtype).eps
    assert off(exact_bias, grad.sum(0)) < eps < off(bias, grad.sum(0)) / 8
    assert off(exact_weight, scaled.sum(0)) < 3 * eps < off(weight, scaled.sum(0)) / 2
    assert str(ROWS) in sums.notes[0]
    assert exact_bias.dtype == dtype


def test_a_sum_that_its_type_does_not_explain_goes_on_as_it_is():
    _, own, _, grad = layer_norm_gradients(torch.bfloat16, 800)
    sums = ExactRowSums()
    assert torch.equal(sums._settled(2 * own, grad), 2 * own)
    broken = torch.full_like(own, torch.nan)
    assert sums._settled(broken, grad).isnan().all()
    assert sums.notes == ()


@pytest.mark.parametrize("shape", [(WIDTH,), (4, WIDTH), (2, 3, 4, WIDTH)])
def test_rows_may_have_any_axes(shape):
    norm = nn.LayerNorm(shape[-2:] if len(shape) == 4 else WIDTH).bfloat16()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm(x).sum().backward()
    owns = [p.grad.clone() for p in norm.parameters()]
    norm.zero_grad()
    with ExactRowSums():
        norm(x).sum().backward()
    for own, parameter in zip(owns, norm.parameters(), strict=True):
        assert parameter.grad.shape == own.shape
        # up to 6 partial sums of size 2 or so, each rounded by eps / 2, 0.4 % of it
        torch.testing.assert_close(parameter.grad, own, rtol=0.05, atol=0.05)


def test_float64_is_left_alone():
    owns = layer_norm_gradients(torch.float64)
    with ExactRowSums():
        again = layer_norm_gradients(torch.float64)
    assert all(map(torch.equal, owns, again))


def bias_gradient(bias, grad):
    return jax.vjp(lambda bias: jnp.zeros_like(grad) + bias, bias)[1](grad)[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_jaxs_sums_of_half_precision_have_float32_accumulators(dtype):
    bias = jnp.zeros(WIDTH, dtype)
    grad = jnp.asarray(np.random.default_rng(0).normal(size=(32, 200, WIDTH)), dtype)
    exact_sum = torch.tensor(np.asarray(grad).astype(np.float64).sum((0, 1)))

    def error(function):
        return off(torch.tensor(np.asarray(function(bias, grad)).astype(np.float64)), exact_sum)

    eps = float(jnp.finfo(dtype).eps)
    assert error(jax.jit(with_wide_sums(bias_gradient))) < eps / 2
    assert error(jax.jit(bias_gradient)) > 2 * eps


def gradients_of_everything(x):
    """Of loops, branches, indices, functions with derivatives of their own, parts done again."""

    @jax.checkpoint
    def part(x):
        return jax.nn.relu(x) * jnp.take(x, jnp.array([1, 0, 1]), axis=0)

    def step(x, _):
        return jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, part(x) + x.mean(0)), x[0]

    def loss(x):
        last, seen = jax.lax.scan(jax.jit(step), x, None, length=3)
        return (jnp.square(last).sum() + jax.nn.logsumexp(seen)).astype(x.dtype)

    return {"loss": loss(x), "grad": jax.grad(loss)(x)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_else_that_jax_computes_stays_as_it_is(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), dtype)
    plain = jax.jit(gradients_of_everything)(x)
    half = jnp.zeros((), jnp.bfloat16)  # without one, nothing would be done again
    wide = jax.jit(with_wide_sums(lambda x, half: gradients_of_everything(x)))(x, half)
    bound = 0 if dtype == "float32" else 4 * float(jnp.finfo(dtype).eps)
    for name, value in plain.items():
        assert wide[name].dtype == dtype
        scale = jnp.abs(value.astype(float)).max()
        assert jnp.abs(wide[name].astype(float) - value.astype(float)).max() <= bound * scale


def test_a_function_of_wide_types_is_called_as_it_is():
    x, seen = jnp.ones(3), []
    with_wide_sums(lambda x: seen.append(x))(x)
    assert seen[0] is x


def test_a_sum_within_a_loop_is_wide_as_well():
    grad = jnp.asarray(np.random.default_rng(0).normal(size=(32, 200, WIDTH)), jnp.bfloat16)
    bias = jnp.zeros(WIDTH, jnp.bfloat16)

    def in_a_loop(bias, grad):
        return jax.lax.map(lambda grad: bias_gradient(bias, grad), grad[None])[0]

    once = jax.jit(with_wide_sums(bias_gradient))(bias, grad)
    assert jnp.array_equal(jax.jit(with_wide_sums(in_a_loop))(bias, grad), once)
    assert not jnp.array_equal(jax.jit(in_a_loop)(bias, grad), once)


def norms(*, wrong=0.0):
    """A LayerNorm in both frameworks, and its rows; JAX's gradient of the bias is off by a part."""

    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            bias = self.norm.bias[...]
            return self.norm(x) + wrong * (bias - jax.lax.stop_gradient(bias))

    twin = nn.Sequential()
    twin.add_module("norm", nn.LayerNorm(WIDTH))
    rows = np.random.default_rng(1).normal(size=(8, ROWS // 8, WIDTH))
    return Norm(), twin, rows


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_any_models_layer_norm_over_many_rows_passes(dtype):
    ours, theirs, rows = norms()
    report = parity.check(ours, theirs, inputs=rows, dtype=dtype, steps=3)
    assert report.passed, report
    assert "LayerNorm" in report.notes[0]


@pytest.mark.parametrize(
    ("dtype", "wrong"), [("bfloat16", 0.07), ("float16", 0.009), ("float32", 1e-4)]
)
def test_a_small_error_of_its_bias_gradient_fails(dtype, wrong):
    ours, theirs, rows = norms(wrong=wrong)
    report = parity.check(ours, theirs, inputs=rows, dtype=dtype, level="gradients", explain=False)
    assert [gap.name for gap in report.failures] == ["norm.bias"]


class BiasGradientOff(LayerNorm):
    """A tenth too much."""

    @classmethod
    def take_the_place_of_a_norm(cls, model):
        model.blocks[0].norm1.__class__ = cls

    def __call__(self, x, **how):
        bias = self.bias[...]
        return super().__call__(x, **how) + 0.1 * (bias - jax.lax.stop_gradient(bias))


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_twins_with_many_rows_pass_in_bfloat16_unless_a_gradient_is_off(seed, wrong):
    config = ViTConfig(
        image_size=128, patch_size=8, width=64, depth=1, num_heads=1, mlp_width=128, num_classes=3
    )
    plant = Plant(config, seed)
    if wrong:
        plant.in_jax.append(
            lambda model: setattr(model.blocks[0].norm1, "__class__", BiasGradientOff)
        )
    with exact():
        report = check_pair(plant.pair(), level="gradients", dtypes=("bfloat16",), explain=False)
    assert {gap.name.partition(" ")[0] for gap in report.failures} == (
        {"blocks.0.norm1.bias"} if wrong else set()
    )
