"""A run with `scan` keeps its blocks in one array a parameter: the same training, the same bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.jaxprs import equations
from tests.twin_models import TINY
from vit_jax.masks import sample_masks
from vit_jax.nonfinite import jit_guarded_step
from vit_jax.parallel import abstract_state, new_key, new_state
from vit_jax.sharding import make_mesh
from vit_jax.stacking import Stacking
from vit_spec import OptimConfig

EVERYTHING = OptimConfig(
    lr=1e-2, warmup_steps=1, total_steps=10, weight_decay=0.1, layer_decay=0.7, ema_decay=0.9,
    clip_norm=1.0, accumulate=2, eps=1e-5, freeze=("blocks.*.norm1.*", "pos_embed"),
)  # fmt: skip
CONFIG = TINY.replace(depth=2, drop_path=0.2)


def made(optim, *, param_dtype="float64", **options):
    """Mesh, stacking and first state of a model."""
    mesh = make_mesh(devices=jax.devices()[:1])
    make = lambda: vit_jax.create(CONFIG, param_dtype=param_dtype, **options)  # noqa: E731
    structure, state = new_state(make, optim, mesh)
    return mesh, Stacking(structure, state.params, optim), state


def trained(optim, **options):
    """The state after four steps, in the model's own form."""
    mesh, blocks, state = made(optim, **options)
    state = blocks.stack(state)
    step = jit_guarded_step(blocks.structure, optim, state, mesh, limit=0)
    skipped, rng = jnp.int32(0), np.random.default_rng(0)
    for _ in range(4):
        images = rng.normal(size=(4, *CONFIG.image_shape, CONFIG.in_channels))
        batch = {"image": images, "label": np.arange(4, dtype=np.int32)}
        state, skipped, _ = step(state, skipped, jax.device_put(batch), new_key(1, mesh))
    return blocks.unstack(state)


def test_training_is_the_same_whether_blocks_are_stacked_or_not():
    optim = dataclasses.replace(EVERYTHING, optimizer="muon")  # and Adam for what is no matrix
    with jax.enable_x64(True):
        apart, together = trained(optim), trained(optim, scan=True)
    assert jax.tree.structure(apart) == jax.tree.structure(together)
    for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon", "sgd"])
def test_stacking_and_back_gives_the_same_bits(optimizer):
    optim = dataclasses.replace(EVERYTHING, optimizer=optimizer)
    with jax.enable_x64(True):
        _, blocks, state = made(optim, scan=True)
        before = jax.device_get(state)
        stacked = blocks.stack(state)
        assert all("blocks.0." not in name for name in stacked.params)
        assert stacked.params["blocks.stacked.attn.qkv.bias"].shape[0] == CONFIG.depth
        after = jax.device_get(blocks.unstack(stacked))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_what_was_moved_is_freed():
    _, blocks, state = made(OptimConfig(), param_dtype="float32", scan=True)
    stacked = blocks.stack(state)
    moved = [p for name, p in state.params.items() if name.startswith("blocks.")]
    assert all(p.is_deleted() for p in moved)
    blocks.unstack(stacked)
    moved = [p for name, p in stacked.params.items() if name.startswith("blocks.")]
    assert moved and all(p.is_deleted() for p in moved)


@pytest.mark.parametrize("freeze", [("blocks.0.*",), ("blocks.*", "!blocks.1.mlp.*")])
def test_blocks_are_left_apart_where_only_some_are_frozen(freeze):
    optim = dataclasses.replace(EVERYTHING, freeze=freeze)
    structure, shapes = abstract_state(lambda: vit_jax.create(CONFIG, scan=True), optim)
    blocks = Stacking(structure, shapes.params, optim)
    assert blocks.stack(shapes) is shapes and blocks.structure is structure


def test_a_model_without_scan_is_left_as_it_is():
    structure, shapes = abstract_state(lambda: vit_jax.create(CONFIG), EVERYTHING)
    blocks = Stacking(structure, shapes.params, EVERYTHING)
    assert blocks.stack(shapes) is shapes and blocks.structure is structure


def test_masks_drawn_together_are_the_same():
    config = CONFIG.replace(dropout=0.1, drop_path=0.5, depth=3)
    key = jax.random.key(0)
    apart = jax.jit(lambda key: sample_masks(config, 64, key=key))(key)
    together = jax.jit(lambda key: sample_masks(config, 64, key=key, together=True))(key)
    assert apart.keys() == together.keys() and len(apart) > 8
    for name, mask in apart.items():
        np.testing.assert_array_equal(together[name], mask, err_msg=name)
        assert (mask == 0).any() or name.startswith("blocks.0.drop_path"), name


def step_of(config, **changes):
    """Equations of the whole training step of a run."""
    mesh, optim = make_mesh(devices=jax.devices()[:1]), dataclasses.replace(EVERYTHING, **changes)
    structure, shapes = abstract_state(lambda: vit_jax.create(config, scan=True), optim)
    blocks = Stacking(structure, shapes.params, optim)
    state = blocks.stack(shapes)
    step = jit_guarded_step(blocks.structure, optim, state, mesh, limit=0)
    images = jnp.zeros((2, *config.image_shape, config.in_channels))
    batch = {"image": images, "label": jnp.zeros(2, jnp.int32)}
    traced = step.trace(state, jnp.int32(0), batch, new_key(0, mesh))
    return list(equations(traced.jaxpr.jaxpr))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_program_of_a_step_is_as_large_at_any_depth(optimizer):
    two, five = (step_of(TINY.replace(depth=d), optimizer=optimizer) for d in (2, 5))
    assert len(two) == len(five)


def test_masks_of_all_blocks_are_drawn_at_once():
    config = TINY.replace(dropout=0.1, drop_path=0.1)
    draws = [
        [e.primitive.name for e in step_of(config.replace(depth=d))].count("random_bits")
        for d in (2, 5)
    ]
    assert draws[0] == draws[1] > 0
