"""Linen models that others wrote equal the PyTorch models that they were ported from.

Neither package is among the tests' dependencies, as both ask for other versions of what is used
here. To run this, install them without dependencies into a folder on PYTHONPATH:
`pip install --no-deps --target DIR flaxmodels h5py` for the ResNet, and
`pip install --no-deps --target DIR transformers==4.49.0 huggingface_hub==0.30.2 tokenizers==0.21.1`
for the ViT.
"""

import importlib
from functools import partial
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import parity
from parity import Rule

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages are old


def outside(module: str, package: str) -> Any:
    """A module of another package; skips the test where there is none."""
    importlib.import_module("tests.oracles.timm_models")  # makes torchvision importable
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{package} is not installed: {error}")


def noisy(variables: Any) -> Any:
    """Variables that nothing hides behind, of the size that they were made with."""
    rng = np.random.default_rng(0)

    def changed(leaf: Any) -> Any:
        shift = 0.1 * rng.uniform(size=leaf.shape) * (leaf.ndim == 1)
        return (leaf * (1 + 0.1 * rng.normal(size=leaf.shape)) + shift).astype("float32")

    return jax.tree.map(changed, variables)


def carry(variables: Any, model: torch.nn.Module, rules: Any = ()) -> None:
    """Gives a PyTorch model the weights of a Linen model."""
    leaves = flax.traverse_util.flatten_dict(variables)
    state = {".".join(path[1:]): np.asarray(leaf) for path, leaf in leaves.items()}
    carried = parity.Names(rules).to_torch(state)
    found = model.load_state_dict({n: torch.tensor(a) for n, a in carried.items()}, strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)


LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def normed(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.{leaf}", f"{theirs}.{other}") for leaf, other in LEAVES.items()]


def resnet_rules() -> list[Rule]:
    """Linen numbers the blocks from the first to the last, torchvision within each stage."""
    rules = [
        Rule("Conv_0.kernel", "conv1.weight"),
        *normed("BatchNorm_0", "bn1"),
        Rule("Dense_0.kernel", "fc.weight"),
        Rule("Dense_0.bias", "fc.bias"),
    ]
    for block in range(8):
        ours, theirs = f"BasicBlock_{block}", f"layer{block // 2 + 1}.{block % 2}"
        parts = [("conv1", "bn1"), ("conv2", "bn2"), ("downsample.0", "downsample.1")]
        for i, (conv, norm) in enumerate(parts if block in (2, 4, 6) else parts[:2]):
            rules.append(Rule(f"{ours}.Conv_{i}.kernel", f"{theirs}.{conv}.weight"))
            rules += normed(f"{ours}.BatchNorm_{i}", f"{theirs}.{norm}")
        rules.append(Rule(ours, theirs))
    return rules


@pytest.fixture
def resnets():
    """flaxmodels' ResNet-18 and torchvision's, with the same weights."""
    flaxmodels = outside("flaxmodels", "flaxmodels")
    theirs = outside("torchvision.models", "torchvision").resnet18(num_classes=10)
    model = flaxmodels.ResNet18(
        output="logits", pretrained=None, normalize=False, num_classes=10, dtype=None
    )
    images = jnp.zeros((1, 32, 32, 3))
    variables = noisy(model.init(jax.random.key(0), images, train=False))
    carry(variables, theirs, resnet_rules())
    return (partial(model.apply, train=False), variables), theirs


IMAGES = parity.Image(np.random.default_rng(1).normal(size=(3, 48, 64, 3)))


def test_flaxmodels_resnet_equals_torchvisions_in_float32(resnets):
    report = parity.check(
        *resnets, inputs=IMAGES, rules=resnet_rules(), level="gradients", dtype="float32"
    )
    assert report.passed, parity.render(report)
    assert {"layer1.0", "layer4.1", "layer4.0.downsample.1"} <= {g.name for g in report.gaps}


def test_its_batch_norm_in_float32_is_found_by_the_proof(resnets):
    report = parity.check(*resnets, inputs=IMAGES, rules=resnet_rules(), level="layers")
    assert not report.passed
    assert report.diagnosis.location.culprit == "bn1"
    assert 1e-9 < report.largest_gap < 1e-6


def test_with_flaxs_own_batch_norm_it_passes_the_proof(resnets, monkeypatch):
    def batch_norm(x, train, epsilon, momentum, params, dtype):
        return nn.BatchNorm(use_running_average=not train, epsilon=epsilon)(x)

    monkeypatch.setattr("flaxmodels.resnet.ops.batch_norm", batch_norm)
    report = parity.check(*resnets, inputs=IMAGES, rules=resnet_rules(), level="gradients")
    assert report.passed, parity.render(report)


def test_transformers_linen_vit_equals_its_torch_vit_without_a_rule():
    flax_vit = outside(
        "transformers.models.vit.modeling_flax_vit", "transformers 4 with Flax models"
    )
    vit = outside("transformers.models.vit.modeling_vit", "transformers")
    config = vit.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=7,
    )  # fmt: skip
    model = flax_vit.FlaxViTForImageClassificationModule(config, dtype=jnp.float64)
    variables = noisy(model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    theirs = vit.ViTForImageClassification(config)
    carry(variables, theirs)
    images = parity.Image(np.random.default_rng(1).normal(size=(3, 32, 32, 3)))
    report = parity.check((model.apply, variables), theirs, inputs=images, steps=6)
    assert report.passed, parity.render(report)
    assert report.levels == parity.LEVELS
