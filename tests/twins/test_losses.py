"""Binary cross-entropy and distillation: both twins, timm and DeiT's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tests.oracles.timm_models  # noqa: F401  (makes timm importable)
import vit_jax.losses
import vit_jax.training
import vit_torch.losses
import vit_torch.training
from tests.twin_models import TINY, images, twins
from vit_jax.functional import split
from vit_spec import OptimConfig


def samples(b=6, k=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(b, k)) * 2, rng.integers(0, k, b), rng.normal(size=(b, k)) * 2


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"target_threshold": 0.2}])
@pytest.mark.parametrize("mixed", [False, True])
def test_bce_is_timms(x64, settings, mixed):
    from timm.loss import BinaryCrossEntropy

    logits, labels, _ = samples()
    if mixed:
        other = np.roll(labels, 1)
        labels = 0.7 * np.eye(5)[labels] + 0.3 * np.eye(5)[other]
    config = OptimConfig(loss="bce", **settings)
    ours = vit_jax.losses.losses(jnp.asarray(logits), jnp.asarray(labels), config)
    theirs = vit_torch.losses.losses(torch.tensor(logits), torch.tensor(labels), config)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    oracle = BinaryCrossEntropy(
        smoothing=config.label_smoothing, target_threshold=config.target_threshold
    )
    if mixed and config.label_smoothing:  # timm leaves smoothing of mixed targets to its Mixup
        labels = labels * 0.9 + 0.1 / 5
    targets = torch.tensor(labels)
    assert float(ours.mean()) == pytest.approx(float(oracle(torch.tensor(logits), targets)), 1e-12)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("token", [True, False], ids=["token", "one_head"])
def test_distillation_is_deits_formula(x64, kind, token):
    config = TINY.replace(distillation_token=token, num_classes=5, depth=1)
    jax_model, torch_model = twins(config)
    x = images(config, batch=6)
    _, labels, teacher = samples()
    optim = OptimConfig(
        distill=kind, distill_alpha=0.3, distill_temperature=2.0, label_smoothing=0.1,
        clip_norm=None, lr=1e-2, total_steps=10,
    )  # fmt: skip
    channels_first = torch.tensor(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        if token:
            outputs, outputs_kd = torch_model.distilled(channels_first)
        else:
            outputs = outputs_kd = torch_model(channels_first)
    t, y = torch.tensor(teacher), torch.tensor(labels)
    base = F.cross_entropy(outputs, y, label_smoothing=0.1)
    if kind == "hard":
        taught = F.cross_entropy(outputs_kd, t.argmax(dim=1))
    else:
        taught = 4.0 * F.kl_div(
            F.log_softmax(outputs_kd / 2.0, dim=1), F.log_softmax(t / 2.0, dim=1),
            reduction="batchmean", log_target=True,
        )  # fmt: skip
    expected = float(base * 0.7 + taught * 0.3)
    theirs = vit_torch.training.train_step(
        torch_model, vit_torch.training.make_optimizer(torch_model, optim), channels_first, y,
        config=optim, step=0, teacher=t,
    )  # fmt: skip
    structure, params = split(jax_model)
    step = jax.jit(vit_jax.training.make_train_step(structure, optim))
    _, ours = step(
        vit_jax.training.init_state(params, optim), jnp.asarray(x), jnp.asarray(labels),
        teacher=jnp.asarray(teacher),
    )  # fmt: skip
    for metrics in (ours, theirs):
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-12)
    assert float(ours["grad_norm"]) == pytest.approx(float(theirs["grad_norm"]), rel=1e-12)


def test_a_teacher_is_needed_where_it_is_asked_for_and_only_there(x64):
    jax_model, _ = twins(TINY)
    structure, params = split(jax_model)
    x, labels = jnp.asarray(images(TINY)), jnp.zeros(3, int)
    for optim, given in (
        (OptimConfig(distill="hard"), {}),
        (OptimConfig(), {"teacher": x[..., 0, 0]}),
    ):
        step = vit_jax.training.make_train_step(structure, optim)
        with pytest.raises(ValueError, match="give both or neither"):
            step(vit_jax.training.init_state(params, optim), x, labels, **given)
