"""What a report says of itself as numbers."""

import math

import pytest

from parity.report import Gap, Report


def gap(value, *, level="layers", dtype="float64", scale=1.0, bound=1e-12):
    return Gap(level=level, dtype=dtype, name="x", gap=value, bound=bound, scale=scale)


def report(*gaps):
    return Report(subject="", parameters=1, level="layers", dtypes=("float64",), gaps=gaps)


LARGEST = {
    "float64": ([gap(1e-15), gap(3e-15)], 3e-15),
    "float32 alone": ([gap(3e-4, dtype="float32", bound=1e-6)], 3e-4),
    "weights alone": ([gap(0.25, level="weights", bound=0.0)], 0.25),
    "several dtypes": ([gap(1e-15), gap(2e-3, dtype="bfloat16", bound=1e-2)], 2e-3),
    "NaN": ([gap(1e-15), gap(math.nan)], math.inf),
    "infinity": ([gap(math.inf)], math.inf),
    "outputs of zeros": ([gap(0.0, level="outputs", scale=0.0)], math.inf),
    "other zeros": ([gap(0.0, scale=0.0), gap(1e-15)], 1e-15),
}


@pytest.mark.parametrize(("gaps", "largest"), LARGEST.values(), ids=LARGEST)
def test_the_largest_gap_is_that_of_all_that_was_compared(gaps, largest):
    assert report(*gaps).largest_gap == largest


def test_where_nothing_was_compared_no_bound_holds():
    assert not report().largest_gap < math.inf


@pytest.mark.parametrize("gaps", [gaps for gaps, _ in LARGEST.values()], ids=LARGEST)
def test_a_failed_report_is_never_below_its_bound(gaps):
    found = report(*gaps)
    assert found.passed or not found.largest_gap < 1e-11
