"""`parity.check` passes for equal twins and fails, naming the place, for every planted bug."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
import torch

import parity
import vit_jax
import vit_torch
from parity.tolerance import proof_bound
from vit_spec import OptimConfig

TRAINED = {"class_token": {}, "dropout_drop_path": {"dropout": 0.1, "drop_path": 0.3}}
CONFIGS = {
    "mean_pool_fc_norm": {"pool": "mean", "fc_norm": True, "class_token": False},
    "attention_pool": {"pool": "map", "pos_embed": "sincos2d"},
    "layer_scale_registers": {
        "layer_scale": 0.1,
        "num_registers": 2,
        "class_token_position": False,
    },
    "qk_norm_quick_gelu": {"qk_norm": True, "activation": "quick_gelu", "qkv_bias": False},
    "not_square": {"image_size": (16, 40), "patch_size": (8, 4), "in_channels": 1},
    "pre_logits": {"representation_size": 24, "activation": "gelu_tanh"},
    "no_head": {"num_classes": 0},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_twins_agree_in_float64_up_to_their_gradients(tiny, changes):
    report = parity.check(tiny.replace(**changes), level="gradients")
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS[:4]


@pytest.mark.parametrize("changes", TRAINED.values(), ids=TRAINED)
def test_twins_train_alike_in_float64(tiny, changes):
    report = parity.check(tiny.replace(**changes), steps=20)
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS
    assert report.largest_gap < proof_bound(tiny.depth)


def test_twins_agree_in_float32_practice(tiny):
    report = parity.check(tiny, dtype="float32", steps=6)
    assert report.passed, parity.render(report)


def test_half_precision_is_compared_up_to_gradients(tiny):
    report = parity.check(tiny, dtype=["bfloat16", "float16"], steps=6)
    assert report.passed, parity.render(report)
    assert "training" not in report.levels
    assert "PASS  up to gradients in bfloat16 and float16 (" in parity.render(report)


def test_the_verdict_says_how_far_each_dtype_went(tiny):
    found = parity.check(tiny, level="outputs", dtype=["float32", "bfloat16"])
    last = replace(found.of("outputs", "float32")[0], level="training", name="loss")
    report = replace(found, level="training", gaps=(*found.gaps, last))
    assert "PASS  up to outputs: " in parity.render(found)
    assert "PASS  up to training in float32, up to outputs in bfloat16 (" in parity.render(report)


def _swap_query_and_key(model):
    weight = model.blocks[1].attn.qkv.weight.data
    d = weight.shape[1]
    weight[: 2 * d] = torch.cat([weight[d : 2 * d], weight[:d]])


def _transpose_square_kernel(model):
    model.blocks[0].attn.proj.weight.data = model.blocks[0].attn.proj.weight.data.T.contiguous()


BUGS = {  # name: (bug in the PyTorch model, first level that sees it, first measuring point)
    "tanh_gelu": (
        lambda m: setattr(m.blocks[1].mlp, "activation", "gelu_tanh"),
        "layers",
        "blocks.1.mlp",
    ),
    "norm_epsilon": (lambda m: setattr(m.blocks[0].norm1, "eps", 1e-5), "layers", "blocks.0.attn"),
    "qkv_order": (_swap_query_and_key, "weights", "blocks.1.attn.qkv.weight"),
    "square_transpose": (_transpose_square_kernel, "weights", "blocks.0.attn.proj.weight"),
    "one_ulp": (
        lambda m: m.head.bias.data[0].nextafter_(torch.tensor(9.0)),
        "weights",
        "head.bias",
    ),
    "head_count": (lambda m: setattr(m.blocks[0].attn, "num_heads", 4), "layers", "blocks.0.attn"),
}


@pytest.mark.parametrize(("bug", "level", "place"), BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_caught_and_its_first_place_is_named(pair, bug, level, place):
    jax_model, torch_model = pair
    bug(torch_model)
    report = parity.check(jax_model, torch_model, level="layers", explain=False)
    assert not report.passed
    first = next(gap for gap in report.failures if gap.level == level)
    assert first.name.split(" @ ")[0] == place


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_optimizer_that_decays_biases_is_caught_by_the_optimizer_level(tiny, monkeypatch, dtype):
    make = vit_torch.training.make_optimizer
    monkeypatch.setattr(
        vit_torch.training,
        "make_optimizer",
        lambda model, config: make(model, config, is_decayed=lambda name, rank: True),
    )
    report = parity.check(tiny, level="optimizer", dtype=dtype, explain=False)
    assert {gap.level for gap in report.failures} == {"optimizer"}


def test_a_schedule_one_step_late_is_caught_at_the_step_where_it_differs(tiny, monkeypatch):
    from vit_spec import learning_rate

    monkeypatch.setattr(
        "vit_torch.training.learning_rate", lambda c, step: learning_rate(c, step + (step > 0))
    )
    report = parity.check(tiny, steps=6, explain=False)
    assert {gap.level for gap in report.failures} == {"optimizer", "training"}
    assert next(gap for gap in report.failures if gap.name == "lr").step == 1


def test_a_schedule_in_float32_is_caught_by_the_training_level(tiny, monkeypatch):
    import vit_jax.training

    exact_schedule = vit_jax.training.make_schedule

    def rounded_schedule(config: OptimConfig):
        return lambda step: exact_schedule(config)(step).astype(jnp.float32)

    monkeypatch.setattr("vit_jax.training.make_schedule", rounded_schedule)
    jax.clear_caches()  # the compiled step holds the schedule of before
    assert not parity.check(tiny, steps=6, explain=False).passed
    jax.clear_caches()


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "infinity"])
def test_a_value_that_is_not_finite_fails_by_name_on_both_sides(tiny, value):
    model = vit_torch.create(tiny)
    model.blocks[1].mlp.fc1.bias.data[3] = value
    report = parity.check(model, level="layers")
    first = next(gap for gap in report.failures if gap.level == "layers")
    assert first.name.startswith("blocks.1.mlp")
    assert "NaN or infinite" in first.note


def test_an_untrained_head_proves_nothing_and_says_so(tiny):
    report = parity.check(vit_torch.create(tiny), level="outputs")
    assert not report.passed
    assert "proves nothing" in parity.render(report)


def test_weights_that_differ_in_dtype_are_not_the_same(pair):
    jax_model, torch_model = pair
    report = parity.check(jax_model, torch_model.double(), level="weights")
    assert "float32" in report.failures[0].note and "float64" in report.failures[0].note


def test_configs_of_other_parameters_are_no_pair_and_are_named(pair, tiny):
    with pytest.raises(ValueError, match=r"depth 2 in JAX and 3 in PyTorch"):
        parity.check(pair[0], vit_torch.create(tiny.replace(depth=3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "gradient"}, "unknown level 'gradient': did you mean gradients"),
        ({"dtype": "float46"}, "unknown dtype 'float46': did you mean float64"),
        ({"batch_size": 1}, "batch_size 1 must be at least 2"),
        ({"steps": 0}, "steps 0 must be at least 1"),
    ],
    ids=["level", "dtype", "batch", "steps"],
)
def test_wrong_arguments_are_named_with_the_way_out(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        parity.check(tiny, **arguments)


def test_twins_share_no_memory(pair):
    jax_model, torch_model = pair
    before = jax_model.head.bias[...].copy()
    torch_model.head.bias.data += 1
    assert (jax_model.head.bias[...] == before).all()


def test_settings_are_as_before_after_a_check(tiny):
    before = torch.backends.cudnn.allow_tf32
    parity.check(tiny, level="weights")
    assert not jax.config.jax_enable_x64
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_check_leaves_the_models_as_they_were(pair):
    jax_model, torch_model = pair
    images = torch.ones(1, 3, 32, 32)
    before = torch_model(images).detach(), jax_model(jnp.ones((1, 32, 32, 3)))
    parity.check(jax_model, torch_model, steps=2)
    assert torch.equal(before[0], torch_model(images))
    assert (before[1] == jax_model(jnp.ones((1, 32, 32, 3)))).all()


def test_options_of_speed_and_memory_keep_parity_in_training(tiny):
    model = vit_jax.create(tiny.replace(drop_path=0.2), remat="full", scan=True)
    model.head.kernel[...] = jax.random.normal(jax.random.key(0), model.head.kernel.shape)
    assert parity.check(model, steps=3).passed
