"""The loss with probabilities for targets, as Mixup and CutMix make them, in both twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax.functional
import vit_jax.losses
import vit_jax.training
import vit_torch.losses
import vit_torch.training
from vit_jax.api import from_state
from vit_spec import OptimConfig, ViTConfig


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def samples(seed=0, b=6, k=5):
    rng = np.random.default_rng(seed)
    targets = rng.random((b, k))
    return rng.normal(size=(b, k)) * 3, targets / targets.sum(1, keepdims=True)


def by_definition(logits, targets, smoothing):
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = targets * (1 - smoothing) + smoothing / logits.shape[1]
    return -(targets * log_p).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_give_the_same_loss_and_gradient_in_both_twins(smoothing):
    logits, targets = samples()
    ours, grad = jax.value_and_grad(vit_jax.losses.loss_fn)(
        jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing
    )
    x = torch.tensor(logits, requires_grad=True)
    theirs = vit_torch.losses.loss_fn(x, torch.tensor(targets), label_smoothing=smoothing)
    theirs.backward()
    np.testing.assert_allclose(float(ours), by_definition(logits, targets, smoothing), rtol=1e-14)
    np.testing.assert_allclose(float(ours), theirs.item(), rtol=1e-14)
    np.testing.assert_allclose(np.asarray(grad), x.grad.numpy(), atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_and_its_probabilities_give_the_same_loss(smoothing):
    logits, _ = samples()
    labels = np.array([0, 4, 2, 2, 1, 3])
    hard = vit_jax.losses.loss_fn(
        jnp.asarray(logits), jnp.asarray(labels), label_smoothing=smoothing
    )
    soft = vit_jax.losses.loss_fn(
        jnp.asarray(logits), jnp.eye(5)[labels], label_smoothing=smoothing
    )
    torch_hard = vit_torch.losses.loss_fn(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing
    )
    np.testing.assert_allclose(float(hard), float(soft), rtol=1e-14)
    np.testing.assert_allclose(float(hard), torch_hard.item(), rtol=1e-14)


def test_half_precision_is_widened_before_the_loss_in_both_twins():
    logits, targets = samples()
    ours = vit_jax.losses.loss_fn(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(targets))
    theirs = vit_torch.losses.loss_fn(
        torch.tensor(logits, dtype=torch.bfloat16), torch.tensor(targets)
    )
    assert (ours.dtype, theirs.dtype) == (jnp.float32, torch.float32)
    rounded = torch.tensor(logits, dtype=torch.bfloat16).double().numpy()
    np.testing.assert_allclose(float(ours), by_definition(rounded, targets, 0), rtol=1e-6)
    np.testing.assert_allclose(float(ours), theirs.item(), rtol=1e-6)


def test_accuracy_counts_the_likeliest_class():
    logits, targets = samples(b=40)
    expected = logits.argmax(1) == targets.argmax(1)
    np.testing.assert_array_equal(
        vit_jax.losses.hits(jnp.asarray(logits), jnp.asarray(targets)), expected
    )
    np.testing.assert_array_equal(
        vit_torch.losses.hits(torch.tensor(logits), torch.tensor(targets)), expected
    )


def test_a_whole_step_on_mixed_targets_is_the_same_in_both_twins():
    config = ViTConfig(
        image_size=8, patch_size=4, num_classes=5, width=16, depth=2, num_heads=2, mlp_width=32
    )
    optim = OptimConfig(lr=1e-2, total_steps=10, label_smoothing=0.1, clip_norm=None)
    model = vit_torch.create(config, seed=0, dtype=torch.float64)
    state = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    images, (_, targets) = np.random.default_rng(1).normal(size=(6, 8, 8, 3)), samples()
    metrics = vit_torch.training.train_step(
        model,
        vit_torch.training.make_optimizer(model, optim),
        torch.tensor(images).permute(0, 3, 1, 2),
        torch.tensor(targets),
        config=optim,
        step=0,
    )
    twin = from_state(config, state, dtype="float64", param_dtype="float64")
    structure, params = vit_jax.functional.split(twin)
    step = jax.jit(vit_jax.training.make_train_step(structure, optim))
    _, ours = step(
        vit_jax.training.init_state(params, optim), jnp.asarray(images), jnp.asarray(targets)
    )
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(float(ours[name]), float(metrics[name]), rtol=1e-12)
