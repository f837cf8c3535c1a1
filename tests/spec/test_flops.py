"""Operations of a model against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax.functional import merge, split
from vit_jax.losses import loss_fn
from vit_spec import ViTConfig
from vit_spec.flops import forward_flops, peak_flops, train_flops

WIDE = ViTConfig(
    image_size=(32, 48), patch_size=8, width=256, depth=2, num_heads=2, mlp_width=1024,
    num_classes=100,
)  # fmt: skip
CONFIGS = {
    "plain": {},
    "map": {"pool": "map", "class_token": False},
    "swiglu": {"mlp": "swiglu", "activation": "silu"},
    "swiglu_packed": {"mlp": "swiglu_packed", "activation": "silu"},
    "representation": {"representation_size": 512},
    "distilled": {"distillation_token": True},
    "registers": {"num_registers": 4},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_the_formula_is_what_xla_counts(changes):
    config = WIDE.replace(**changes)
    structure, params = split(vit_jax.create(config))
    images, labels = jnp.zeros((2, 32, 48, 3)), jnp.zeros(2, int)

    def loss(params):
        return loss_fn(merge(structure, params)(images), labels)

    forward = jax.jit(loss).lower(params).cost_analysis()["flops"] / 2
    train = jax.jit(jax.value_and_grad(loss)).lower(params).cost_analysis()["flops"] / 2
    assert forward_flops(config) == pytest.approx(forward, rel=0.015)  # XLA counts norms as well
    assert train_flops(config) == pytest.approx(train, rel=0.015)


def test_a_published_figure():
    """DeiT's 17.6 G multiply-adds of B/16 at 224 pixels (https://arxiv.org/abs/2012.12877)."""
    assert forward_flops(ViTConfig()) / 2 == pytest.approx(17.6e9, rel=3e-3)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_the_peak_of_a_device_kind(kind, peak):
    assert peak_flops(kind) == peak
