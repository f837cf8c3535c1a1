"""Both twins are timm's VisionTransformer: outputs and all gradients, in float64."""

import jax
import numpy as np
import pytest
import torch

from parity.inputs import random_state
from tests.oracles.timm_models import timm_model
from tests.twin_models import BOUND, TINY, images, relative_gap, twins
from vit_jax.functional import merge, split
from vit_spec.layout import to_torch_layout

CONFIGS = {
    "class_token": {},
    "mean_fc_norm": {"pool": "mean", "fc_norm": True},
    "mean_norm_no_class_token": {"pool": "mean", "class_token": False},
    "attention_pool": {"pool": "map", "class_token": False},
    "layer_scale_tanh": {"layer_scale": 0.1, "activation": "gelu_tanh"},
    "registers": {"num_registers": 3, "class_token_position": False},
    "qk_norm_no_qkv_bias": {"qk_norm": True, "qkv_bias": False},
    "quick_gelu_epsilon": {"activation": "quick_gelu", "norm_eps": 1e-5},
    "distillation": {"distillation_token": True},
    "clip": {
        "pre_norm": True,
        "patch_bias": False,
        "head_bias": False,
        "activation": "quick_gelu",
        "norm_eps": 1e-5,
    },
    "pre_norm_patch_bias": {"pre_norm": True, "pool": "mean"},
    "swiglu": {"mlp": "swiglu", "activation": "silu"},
    "swiglu_packed": {"mlp": "swiglu_packed", "activation": "silu", "mlp_width": 48},
    "not_square": {"image_size": (16, 40), "patch_size": (8, 4), "in_channels": 1},
}
SIZES = {"native": (0, 0), "larger": (48, 40), "smaller": (16, 24)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_outputs_and_gradients_equal_timm(x64, monkeypatch, changes, size):
    monkeypatch.setattr(
        torch.Tensor, "float", torch.Tensor.double
    )  # timm resamples positions in float32
    config = TINY.replace(**changes)
    jax_model, torch_model = twins(config)
    oracle = timm_model(config).double()
    oracle.load_state_dict(
        {n: torch.tensor(a) for n, a in random_state(config, 0).items()}, strict=True
    )
    x = images(config, *size)
    pull = np.random.default_rng(2).normal(size=(len(x), config.num_classes))

    expected, gradients = torch_outputs(oracle, x, pull)
    found, found_gradients = torch_outputs(torch_model, x, pull)
    assert relative_gap(found, expected) < BOUND
    structure, params = split(jax_model)
    jax_found, backward = jax.vjp(jax.jit(lambda p, x: merge(structure, p)(x)), params, x)
    assert relative_gap(jax_found, expected) < BOUND
    of_params, of_images = backward(jax.numpy.asarray(pull))
    jax_gradients = to_torch_layout({n: np.asarray(g) for n, g in of_params.items()})
    jax_gradients["images"] = np.asarray(of_images).transpose(0, 3, 1, 2)

    assert gradients.keys() == found_gradients.keys() == jax_gradients.keys()
    for name, gradient in gradients.items():
        # zero in exact arithmetic, so measured beside the weight of the same norm
        scale = np.abs(gradients[name.replace("k_norm.bias", "k_norm.weight")]).max()
        for other in (found_gradients, jax_gradients):
            assert np.abs(other[name] - gradient).max() < BOUND * scale, name


def test_both_heads_in_training_are_timms(x64):
    config = TINY.replace(distillation_token=True)
    jax_model, torch_model = twins(config)
    oracle = timm_model(config).double().train()
    state = {n: torch.tensor(a) for n, a in random_state(config, 0).items()}
    oracle.load_state_dict(state, strict=True)
    oracle.set_distilled_training()
    x = images(config)
    channels_first = torch.tensor(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        both = zip(oracle(channels_first), torch_model.distilled(channels_first),
                   jax_model.distilled(x), strict=True)  # fmt: skip
    for expected, *found in both:
        assert all(relative_gap(f, expected) < BOUND for f in found)


def torch_outputs(model, x, pull):
    channels_first = torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    outputs = model(channels_first)
    outputs.backward(torch.tensor(pull))
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return outputs.detach().numpy(), gradients | {"images": channels_first.grad.numpy()}
