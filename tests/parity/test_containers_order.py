"""Large arrays that lie in another order than C's are copied by blocks, in panels."""

import numpy as np
import pytest

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
