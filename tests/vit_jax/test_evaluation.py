"""Measures on a test set, against PyTorch's of the same logits."""

import numpy as np
import pytest
import torch

import vit_jax
from tests.twin_models import TINY
from vit_jax.evaluation import Evaluation
from vit_jax.functional import split
from vit_jax.sharding import make_mesh


def measured(classes):
    config = TINY.replace(num_classes=classes, depth=1)
    model = vit_jax.create(config, seed=1)
    model.head.kernel[...] = np.random.default_rng(2).normal(size=model.head.kernel.shape)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 8, *config.image_shape, 3)).astype(np.float32)
    labels = rng.integers(classes - 1, size=(3, 8)).astype(np.int32)  # none of the last class
    mask = np.ones((3, 8), np.float32)
    mask[2, 5:] = 0
    batches = [
        {"image": x, "label": y, "mask": m} for x, y, m in zip(images, labels, mask, strict=True)
    ]
    found = Evaluation(split(model)[0], batches, make_mesh())(split(model)[1])
    kept = mask.ravel() > 0
    logits = np.concatenate([np.asarray(model(x)) for x in images])[kept]
    return found, torch.from_numpy(logits), torch.from_numpy(labels.ravel()[kept]).long()


def test_loss_accuracies_and_counts_are_those_of_pytorch():
    found, logits, labels = measured(7)
    assert found.images == len(labels) == 21
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert found.accuracy == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    near = (logits.topk(5).indices == labels[:, None]).any(-1)
    assert found.top5 == pytest.approx(near.double().mean().item())
    assert found.of_class == tuple(torch.bincount(labels, minlength=7).tolist())
    right = torch.bincount(labels[logits.argmax(-1) == labels], minlength=7)
    assert found.right == tuple(right.tolist())
    assert 0 < found.accuracy < found.top5 < 1


def test_a_class_without_an_image_has_no_accuracy_and_of_five_classes_there_is_no_top_5():
    found, _, _ = measured(5)
    assert found.top5 is None and "top-5" not in str(found)
    assert found.by_class[-1] is None and found.values().keys() == {
        "test_accuracy", "test_loss", "test_accuracy_by_class"
    }  # fmt: skip
