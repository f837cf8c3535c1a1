"""The page of performance is made from results, and the committed one is up to date."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import _svg, report
from benchmarks._tables import aligned, figure, markdown, scaled, with_spread

SAMPLE = Path(__file__).parent / "sample"
MARKERS = "".join(f"text\n<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in report.MODULES)


def test_the_committed_page_is_what_its_results_make():
    records, folder = report.newest(report.RESULTS), report.PAGE.parent / "performance"
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.filled(text, report.sections(records, folder.name)) == text
    plots = {name: plot for name, record in records.items() if (plot := report.drawn(record, name))}
    assert {file.stem: file.read_text(encoding="utf-8") for file in folder.iterdir()} == plots


def test_a_page_is_filled_from_results(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(MARKERS, encoding="utf-8")
    report.main(["--results", str(SAMPLE), "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.count("text\n") == len(report.MODULES) and "old" not in text
    assert "| contender | images/s | ms/step |" in text and "| x timm:compile |" in text
    assert "vit_jax:remat=dotty failed: ValueError" in text
    assert "<!-- data -->\n\nNo results yet.\n" in text
    record = json.loads((SAMPLE / "train-cpu-2026-11-21.json").read_text(encoding="utf-8"))
    ours = record["cases"][0]["contenders"]["vit_jax"]["images_per_second"]
    assert f"| vit_jax | {with_spread(ours, digits=4)} |" in text
    assert record["hardware"] in text and "limits in this run (float32): jax matmul" in text
    pictures = {file.stem for file in (tmp_path / "performance").iterdir()}
    assert pictures == {"train-cpu", "infer-cpu", "compile-cpu", "parity-cpu"}
    report.main(["--results", str(SAMPLE), "--page", str(page)])
    assert page.read_text(encoding="utf-8") == text


def test_variables_that_change_what_runs_stand_beside_the_versions():
    record = {"versions": {"jax": "1", "triton": None}, "settings": {"variables": {"A": "b"}}}
    assert report.versions(record) == "With jax 1, `A=b`."
    other = record | {"jax_versions": {"python": "3.13", "jax": "2"}}
    assert report.versions(other) == "With jax 1, `A=b`. vit_jax with python 3.13, jax 2."


def test_only_the_newest_of_the_same_name_counts(tmp_path):
    for date in ("2026-12-01", "2026-11-30"):
        (tmp_path / f"train-cpu-{date}.json").write_text(json.dumps({"date": date}))
    assert report.newest(tmp_path) == {"train-cpu": {"date": "2026-12-01"}}


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="has no <!-- train -->"):
        report.filled("nothing", {"train": "x"})


SPACE = "{http://www.w3.org/2000/svg}"


def plot(*medians, mark=None):
    bars = [
        _svg.Bar(f"a<{i}", {"median": m, "quartiles": [0.9 * m, 1.1 * m]}, whose)
        for i, (m, whose) in enumerate(zip(medians, ("vit_jax", "others"), strict=False))
    ]
    return ET.fromstring(_svg.drawn(_svg.Plot("x & y", "images/s", bars, mark)))


def texts(root):
    return [text.text for text in root.findall(f"{SPACE}text")]


def test_bars_are_as_long_as_their_values_on_the_axis():
    root = plot(1.0, 2.0)
    widths = [float(r.get("width", 0)) for r in root.findall(f"{SPACE}rect") if r.get("class")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)
    assert widths[1] == pytest.approx(_svg.PLOT * 2 / 2.5, abs=0.1)  # the axis ends at 2.5
    assert [t for t in texts(root) if t in ("0", "2.5", "images/s", "a<0")] == [
        "0", "2.5", "images/s", "a<0",
    ]  # fmt: skip


def test_ours_and_others_differ_in_colour_and_the_legend_says_which():
    root = plot(1.0, 2.0, mark=(1.0, "timm"))
    colours = [r.get("fill") for r in root.findall(f"{SPACE}rect") if r.get("class")]
    assert colours == [_svg.COLOURS["vit_jax"], _svg.COLOURS["others"]]
    assert {"vit_jax", "others", "median, quartiles", "1 = timm"} <= {*texts(root)}


def test_no_line_runs_through_a_figure():
    root = plot(0.9, 1.0, mark=(1.0, "timm"))
    ends = [
        float(t.get("x", 0)) for t in root.findall(f"{SPACE}text") if t.text in ("0.900", "1.00")
    ]
    lines = [float(p.get("d", "").split()[0].strip("M")) for p in root.findall(f"{SPACE}path")]
    assert len(ends) == 2 and min(ends) - 6 * _svg.LETTER > max(lines)


@pytest.mark.parametrize("highest", [0.003, 0.9, 1.0, 3.1, 49.9, 61.0, 12345.0])
def test_an_axis_has_a_few_round_ticks(highest):
    step = _svg.nice(highest)
    assert 3 <= highest / step <= 7
    assert float(f"{step:.1e}") == step


def test_figures_have_three_digits_and_units():
    assert [figure(x) for x in (0.01234, 1.5, 12.0, 123.4, 12345.6, None)] == [
        "0.0123", "1.50", "12.0", "123", "12,346", "-",
    ]  # fmt: skip
    assert scaled(788e12, "FLOP/s") == "788 TFLOP/s" and scaled(12, "B/s") == "12 B/s"


def test_columns_line_up():
    table = (["name", "s"], [["a", "1.00"], ["longer", "22.0"]])
    first, rule, *rows = aligned(table).splitlines()
    assert {len(line) for line in (first, rule, *rows)} == {len("longer") + 2 + 4}
    assert markdown(table).splitlines()[1] == "| --- | ---: |"
