"""docs/formats.md is what `make formats` would write, but for the gaps, which it measures."""

from collections import Counter
from pathlib import Path

from parity import orbax
from parity.formats import FOREIGN
from tests.formats_matrix import HEAD, INTRODUCTION, LIMITS, features
from tests.parity.test_formats import TIMM
from tests.parity.test_formats_releases import RELEASES
from tests.twin_models import BOUND

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## What each")[0].splitlines()
    if line.startswith("|") and "---" not in line
]


def test_every_format_is_measured_with_two_variants_or_more_both_ways():
    head, *rows = ROWS
    assert head == list(HEAD)
    counts = Counter(row[0] for row in rows)
    assert counts.keys() == {*FOREIGN, orbax.FORMAT}
    assert min(counts.values()) >= 2
    assert all(float(gap) < BOUND for row in rows for gap in row[3:5])


def test_no_variant_of_the_tests_is_missing():
    variants = {(row[0], row[2]) for row in ROWS}
    assert {("timm", case) for case in TIMM} <= variants
    assert {(format, case) for case, (format, *_) in RELEASES.items()} <= variants


def test_what_is_not_measured_is_up_to_date():
    assert PAGE.startswith(INTRODUCTION) and PAGE.endswith(features() + LIMITS)
