"""The twins agree on what the oracle lacks: masks, options, dtypes, fixed positions, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
import vit_torch
from tests.twin_models import BOUND, TINY, images, relative_gap, twins
from vit_jax.functional import merge, split
from vit_spec import parameters, sample_masks

CONFIGS = {
    "sincos": {"pos_embed": "sincos2d", "pool": "mean"},
    "sincos_mae": {"pos_embed": "sincos2d_mae"},
    "plain_bicubic": {"pos_embed_antialias": False},
    "bilinear": {"pos_embed_interpolation": "bilinear"},
    "pre_logits": {"representation_size": 24, "num_registers": 1},
    "map_with_class_token": {"pool": "map", "fc_norm": True},
    "no_head": {"num_classes": 0},
}


def channels_first(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(0, 0), (24, 48)], ids=["native", "other"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_outputs_agree_in_float64(x64, changes, size):
    config = TINY.replace(**changes)
    ours, theirs = twins(config)
    x = images(config, *size)
    with torch.no_grad():
        assert relative_gap(ours(x), theirs(channels_first(x))) < BOUND
        assert relative_gap(ours.features(x), theirs.features(channels_first(x))) < BOUND


def test_masks_that_are_handed_in_drop_the_same_on_both_sides(x64):
    config = TINY.replace(dropout=0.2, drop_path=0.5, layer_scale=0.5)
    ours, theirs = twins(config)
    x, masks = images(config), sample_masks(config, 3, seed=0)
    with torch.no_grad():
        dropped = theirs(channels_first(x), {n: torch.tensor(m) for n, m in masks.items()})
    assert relative_gap(ours(x, masks), dropped) < BOUND
    assert relative_gap(ours(x), dropped) > 1e-2


@pytest.mark.parametrize(
    "site", ["pos_drop", "proj_drop", "mlp_drop1", "mlp_drop2", "drop_path1", "drop_path2"]
)
def test_every_site_of_a_mask_has_an_effect_on_both_sides(x64, site):
    config = TINY.replace(dropout=0.2, drop_path=0.5)
    ours, theirs = twins(config)
    x = images(config)
    masks = sample_masks(config, 3, seed=0).items()
    masks = {
        n: m * (np.arange(m.size).reshape(m.shape) % 3 > 0) for n, m in masks if n.endswith(site)
    }
    assert relative_gap(ours(x, masks), ours(x)) > 1e-3
    with torch.no_grad():
        assert (
            relative_gap(
                ours(x, masks),
                theirs(channels_first(x), {n: torch.tensor(m) for n, m in masks.items()}),
            )
            < BOUND
        )


def test_pytorch_drops_by_itself_in_training_mode_only():
    model = vit_torch.create(TINY.replace(dropout=0.5, num_classes=0))
    x = torch.ones(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_points_are_the_forward_pass(x64):
    for model, x in zip(twins(TINY), (images(TINY), channels_first(images(TINY))), strict=True):
        points = dict(model.points(x))
        assert list(points)[:4] == ["embed", "blocks.0.attn", "blocks.0.mlp", "blocks.0"]
        assert list(points)[-3:] == ["norm", "pool", "head"]
        end, expected = (
            np.asarray(v.detach() if isinstance(v, torch.Tensor) else v)
            for v in (points["head"], model(x))
        )
        assert relative_gap(end, expected) < BOUND


def test_the_logits_are_the_mean_of_what_both_heads_give_for_training(x64):
    config = TINY.replace(distillation_token=True, dropout=0.1)
    ours, theirs = twins(config)
    x, masks = images(config), sample_masks(config, 3, seed=0)
    torch_masks = {n: torch.tensor(m) for n, m in masks.items()}
    with torch.no_grad():
        both = theirs.distilled(channels_first(x), torch_masks)
        assert relative_gap(sum(both) / 2, theirs(channels_first(x), torch_masks)) < BOUND
        for found, expected in zip(ours.distilled(x, masks), both, strict=True):
            assert relative_gap(found, expected) < BOUND
    with pytest.raises(ValueError, match="distillation_token=True"):
        vit_torch.create(TINY).distilled(channels_first(x))
    with pytest.raises(ValueError, match="distillation_token=True"):
        vit_jax.create(TINY).distilled(x)


@pytest.mark.parametrize(
    "options",
    [{"scan": True}, {"remat": "dots"}, {"remat": "full"}, {"remat": "full", "scan": True}],
    ids=str,
)
def test_options_change_neither_outputs_nor_gradients(x64, options):
    config = TINY.replace(drop_path=0.3, dropout=0.1)
    masks = sample_masks(config, 3, seed=0)

    def run(**chosen):
        structure, params = split(twins(config, **chosen)[0])
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(merge(structure, p)(images(config), masks) ** 2))
        )(params)

    (plain, plain_grads), (value, grads) = run(), run(**options)
    assert relative_gap(value, plain) < BOUND
    assert all(
        np.abs(grads[n] - g).max() < BOUND * max(1, np.abs(g).max()) for n, g in plain_grads.items()
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_dtype_is_kept_from_parameters_to_logits(dtype):
    with jax.enable_x64(dtype == "float64"):
        model = vit_jax.create(TINY, param_dtype=dtype)
        assert {p.dtype.name for p in split(model)[1].values()} == {dtype}
        assert model(images(TINY).astype(np.float32)).dtype == dtype
    torch_model = vit_torch.create(TINY, dtype=getattr(torch, dtype))
    assert torch_model(torch.zeros(1, 3, 32, 32)).dtype == getattr(torch, dtype)


def test_mixed_precision_computes_in_bfloat16_with_float32_parameters():
    model = vit_jax.create(TINY, dtype="bfloat16")
    assert {p.dtype.name for p in split(model)[1].values()} == {"float32"}
    assert model(images(TINY).astype(np.float32)).dtype == jnp.bfloat16


WIDE = TINY.replace(
    width=192, mlp_width=768, patch_size=4, pool="map", layer_scale=0.1, num_registers=2
)


DEIT = TINY.replace(
    width=192, distillation_token=True, pre_norm=True, mlp="swiglu", activation="silu"
)
PARAMETERS = {f"{n}{' of DEIT' if c is DEIT else ''}": (c, n)
              for c in (WIDE, DEIT) for n in parameters(c)}  # fmt: skip


@functools.cache
def started(config):
    from parity.twins import weights

    return weights(vit_jax.create(config, seed=0)), weights(vit_torch.create(config, seed=0))


@pytest.mark.parametrize(("config", "name"), PARAMETERS.values(), ids=PARAMETERS)
def test_both_sides_start_from_the_same_distribution(config, name):
    ours, theirs = (state[name] for state in started(config))
    for values in (ours, theirs):
        if name.endswith("bias") or name.startswith("head"):
            assert not values.any()
        elif name.endswith("gamma"):
            assert (values == np.float32(0.1)).all()
        elif values.ndim == 1:
            assert (values == 1).all()
        else:
            fan_in = values[0].size
            std = {"patch_embed.proj.weight": fan_in**-0.5, "attn_pool.latent": 192**-0.5}.get(
                name, 0.02
            )
            error = std / np.sqrt(values.size)
            assert abs(values.mean()) < 5 * error
            assert abs(values.std() - std) < 5 * error
            assert np.abs(values).max() <= 2.0001 * std / 0.8796


BAD_IMAGES = {
    "integers": (
        np.zeros((1, 32, 32, 3), np.uint8),
        "must be floats normalised as in the checkpoint's preprocessing",
    ),
    "one_image": (np.zeros((32, 32, 3), np.float32), r"use images\[None\] for one"),
    "channels": (np.zeros((1, 32, 32, 4), np.float32), "4 channels at axis . the model takes 3"),
    "size": (
        np.zeros((1, 33, 32, 3), np.float32),
        "33 x 32 pixels is not a multiple of patch_size 8 x 8: resize it to 32 x 32",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_wrong_images_get_one_clear_error_on_both_sides(case):
    x, message = BAD_IMAGES[case]
    message = message.replace("axis . the", "axis ., the")
    with pytest.raises(ValueError, match=message):
        vit_jax.create(TINY)(x)
    with pytest.raises(ValueError, match=message):
        vit_torch.create(TINY)(torch.tensor(np.moveaxis(x, -1, -3)))


def test_the_other_sides_channel_order_is_recognised():
    with pytest.raises(ValueError, match="they look channels-first, use images.transpose"):
        vit_jax.create(TINY)(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="they look channels-last, use images.permute"):
        vit_torch.create(TINY)(torch.zeros(1, 32, 32, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remat": "some"}, "remat 'some' is none of"),
        ({"attention": "flash"}, "attention 'flash' is none of"),
        ({"dtype": "float33"}, "dtype 'float33' is none of 'float32', 'bfloat16'"),
        ({"param_dtype": jnp.int32}, "param_dtype .*int32.* is none of 'float32', 'bfloat16'"),
    ],
    ids=["remat", "attention", "dtype", "param_dtype"],
)
def test_an_unknown_option_lists_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        vit_jax.create(TINY, **options)
