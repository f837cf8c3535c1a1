"""Optimizers and what goes with them: the twins agree, and so do outside oracles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import torch

import parity
import tests.oracles.timm_models  # noqa: F401  (makes timm importable)
import vit_jax.training_state
import vit_torch.training_state
from tests.training_runs import BATCHES, everything, run_jax, run_torch, torch_state
from tests.training_runs import new_jax as start_jax
from tests.training_runs import new_torch as start_torch
from tests.twin_models import TINY
from vit_jax.optimizers import (
    make_optimizer,
    make_schedule,
    moments_of_state,
)
from vit_spec import OptimConfig, parameters
from vit_torch.optimizers import Lion, orthogonalized

pytestmark = pytest.mark.usefixtures("quickly_compiled")

BASE = OptimConfig(
    lr=1e-3, end_lr=1e-5, warmup_steps=2, total_steps=8, weight_decay=0.05, eps=1e-4, clip_norm=1.0,
    label_smoothing=0.1, ema_decay=0.9,
)  # fmt: skip
SMALL = TINY.replace(image_size=16, depth=1, dropout=0.1, drop_path=0.3)
SETTINGS = {
    "sgd": {"optimizer": "sgd", "decayed": ("kernels", "positions", "tokens")},
    "muon": {"optimizer": "muon", "momentum": 0.95, "ema_warmup": "timm"},
    "adamw_of_many": {
        "schedule": "rsqrt", "timescale": 3, "cooldown_steps": 3, "layer_decay": 0.7,
        "decayed": ("kernels", "biases", "norms", "tokens", "positions"), "accumulate": 3,
        "loss": "bce", "ema_warmup": "tensorflow", "freeze": ("patch_embed.*", "blocks.0.norm1.*"),
    },
    "soft_teacher": {"distill": "soft", "distill_alpha": 0.3, "accumulate": 3},
}  # fmt: skip


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_training_agrees_in_float64(changes):
    distilled = "distill" in changes
    config = SMALL.replace(distillation_token=distilled)
    optim = dataclasses.replace(BASE, **changes)
    report = parity.check(config, level="training", steps=6, optim=optim, explain=False)
    assert report.passed, parity.render(report)
    assert report.largest_gap < 1e-12


def test_lion_agrees_where_a_gradient_is_more_than_rounding(x64):
    """Lion takes the sign of it, so the bias of the keys, which has no gradient, is random."""
    optim = dataclasses.replace(BASE, optimizer="lion", b2=0.99, lr=1e-4)
    ours, theirs = start_jax(optim), start_torch(optim)
    losses, ours = run_jax(ours, BATCHES[:6])
    torch_losses, theirs = run_torch(theirs, BATCHES[:6])
    assert losses == pytest.approx(torch_losses, rel=1e-12)
    state = vit_jax.training_state.get_training(*ours)
    for name, value in everything(torch_state(theirs)).items():
        found = everything(state)[name]
        if name.endswith("qkv.bias"):
            value, found = (
                np.delete(value.reshape(3, -1), 1, 0),
                np.delete(found.reshape(3, -1), 1, 0),
            )
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_lion_is_timms():
    from timm.optim.lion import Lion as Oracle

    def run(make):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
        optimizer = make([{"params": [p], "weight_decay": 0.1}])
        for _ in range(5):
            p.grad = torch.randn(4, 5, dtype=torch.float64)
            optimizer.step()
        return p.detach().numpy()

    ours = run(lambda groups: Lion(groups, lr=1e-2, betas=(0.9, 0.99)))
    theirs = run(lambda groups: Oracle(groups, lr=1e-2, betas=(0.9, 0.99)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_muon_orthogonalizes_as_pytorchs_does_up_to_its_bfloat16():
    from torch.optim._muon import _zeropower_via_newtonschulz as oracle

    rng = np.random.default_rng(0)
    for shape in ((24, 8), (8, 24), (16, 16)):
        x = torch.tensor(rng.normal(size=shape))
        ours = orthogonalized(x, 1e-7)
        theirs = oracle(x, (3.4445, -4.7750, 2.0315), 5, 1e-7).double()
        assert float((ours - theirs).abs().max()) < 0.03
        values = torch.linalg.svdvals(ours)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_muon_moves_the_blocks_matrices_as_optax_does_and_the_rest_by_adam(x64):
    rng = np.random.default_rng(0)
    shapes = {"blocks.0.mlp.fc1.kernel": (6, 9), "head.kernel": (6, 4), "norm.scale": (6,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    config = OptimConfig(
        optimizer="muon", momentum=0.95, clip_norm=None, lr=0.1, total_steps=9, weight_decay=0.2
    )
    oracles = {
        "blocks.0.mlp.fc1.kernel": optax.contrib.muon(
            make_schedule(config), consistent_rms=0.2, weight_decay=0.2
        ),
        "head.kernel": optax.adamw(make_schedule(config), weight_decay=0.2),
        "norm.scale": optax.adam(make_schedule(config)),
    }
    ours, states = make_optimizer(config), {n: o.init({n: params[n]}) for n, o in oracles.items()}
    state = ours.init(params)
    for _ in range(3):
        grads = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        updates, state = ours.update(grads, state, params)
        for name, oracle in oracles.items():
            one, states[name] = oracle.update(
                {name: grads[name]}, states[name], {name: params[name]}
            )
            np.testing.assert_allclose(updates[name], one[name], rtol=1e-10, atol=1e-12)
    found = moments_of_state(state)
    assert found["m"].keys() == params.keys()
    assert found["v"].keys() == {"head.kernel", "norm.scale"}


def test_accumulation_is_the_big_batch_with_uneven_images_left_out(x64):
    base = dataclasses.replace(BASE, eps=1e-5)
    weights = np.array([1.0, 0.0, 0.5, 1.0])

    def jax_run(optim):
        structure, state, _ = start_jax(optim)
        step = jax.jit(vit_jax.training.make_train_step(structure, optim))
        for batch in BATCHES[:3]:
            masks = {k: jnp.asarray(m) for k, m in batch.masks.items()}
            state, metrics = step(
                state, batch.images, batch.labels, masks, weights=jnp.asarray(weights)
            )
        return metrics, vit_jax.training_state.get_training(structure, state, optim)

    def torch_run(optim):
        model, optimizer, _, _, ema = start_torch(optim)
        for i, batch in enumerate(BATCHES[:3]):
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            metrics = vit_torch.training.train_step(
                model, optimizer, images, torch.from_numpy(batch.labels),
                {k: torch.from_numpy(m) for k, m in batch.masks.items()},
                config=optim, step=i, ema=ema, weights=torch.from_numpy(weights),
            )  # fmt: skip
        return metrics, torch_state((model, optimizer, optim, 3, ema))

    whole = jax_run(base)
    for run in (jax_run, torch_run):
        metrics, state = run(dataclasses.replace(base, accumulate=2))
        for name in ("loss", "accuracy", "grad_norm"):
            assert float(metrics[name]) == pytest.approx(float(whole[0][name]), rel=1e-12)
        for name, value in everything(whole[1]).items():
            gap = np.abs(everything(state)[name] - value).max()
            assert gap < 1e-12 * max(1.0, np.abs(value).max()), name


def test_a_batch_that_has_no_equal_parts_is_refused(x64):
    structure, state, optim = start_jax(dataclasses.replace(BASE, accumulate=3))
    step = vit_jax.training.make_train_step(structure, optim)
    with pytest.raises(ValueError, match="a batch of 4 has no 3 equal parts"):
        step(state, jnp.asarray(BATCHES[0].images), jnp.asarray(BATCHES[0].labels))


def test_frozen_parameters_stay_and_have_no_moments(x64):
    optim = dataclasses.replace(BASE, freeze=("*", "!head.*", "!blocks.1.mlp.*"))
    trained = {n for n in parameters(TINY) if n.startswith(("head.", "blocks.1.mlp."))}
    start = start_jax(optim)
    before = everything(vit_jax.training_state.get_training(*start))
    _, ours = run_jax(start, BATCHES[:2])
    state = vit_jax.training_state.get_training(*ours)
    assert state.m.keys() == state.v.keys() == trained
    for name, value in state.params.items():
        assert np.array_equal(value, before[f"param.{name}"]) == (name not in trained)
    _, theirs = run_torch(start_torch(optim), BATCHES[:2])
    assert torch_state(theirs).m.keys() == trained
    for name, value in torch_state(theirs).params.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["lion", "muon", "sgd"])
def test_a_run_of_any_optimizer_goes_on_in_either_framework(x64, tmp_path, optimizer):
    optim = dataclasses.replace(BASE, optimizer=optimizer, freeze=("patch_embed.*",))
    whole, _ = run_jax(start_jax(optim), BATCHES[:5])
    _, half = run_jax(start_jax(optim), BATCHES[:2])
    vit_jax.save_training(half[0], tmp_path / "run", half[1], optim)
    rest, _ = run_jax(vit_jax.load_training(tmp_path / "run"), BATCHES[2:5])
    assert rest == whole[2:]
    there, theirs = run_torch(vit_torch.load_training(tmp_path / "run"), BATCHES[2:4])
    assert there == pytest.approx(whole[2:4], rel=1e-10)
    model, optimizer, _, step, ema = theirs
    vit_torch.save_training(model, tmp_path / "back", optimizer, optim, step=step, ema=ema)
    back, _ = run_jax(vit_jax.load_training(tmp_path / "back"), BATCHES[4:5])
    assert back == pytest.approx(whole[4:], rel=1e-10)
