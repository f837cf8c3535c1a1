"""A variant is timm's model of the same name: its parameters, and one block of it as a function."""

import jax
import pytest
import torch

from parity.inputs import random_state
from tests.oracles.timm_models import create_model, timm_model
from tests.twin_models import BOUND, images, relative_gap, twins
from vit_jax.functional import merge, split
from vit_spec import count_parameters, get, parameters, variants
from vit_spec.variants import PATCHES

PLAIN = {f"vit_{s}_patch{patch}_{image}" for s in PATCHES for patch, image in PATCHES[s]}
ONE_OF_EACH = (
    "vit_base_patch16_224.mae",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_base_patch32_siglip_256",
    "vit_base_patch16_siglip_gap_224",
    "vit_base_patch32_clip_224",
    "vit_base_patch32_clip_quickgelu_224",
)


@pytest.mark.parametrize("name", variants())
def test_a_variant_has_the_parameters_of_timms_model(name):
    config = get(name)
    with torch.device("meta"):  # of plain ones, timm lacks some and trains some for other classes
        plain = name in PLAIN
        oracle = (timm_model(config, weight_init="skip") if plain else
                  create_model(name, weight_init="skip"))  # fmt: skip
    expected = {n: tuple(p.shape) for n, p in oracle.named_parameters()}
    assert parameters(config) == expected
    assert count_parameters(config) == sum(p.numel() for p in oracle.parameters())


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (2, 5)], ids=["native", "other", "fewer"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_variant_is_timms_model_of_that_name(x64, monkeypatch, name, grid):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # positions, in float32
    p = get(name).patch_shape[0]
    config = get(name, depth=1, image_size=(3 * p, 4 * p))
    oracle = create_model(
        name, depth=1, img_size=config.image_shape, dynamic_img_size=True, weight_init="skip"
    )
    oracle = oracle.double().eval()
    state = {n: torch.tensor(a) for n, a in random_state(config, 0).items()}
    oracle.load_state_dict(state, strict=True)
    x = images(config, grid[0] * p, grid[1] * p, batch=2)
    channels_first = torch.tensor(x).permute(0, 3, 1, 2)
    jax_model, torch_model = twins(config)
    structure, params = split(jax_model)
    with torch.no_grad():
        expected = oracle(channels_first)
        assert relative_gap(torch_model(channels_first), expected) < BOUND
    assert relative_gap(jax.jit(lambda q, y: merge(structure, q)(y))(params, x), expected) < BOUND
