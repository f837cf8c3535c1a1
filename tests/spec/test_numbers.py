"""Positions, masks, schedule and decay against outside definitions."""

import jax
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

from vit_spec import OptimConfig, ViTConfig, is_decayed, learning_rate, mask_sites, sample_masks
from vit_spec.positions import resample_matrix, sincos2d


@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 7), (24, 14), (7, 37), (5, 5), (2, 3)])
def test_the_resampling_matrix_equals_torch_interpolate(old, new, kernel, antialias):
    table = np.random.default_rng(0).normal(size=(3, old))
    image = torch.tensor(table)[None, :, :, None].expand(-1, -1, -1, 4)
    expected = F.interpolate(
        image, size=(new, 4), mode=kernel, antialias=antialias, align_corners=False
    )
    found = table @ resample_matrix(old, new, kernel, antialias).T
    assert np.abs(found - expected[0, :, :, 0].numpy()).max() < 1e-14 * 10


@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
@pytest.mark.parametrize(("old", "new"), [(37, 16), (37, 41), (4, 5), (5, 3)])
def test_the_resampling_with_an_offset_equals_torch_with_a_scale_factor(old, new, antialias):
    table = np.random.default_rng(0).normal(size=(3, old))
    expected = F.interpolate(
        torch.tensor(table)[None, :, :, None].expand(-1, -1, -1, 4),
        scale_factor=((new + 0.1) / old, 4.1 / 4),
        mode="bicubic",
        antialias=antialias,
    )
    found = table @ resample_matrix(old, new, antialias=antialias, offset=0.1).T
    assert np.abs(found[:, :, None] - expected[0].numpy()).max() < 1e-13


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14)])
def test_the_antialiased_matrix_equals_jax_image_resize(x64, old, new):
    table = np.random.default_rng(0).normal(size=(old, 3))
    expected = jax.image.resize(table, (new, 3), "bicubic", antialias=True)
    assert np.abs(resample_matrix(old, new) @ table - np.asarray(expected)).max() < 1e-13


@pytest.mark.parametrize("mae", [False, True], ids=["big_vision", "mae"])
def test_a_fixed_position_is_the_papers_sum_of_waves(mae):
    table, width, columns = sincos2d((3, 5), 16, mae=mae), 16, 5
    for row, column, k in [(0, 0, 0), (2, 4, 3), (1, 3, 1)]:
        frequency = 10000 ** -(k / (4 if mae else 3))
        position = table[row * columns + column]
        waves = [
            np.sin(column * frequency),
            np.cos(column * frequency),
            np.sin(row * frequency),
            np.cos(row * frequency),
        ]
        assert np.allclose(position[[k, 4 + k, 8 + k, 12 + k]], waves, rtol=1e-14, atol=1e-14)
    assert table.shape == (15, width)


@pytest.mark.parametrize("warmup", [0, 1, 10, 100])
def test_the_learning_rate_is_optaxs_warmup_cosine(x64, warmup):
    config = OptimConfig(lr=3e-3, end_lr=1e-5, warmup_steps=warmup, total_steps=100)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, 3e-3, warmup, max(100, warmup + 1) if warmup == 100 else 100, 1e-5
    )
    last = 100 if warmup < 100 else 99
    steps = [*range(last), 150]
    expected = [float(schedule(jax.numpy.int64(step))) for step in steps]
    assert [learning_rate(config, step) for step in steps] == pytest.approx(expected, rel=1e-12)


def test_decay_acts_on_kernels_alone_under_both_twins_names():
    kernels = [("head.weight", 2), ("patch_embed.proj.kernel", 4)]
    others = [
        ("norm.weight", 1),
        ("norm.scale", 1),
        ("head.bias", 1),
        ("pos_embed", 3),
        ("cls_token", 3),
        ("blocks.0.ls1.gamma", 1),
        ("attn_pool.latent", 3),
    ]
    assert all(is_decayed(*kernel) for kernel in kernels)
    assert not any(is_decayed(*other) for other in others)


def test_optimizer_numbers_out_of_range_are_all_named():
    with pytest.raises(
        ValueError,
        match="lr -1 must not be negative; warmup_steps 20 is more than total_steps 10",
    ):
        OptimConfig(lr=-1, warmup_steps=20, total_steps=10)


def test_drop_path_rises_linearly_from_zero_and_masks_keep_the_mean():
    config = ViTConfig(image_size=32, depth=5, drop_path=0.4, dropout=0.1)
    keeps = [mask_sites(config, 2)[f"blocks.{i}.drop_path1"][1] for i in range(5)]
    assert keeps == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    mask = sample_masks(config, 64, seed=0)["pos_drop"]
    assert set(np.unique(mask)) == {0.0, 1 / 0.9}
    assert mask.mean() == pytest.approx(1, abs=0.01)
