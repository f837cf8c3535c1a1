"""How much each parameter moves at each step: rates, shares of layers, averages, what is frozen."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.oracles.timm_models import timm_model
from tests.twin_models import TINY
from vit_jax.optimizers import by_layer, ema_schedule, make_schedule
from vit_spec import OptimConfig, learning_rate, parameters
from vit_spec.groups import frozen_names, kind_of, layer_share
from vit_spec.schedule import ema_decay
from vit_torch.training import average, init_ema


@pytest.mark.parametrize("cooldown", [0, 30])
def test_rsqrt_is_big_visions(x64, cooldown):
    c = OptimConfig(
        lr=2e-3, schedule="rsqrt", timescale=40, warmup_steps=10, cooldown_steps=cooldown,
        total_steps=100,
    )  # fmt: skip

    def oracle(step):
        rate = c.lr / math.sqrt(1 + (step - 10) / 40) if step >= 10 else c.lr
        rate *= min(1.0, step / 10)
        return rate * min(1.0, (100 - step) / cooldown) if cooldown else rate

    steps = range(101)
    assert [learning_rate(c, s) for s in steps] == pytest.approx([oracle(s) for s in steps], 1e-12)
    schedule = make_schedule(c)
    assert [float(schedule(s)) for s in steps] == pytest.approx([oracle(s) for s in steps], 1e-12)


def test_the_average_warms_up_as_timms(x64):
    from timm.utils import ModelEmaV3

    config = OptimConfig(ema_decay=0.95, ema_warmup="timm")
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    oracle, ema = ModelEmaV3(model, decay=0.95, use_warmup=True), init_ema(model, config)
    for step in range(120):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        oracle.update(model, step=step + 1)  # timm's trainer counts the update just made
        average(ema, model, config, step)
        assert float(ema_schedule(config, step)) == pytest.approx(ema_decay(config, step), 1e-12)
    np.testing.assert_allclose(ema["weight"], oracle.module.weight.detach(), rtol=1e-10)
    assert [round(ema_decay(config, t), 4) for t in (0, 1, 7, 10**6)] == [0, 0.37, 0.75, 0.95]


def test_layers_share_the_rate_as_timm_does_but_for_the_last_norm():
    from timm.optim._param_groups import param_groups_layer_decay

    config = TINY.replace(depth=3, num_registers=2)
    model = timm_model(config)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.65):
        for p in group["params"]:
            name = names[id(p)]
            up = 0.65 if name.startswith("norm.") else 1  # timm: as the last block
            assert layer_share(name, 3, 0.65) * up == pytest.approx(group["lr_scale"]), name


def test_layers_scale_updates_after_weight_decay():
    config = OptimConfig(layer_decay=0.5)
    updates = {
        name: jnp.ones(()) for name in ("pos_embed", "blocks.0.x", "blocks.1.x", "norm.scale")
    }
    shares = by_layer(updates, updates | {"blocks.2.x": jnp.ones(())}, config)
    assert [float(s) for s in shares.values()] == [0.5**4, 0.5**3, 0.5**2, 1]


def test_every_parameter_has_a_kind():
    config = TINY.replace(num_registers=1, layer_scale=1.0, qk_norm=True, pool="map")
    kinds = {}
    for name, shape in parameters(config).items():
        kinds.setdefault(kind_of(name, len(shape)), set()).add(name)
    assert kinds["positions"] == {"pos_embed"}
    assert kinds["tokens"] == {"cls_token", "reg_token", "attn_pool.latent"}
    assert {"blocks.0.norm1.bias", "blocks.0.attn.q_norm.weight", "blocks.1.ls2.gamma"} <= kinds[
        "norms"
    ]
    assert {"head.bias", "patch_embed.proj.bias"} <= kinds["biases"]
    assert all(name.endswith(".weight") for name in kinds["kernels"])


def test_patterns_that_freeze_nothing_or_all_are_refused():
    with pytest.raises(ValueError, match=r"'heads\.\*' fits no parameter.*did you mean head\."):
        frozen_names(["head.weight", "norm.bias"], ("heads.*",))
    with pytest.raises(ValueError, match="no parameter is left to train"):
        frozen_names(["head.weight", "norm.bias"], ("*",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer 'adam' is none of 'adamw', 'lion', 'muon', 'sgd'"),
        ({"cooldown_steps": 5}, "cooldown_steps 5 needs schedule='rsqrt'"),
        ({"schedule": "rsqrt", "cooldown_steps": 999, "warmup_steps": 2}, "to at most 998"),
        ({"layer_decay": 0.0}, r"layer_decay 0.0 is outside \(0, 1\]"),
        ({"decayed": ("bias",)}, "decayed 'bias' is none of 'kernels'"),
        ({"accumulate": 0}, "accumulate 0 must be at least 1"),
        ({"ema_warmup": "timm"}, "ema_warmup 'timm' needs an ema_decay"),
        ({"target_threshold": 0.0}, "target_threshold needs loss='bce'"),
        ({"loss": "bce", "target_threshold": 0.0, "label_smoothing": 0.1}, "undoes label_smooth"),
        ({"distill_alpha": 1.5}, r"distill_alpha 1.5 is outside \[0, 1\]"),
        ({"distill_temperature": 0}, "distill_temperature 0 must be positive"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)
