"""Large arrays that lie in another order than C's are copied by blocks, in panels."""

import threading
import time

import numpy as np
import pytest

from parity.containers import writing
from parity.containers.blocks import BLOCK
from parity.containers.info import Info
from parity.containers.values import AHEAD, Values
from tests.parity.test_containers import KINDS, read, same, write

VIEWS = {  # of a large array, in other orders than it lies
    "transposed": lambda a: a.reshape(600, 700).T,
    "one_row_more_than_a_block": lambda a: a[: 257 * 700].reshape(700, 257).T,
    "heads": lambda a: a.reshape(600, 7, 100).transpose(1, 2, 0),
    "third": lambda a: a.reshape(600, 700)[200:400].T,
    "convolution": lambda a: a.reshape(300, 14, 10, 10).transpose(2, 3, 1, 0),
    "reversed": lambda a: a.reshape(600, 700)[::-1, ::-1].T,
    "column": lambda a: a.reshape(600, 700)[:, ::7].T,
    "other_order_of_bytes": lambda a: a.astype(">f4").reshape(600, 700).T,
}


@pytest.mark.parametrize("kind", KINDS)
def test_large_arrays_in_another_order_are_written_in_c_order(tmp_path, kind):
    base = np.random.default_rng(0).normal(size=420_000).astype(np.float32)
    arrays = {name: view(base) for name, view in VIEWS.items()}
    assert not any(array.flags.c_contiguous for array in arrays.values())
    write(tmp_path / "x", kind, arrays)
    same(read(tmp_path / "x"), {n: np.array(a, np.float32, order="C") for n, a in arrays.items()})


def test_a_piece_stays_what_it_is_while_those_after_it_are_made():
    array = np.arange(64 * 4096 * 8, dtype=np.float32).reshape(64, -1).T
    rows, values = 0, Values({"x": Info.of("float32", array.shape)}, lambda _: array)
    with values.stream(["x"]) as stream:
        for name, piece in stream:
            time.sleep(0.01)  # the thread is as far ahead as it may be
            found = np.frombuffer(piece, np.float32).reshape(-1, 64)
            assert name == "x" and np.array_equal(found, array[rows : rows + len(found)])
            rows += len(found)
    assert rows == len(array) > 3 * AHEAD * BLOCK


@pytest.mark.parametrize("kind", KINDS)
def test_no_thread_outlives_a_write_that_fails(tmp_path, kind, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing._Flowing, "write", full)
    before = threading.active_count()
    with pytest.raises(OSError, match="No space") as caught:
        write(tmp_path / "x", kind, {"x": np.zeros((3000, 3000), np.float32).T})
    assert threading.active_count() == before and caught.tb
