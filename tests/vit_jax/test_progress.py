"""Speed of a run: what counts, and with which operations."""

import pytest

from vit_jax import progress
from vit_jax.progress import Progress, Speed
from vit_spec import get
from vit_spec.flops import train_flops

CONFIG = get("Ti/16")


def test_each_size_counts_its_own_operations_and_its_compilation_is_left_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "peak_flops", lambda kind: 1e12)
    monkeypatch.setattr(progress.jax, "devices", lambda: [type("Device", (), {"device_kind": ""})])
    done = Progress()
    speed = Speed(CONFIG, 10, done)

    def step(side, seconds, wait=0.0):
        with speed.waiting():
            now[0] += wait
        now[0] += seconds - wait
        return speed.step((side, side))

    for side in (128, 224):
        assert step(side, 60, wait=30)  # compiles
        now[0] += 7
        speed.finished(count=False)
        step(side, 2, wait=0.5)
        with speed.paused():
            now[0] += 100
        assert not step(side, 1.5, wait=0.5)
        now[0] += 0.5  # until the devices are done with what they were given
        speed.finished()
        rates = speed.line()
        assert rates["mfu"] == pytest.approx(10 * train_flops(CONFIG, (side, side)) / 2 / 1e12)
        assert rates["images_per_second"] == 5 and rates["data_wait"] == 0.25
    assert (done.timed, done.seconds, done.waited) == (4, 8.0, 2.0)
    mean = sum(train_flops(CONFIG, (side, side)) for side in (128, 224)) / 2
    assert speed.total()["mfu"] == pytest.approx(10 * mean / 2 / 1e12)


def test_a_slow_rate_keeps_its_digits():
    assert progress.shown({"images_per_second": 1.54}) == "1.5 images/s"
    assert progress.shown({"images_per_second": 1234.6}) == "1,235 images/s"
