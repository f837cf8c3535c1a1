"""Mixup, CutMix and random erasing against timm, and batches made with them."""

import itertools
import random

import numpy as np
import pytest

from tests.oracles import timm_models  # noqa: F401  (makes timm importable)
from tests.vit_data.samples import PLAIN, ArraySource, indices
from vit_data import Augmentation, train_batches
from vit_data.erase import random_erasing
from vit_data.mix import Mix, cut_box, draw_mix, mix_images, mix_labels

MIXED = Augmentation(mixup=0.8, cutmix=1.0, erasing=0.5, flip=0.5)


def images(count=4, size=(9, 14)):
    return np.random.default_rng(0).normal(size=(count, *size, 3)).astype(np.float32)


def neighbours_as_ends(count):
    """Where our pairs (0, 1), (2, 3) .. stand so that timm pairs them: first with last."""
    return [*range(0, count, 2), *range(count - 1, 0, -2)]


@pytest.mark.parametrize("kept", [0.3, 0.85])
@pytest.mark.parametrize("cutmix", [False, True], ids=["mixup", "cutmix"])
def test_a_batch_is_mixed_as_timm_mixes_it(kept, cutmix, monkeypatch):
    import torch
    from timm.data.mixup import Mixup

    count, size, centre = 6, (9, 14), (4, 11)
    order = neighbours_as_ends(count)
    monkeypatch.setattr(np.random, "beta", lambda a, b: kept)
    draws = iter(centre)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(draws))
    theirs = Mixup(
        mixup_alpha=0.0 if cutmix else 0.8,
        cutmix_alpha=1.0 if cutmix else 0.0,
        label_smoothing=0.1,
        num_classes=5,
    )
    x, labels = images(count, size), np.array([0, 1, 2, 3, 4, 0])
    mixed, targets = theirs(
        torch.from_numpy(x[order].transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels[order])
    )
    shares = ((centre[0] + 0.5) / size[0], (centre[1] + 0.5) / size[1])
    mix = cut_box(kept, shares, size) if cutmix else Mix(kept)
    mix_images(x, mix)
    np.testing.assert_array_equal(x[order], mixed.numpy().transpose(0, 2, 3, 1))
    ours = mix_labels(labels, 5, mix)
    smoothed = ours * 0.9 + 0.1 / 5  # as the loss does it, once
    np.testing.assert_allclose(smoothed[order], targets.numpy(), atol=1e-7)


def test_the_share_follows_its_beta_and_the_switch():
    def draws(**choice):
        options = {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0, "switch": 0.5, **choice}
        return [draw_mix(np.random.default_rng(i), (32, 32), **options) for i in range(2000)]

    def variance(a):  # of Beta(a, a)
        return 1 / (4 * (2 * a + 1))

    mixups = [mix.kept for mix in draws(mixup=0.8)]
    assert abs(np.mean(mixups) - 0.5) < 0.02 and abs(np.var(mixups) / variance(0.8) - 1) < 0.1
    both = draws(mixup=0.8, cutmix=1.0, switch=0.25)
    assert 0.21 < np.mean([mix.box is not None for mix in both]) < 0.29
    assert all(mix.box for mix in draws(cutmix=1.0))
    some = draws(mixup=0.8, probability=0.3)
    assert 0.26 < np.mean([mix.kept != 1 for mix in some]) < 0.34


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_draws_the_rectangles_that_timm_draws(mode, monkeypatch):
    import torch
    from timm.data.random_erasing import RandomErasing

    theirs = RandomErasing(1.0, mode=mode, device="cpu")

    def rectangle(changed):
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        return len(rows) * len(columns) / changed.size, len(rows) / len(columns)

    random.seed(0)
    torch.manual_seed(0)
    generator, found = np.random.default_rng(0), {"ours": [], "theirs": []}
    for _ in range(300):
        image = np.full((64, 64, 3), 7.0, np.float32)
        random_erasing(image, generator, 1.0, mode)
        filled = image[(image != 7).any(-1)]
        even = (filled == filled[0]).all()
        assert {"const": even and not filled.any(), "rand": even}.get(mode, filled.std() > 0.5)
        found["ours"].append(rectangle((image != 7).any(-1)))
        other = theirs(torch.full((3, 64, 64), 7.0)).numpy()
        found["theirs"].append(rectangle((other != 7).any(0)))
    ours, expected = np.array(found["ours"]), np.array(found["theirs"])
    # Two samples of 300 draws: the standard error of the difference of two quartiles is about
    # 1.36 sqrt(2 / 300) = 0.11 standard deviations, which are about as large as the values: two of
    # them are allowed. A pixel more in both sides of the largest, 37 x 37, is 0.018 of the image.
    for percent in (0, 25, 50, 75, 100):
        a, b = np.percentile(ours, percent, axis=0), np.percentile(expected, percent, axis=0)
        np.testing.assert_allclose(a, b, rtol=0.25, atol=0.02)


def test_erasing_happens_as_often_as_its_probability():
    generator, changed = np.random.default_rng(0), 0
    for _ in range(1000):
        image = np.ones((16, 16, 1), np.float32)
        random_erasing(image, generator, 0.25, "const")
        changed += not image.all()
    assert 200 < changed < 300


def train(batch_size, augmentation, steps=6, count=30, **options):
    facts = {**PLAIN, "size": (4, 4), **options}
    source = ArraySource(count)
    batches = train_batches(
        source, batch_size=batch_size, augmentation=augmentation, seed=3, **facts
    )
    return list(itertools.islice(batches, steps))


@pytest.mark.parametrize("repeats", [1, 3])
def test_mixed_batches_of_hosts_are_those_of_one_host(repeats):
    choice = Augmentation(mixup=0.8, cutmix=1.0, erasing=0.5, flip=0.5, repeats=repeats)
    alone = train(8, choice)
    hosts = [train(2, choice, shard_index=i, shard_count=4) for i in range(4)]
    for batch, *parts in zip(alone, *hosts, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([p[key] for p in parts]))


def test_mixed_labels_are_shares_of_classes_and_change_with_the_batch():
    batches = train(8, MIXED)
    labels = np.stack([batch["label"] for batch in batches])
    assert labels.shape == (6, 8, 3) and labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)
    assert len(np.unique(labels)) > 5


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match="batch_size 3 of a host is odd"):
        train(3, MIXED)


def test_repeats_are_in_one_batch_and_every_image_has_as_many_in_an_epoch():
    batches = train(6, Augmentation(repeats=3), steps=15)  # 90 = 30 images, three times
    for batch in batches:
        seen = indices(batch)
        assert len(set(seen[:2])) == 2 and sorted(seen[:2]) == sorted(seen[2:4]) == sorted(seen[4:])
    everything = [i for batch in batches for i in indices(batch)]
    assert sorted(everything) == sorted([*range(30)] * 3)


def test_repeats_that_do_not_divide_the_batch_lose_nothing():
    batches = train(5, Augmentation(repeats=3), steps=18)
    assert sorted(i for b in batches for i in indices(b)) == sorted([*range(30)] * 3)


def test_copies_of_an_image_are_augmented_differently():
    shifts = Augmentation(repeats=3, shift=3, flip=0.5)
    different = 0
    for batch in train(6, shifts, steps=10):
        copies = [batch["image"][np.array(indices(batch)) == i] for i in set(indices(batch))]
        different += sum(len({c.tobytes() for c in group}) > 1 for group in copies)
    assert different > 15


def test_progressive_resizing_changes_the_size_by_step_and_resumes():
    sizes = ((2, 2), (4, 6))
    batches = train(4, Augmentation(crop_scale=(0.5, 1.0)), sizes=sizes)
    assert [batch["image"].shape[1] for batch in batches] == [2, 2, 6, 6, 4, 4]
    fitted = train(4, Augmentation(), sizes=sizes)
    assert [batch["image"].shape[1] for batch in fitted] == [2, 2, 6, 6, 4, 4]
    facts = {**PLAIN, "augmentation": Augmentation(), "seed": 3, "sizes": sizes}
    again = train_batches(ArraySource(30), batch_size=4, **facts)
    again.set_state({"batches": 3, "images_in_a_batch": 4, "corrupt": {}})
    np.testing.assert_array_equal(next(again)["image"], fitted[3]["image"])
