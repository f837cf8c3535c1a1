"""Batches: order, completeness, determinism, padding, unreadable images."""

import itertools
import json
import logging
import sys

import numpy as np
import pytest

from tests.vit_data.samples import PLAIN, ArraySource, indices, write_images
from vit_data import Augmentation, eval_batches, open_source, train_batches

SHIFT = Augmentation(shift=1, rotation=20, flip=0.5)


def train(source, *, batch_size=4, augmentation=SHIFT, seed=0, **options):
    return train_batches(
        source, batch_size=batch_size, augmentation=augmentation, seed=seed, **PLAIN, **options
    )


def order(source, count, **options):
    batches = train(source, augmentation=Augmentation(), **options)
    return list(itertools.chain.from_iterable(indices(next(batches)) for _ in range(count)))


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_every_epoch_has_every_example_once_though_batches_cross_epochs():
    seen = order(ArraySource(10), 15)  # 60 examples: six epochs of ten in batches of four
    epochs = [seen[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_labels_stay_with_their_images():
    for batch in itertools.islice(train(ArraySource(10), augmentation=Augmentation()), 5):
        assert batch["label"].dtype == np.int32
        assert [i % 3 for i in indices(batch)] == batch["label"].tolist()


def test_with_epochs_only_the_last_incomplete_batch_is_left_out():
    batches = train(ArraySource(10), epochs=3)
    assert len(batches) == len(list(batches)) == 7


def test_without_epochs_there_is_no_end():
    assert len(train(ArraySource(10))) > sys.maxsize // 8


def test_the_seed_decides_the_batches():
    def first(seed):
        return list(itertools.islice(train(ArraySource(20), seed=seed), 8))

    assert_equal(first(3), first(3))
    assert not np.array_equal(first(3)[0]["image"], first(4)[0]["image"])


def test_neighbouring_seeds_do_not_share_epochs():
    epochs = [order(ArraySource(12), 9, seed=s)[i : i + 12] for s in (0, 1) for i in (0, 12, 24)]
    assert len({tuple(e) for e in epochs}) == 6


def test_the_order_is_pinned():
    assert order(ArraySource(10), 2, seed=5) == [9, 2, 4, 3, 1, 5, 0, 6]


def test_an_example_is_changed_differently_in_every_epoch():
    batches = train(ArraySource(4), augmentation=Augmentation(rotation=90))
    by_index = [
        dict(zip(indices(b), b["image"], strict=True)) for b in (next(batches), next(batches))
    ]
    assert not np.array_equal(by_index[0][3], by_index[1][3])


def test_hosts_together_read_what_one_host_reads():
    alone = list(train(ArraySource(30), batch_size=6, epochs=2))
    hosts = [
        list(train(ArraySource(30), batch_size=2, epochs=2, shard_index=i, shard_count=3))
        for i in range(3)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]
    assert_equal(alone, joined)


def test_worker_processes_give_the_same_batches_and_count_the_same_images():
    source = ArraySource(20, corrupt=(3,))
    alone, spawned = train(source, epochs=2), train(source, epochs=2, workers=2)
    assert_equal(list(alone), list(spawned))
    assert spawned.corrupt.keys() == alone.corrupt.keys() == {3}


def test_the_index_is_that_of_the_image_that_took_the_place_of_an_unreadable_one():
    source = ArraySource(20, corrupt=(3, 19))
    for batch in train(source, augmentation=Augmentation(), epochs=2):
        assert batch["index"].tolist() == indices(batch)


def test_the_cache_changes_nothing():
    def batches(cache):
        return list(train(ArraySource(10), epochs=3, cache=cache))

    assert_equal(batches(True), batches(False))


def taken(batches, count):
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 2)])
def test_a_run_resumes_where_its_state_was_saved_whatever_the_workers(before, after):
    source = ArraySource(10, corrupt=(3,))
    batches = train(source, epochs=3, workers=before)
    taken(batches, 4)
    state = json.loads(json.dumps(batches.get_state()))  # as a checkpoint keeps it
    rest = list(batches)
    again = train(source, epochs=3, workers=after)
    next(again)  # a place of its own, which is left
    again.set_state(state)
    assert state["corrupt"].keys() == {"3"} and again.corrupt == {3: batches.corrupt[3]}
    assert again.get_state() == state
    assert_equal(list(again), rest)
    assert len(list(again)) == 7  # iterated again it starts over


def test_a_state_holds_for_another_number_of_hosts():
    alone = train(ArraySource(12), batch_size=4)
    taken(alone, 5)
    hosts = [train(ArraySource(12), batch_size=2, shard_index=i, shard_count=2) for i in range(2)]
    for host in hosts:
        host.set_state(alone.get_state())
    expected = next(alone)
    parts = [next(host) for host in hosts]
    for key in expected:
        np.testing.assert_array_equal(expected[key], np.concatenate([p[key] for p in parts]))


def test_a_state_of_other_batches_is_refused():
    with pytest.raises(ValueError, match="in batches of 4 images and these have 6"):
        train(ArraySource(12), batch_size=3, shard_count=2).set_state(
            train(ArraySource(12)).get_state()
        )


def test_an_inception_crop_brings_images_to_the_size(tmp_path):
    choice = Augmentation(crop_scale=(0.2, 1.0))
    facts = {**PLAIN, "size": (3, 5)}
    batch = next(train_batches(ArraySource(8), batch_size=4, augmentation=choice, seed=0, **facts))
    assert batch["image"].shape == (4, 3, 5, 1)


def test_images_of_another_size_are_fitted_for_training():
    options = {**PLAIN, "size": (2, 6), "augmentation": Augmentation(), "seed": 0, "epochs": 1}
    batches = train_batches(ArraySource(8), batch_size=4, **options)
    assert sorted(i for b in batches for i in indices(b)) == list(range(8))


def test_images_of_another_size_are_fitted_for_evaluation():
    batch = next(eval_batches(ArraySource(8), batch_size=4, **{**PLAIN, "size": (2, 6)}))
    assert batch["image"].shape == (4, 2, 6, 1)
    assert indices(batch) == [0, 1, 2, 3]


def test_evaluation_has_every_example_once_and_masks_the_padding():
    batches = list(eval_batches(ArraySource(10), batch_size=4, **PLAIN))
    mask = np.concatenate([b["mask"] for b in batches])
    assert mask.tolist() == [1.0] * 10 + [0.0] * 2
    seen = np.concatenate([indices(b) for b in batches])[mask == 1]
    assert seen.tolist() == list(range(10))
    assert np.concatenate([b["image"] for b in batches])[mask == 0].any() == np.False_


def test_evaluation_can_be_repeated():
    batches = eval_batches(ArraySource(10), batch_size=4, **PLAIN)
    assert_equal(list(batches), list(batches))


def test_evaluation_hosts_share_the_examples_in_equally_many_batches():
    hosts = [
        list(eval_batches(ArraySource(9), batch_size=2, shard_index=i, shard_count=3, **PLAIN))
        for i in range(3)
    ]
    assert [len(h) for h in hosts] == [2, 2, 2]
    seen = [i for h in hosts for b in h for i, m in zip(indices(b), b["mask"], strict=True) if m]
    assert sorted(seen) == list(range(9))


def test_an_unreadable_image_is_replaced_counted_and_named_once(caplog):
    batches = train(ArraySource(20, corrupt=(5, 6)), epochs=4, augmentation=Augmentation())
    with caplog.at_level(logging.WARNING, logger="vit_data"):
        seen = [i for b in batches for i in indices(b)]
    assert sorted(batches.corrupt) == [5, 6]
    assert not {5, 6} & set(seen)
    assert seen.count(7) == 12  # itself, for 5 and for 6, in four epochs
    (record,) = caplog.records
    assert "example" in record.message and "unreadable image" in record.message


def test_an_unreadable_file_is_named(tmp_path, caplog):
    write_images(tmp_path / "train" / "a", 4)
    write_images(tmp_path / "train" / "b", 4)
    (tmp_path / "val").mkdir()
    (tmp_path / "train" / "b" / "2.png").write_bytes(b"\x89PNG broken")
    source = open_source(tmp_path, split="train")
    list(train(source, epochs=2))
    assert str(tmp_path / "train" / "b" / "2.png") in caplog.text


def test_evaluation_masks_an_unreadable_image():
    batches = eval_batches(ArraySource(6, corrupt=(4,)), batch_size=3, **PLAIN)
    assert np.concatenate([b["mask"] for b in batches]).tolist() == [1, 1, 1, 1, 0, 1]
    assert list(batches.corrupt) == [4]


@pytest.mark.parametrize("make", [train, lambda s: eval_batches(s, batch_size=2, **PLAIN)])
def test_a_source_without_any_readable_image_is_an_error(make):
    with pytest.raises(ValueError, match="none of the 5 images of arrays can be read; example 0"):
        make(ArraySource(5, corrupt=tuple(range(5))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "batch_size 11 x 1 hosts is more than the 10 images.*at most 10"),
        ({"batch_size": 4, "shard_count": 3}, "use a batch_size of at most 3"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epochs": 0}, "epochs 0"),
        ({"workers": -1}, "workers -1"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index 2"),
        ({"seed": -1}, "seed -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_request_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(ArraySource(10), **options)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="arrays has no images"):
        eval_batches(ArraySource(0), batch_size=2, **PLAIN)
