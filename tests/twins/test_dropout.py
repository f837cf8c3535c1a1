"""Dropout and stochastic depth in training loops of one's own."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
from parity.inputs import random_state
from tests.twin_models import TINY, images
from vit_jax.functional import merge, split
from vit_jax.masks import sample_masks
from vit_torch.api import from_state

DROPPING = TINY.replace(dropout=0.3, drop_path=0.4, image_size=16)


@pytest.fixture(scope="module", autouse=True)
def programs_compile_quickly(quickly_compiled):
    """They are run once or twice."""


STATE = {name: np.asarray(x, np.float32) for name, x in random_state(DROPPING, 0).items()}
X = jnp.asarray(images(DROPPING), jnp.float32)


def jax_model(config=DROPPING, **options):
    return vit_jax.api.from_state(config, STATE, **options)


@nnx.jit
def call(model, x, rngs=None):
    return model(x, rngs=rngs)


def test_a_model_evaluates_until_it_is_told_to_train():
    model = jax_model()
    still = call(model, X)
    model.train()
    model.rngs = nnx.Rngs(0)
    moved = call(model, X)
    model.eval()
    assert jnp.array_equal(call(model, X), still)
    assert not jnp.allclose(moved, still, atol=1e-3)


def test_each_call_in_training_draws_anew_and_the_same_seed_draws_the_same():
    model = jax_model()
    model.train()
    model.rngs = nnx.Rngs(dropout=3)
    first, second = call(model, X), call(model, X)
    assert not jnp.allclose(first, second, atol=1e-3)
    model.rngs = nnx.Rngs(dropout=3)
    assert jnp.array_equal(call(model, X), first)
    assert jnp.array_equal(call(model, X), second)


def test_rngs_of_a_call_may_be_a_stream_or_a_key_and_come_before_those_of_the_model():
    model = jax_model()
    model.train()
    model.rngs = nnx.Rngs(7)
    key = nnx.Rngs(0).dropout()
    expected = call(model, X, key)
    assert jnp.array_equal(call(model, X, nnx.Rngs(0)), expected)
    assert jnp.array_equal(call(model, X, nnx.Rngs(0).dropout), expected)


def test_what_is_drawn_is_what_sample_masks_draws():
    model = jax_model()
    model.train()
    key = jax.random.key(5)
    masks = sample_masks(DROPPING, len(X), key=key)
    drawn, given = nnx.jit(lambda m, x: (m(x, rngs=key), m(x, masks)))(model, X)
    np.testing.assert_allclose(drawn, given, rtol=1e-5, atol=1e-5)
    model.eval()
    explicit = nnx.jit(lambda m, x: m(x, masks))(model, X)
    np.testing.assert_allclose(explicit, given, rtol=1e-5, atol=1e-5)


def test_options_of_speed_and_memory_do_not_change_what_is_drawn():
    found = []
    for how in ({}, {"remat": "full", "scan": True}):
        model = jax_model(**how)
        model.train()

        def loss(model, x):
            return model(x, rngs=jax.random.key(1)).sum()

        value, grads = nnx.jit(nnx.value_and_grad(loss))(model, X)
        found.append(
            (value, grads["pos_embed"][...], grads["blocks"][1]["mlp"]["fc1"]["kernel"][...])
        )
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_nnx_training_loop_draws_new_masks_each_step():
    model = jax_model()
    model.train()
    model.rngs = nnx.Rngs(0)

    @nnx.jit
    def step(model, x):
        return nnx.value_and_grad(lambda model: model(x).sum())(model)

    losses = {float(step(model, X)[0]) for _ in range(3)}
    assert len(losses) == 3
    assert int(model.rngs.dropout.count[...]) == 3


def test_training_without_random_numbers_is_an_error_that_names_the_ways_out():
    model = jax_model()
    model.train()
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(model, X)
    for way in (
        "rngs=nnx.Rngs(0)",
        "model.rngs = nnx.Rngs(0)",
        "masks=vit_jax.sample_masks",
        "eval()",
    ):
        assert way in str(caught.value)
    assert jax.eval_shape(lambda x: model(x, {}), X).shape == (3, 7)  # masks that drop nothing
    for config in (DROPPING.replace(dropout=0.0), DROPPING.replace(drop_path=0.0)):
        model.config = config
        with pytest.raises(ValueError, match="no random numbers"):
            jax.eval_shape(model, X)
    model.config = DROPPING.replace(dropout=0.0, drop_path=0.0)
    assert jax.eval_shape(model, X).shape == (3, 7)


def test_rngs_stay_out_of_the_functional_form_and_of_files(tmp_path):
    model = jax_model()
    plain = split(model)
    model.rngs = nnx.Rngs(0)
    structure, params = split(model)
    assert structure == plain[0] and params.keys() == plain[1].keys()
    assert merge(structure, params).rngs is None and model.rngs is not None
    vit_jax.save(model, tmp_path / "m")
    assert vit_jax.load(tmp_path / "m").rngs is None


def test_the_share_that_is_dropped_is_the_rate():
    config = TINY.replace(dropout=0.3, drop_path=0.4)
    masks = sample_masks(config, 400, key=jax.random.key(0))
    for site, rate in (
        ("pos_drop", 0.3),
        ("blocks.0.mlp_drop1", 0.3),
        ("blocks.1.drop_path2", 0.4),
    ):
        kept = np.asarray(masks[site]) > 0
        assert abs(kept.mean() - (1 - rate)) < 4 * (rate * (1 - rate) / kept.size) ** 0.5
        np.testing.assert_allclose(np.asarray(masks[site])[kept], 1 / (1 - rate), rtol=1e-6)
    assert (np.asarray(masks["blocks.0.drop_path1"]) == 1).all()  # the rate rises from 0


def test_the_twin_draws_in_training_and_not_in_evaluation():
    model = from_state(DROPPING, STATE)
    x = torch.tensor(np.asarray(X)).permute(0, 3, 1, 2)
    with torch.no_grad():
        still = model(x)
        model.train()
        first, second = model(x), model(x)
        assert not torch.allclose(first, second, atol=1e-3)
        assert torch.equal(copy.deepcopy(model).eval()(x), still)
        assert torch.equal(model(x, {}), still)


def test_masks_of_unknown_sites_are_an_error_on_both_sides():
    one, message = (
        np.ones((3, 1, 1)),
        r"unknown mask 'blocks.1.drop_pth1': did you mean blocks.1.drop_path1",
    )
    with pytest.raises(ValueError, match=message):
        jax_model()(X, {"blocks.1.drop_pth1": jnp.asarray(one)})
    with pytest.raises(ValueError, match=message):
        from_state(DROPPING, STATE)(
            torch.zeros(3, 3, 16, 16), {"blocks.1.drop_pth1": torch.ones(3, 1, 1)}
        )
    with pytest.raises(ValueError, match="unknown mask 'blocks.2.drop_path1'"):
        jax_model()(X, {"blocks.2.drop_path1": jnp.asarray(one)})
    nothing = TINY.replace(image_size=16)  # a site of a model whose rates are 0 is known
    assert jax.eval_shape(lambda x: jax_model(nothing)(x, {"pos_drop": jnp.zeros(1)}), X).shape == (
        3,
        7,
    )
