"""The page of a report: what it says, that it is safe, and how it behaves in a browser."""

import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from parity.findings import Attempt, Cause, Diagnosis, Location
from parity.html import POLICY, WORST, html
from parity.plots import LIMIT, thinned
from parity.report import Gap, Report

HOSTILE = "</title><script>alert('x')</script>\"><img src=x onerror=alert(1)>\0\ud800&amp;"
VOID = {"meta", "link", "br", "img", "input", "hr"}


def gap(name, value=1e-15, *, level="layers", dtype="float64", bound=4e-13, **more) -> Gap:
    return Gap(level=level, dtype=dtype, name=name, gap=value, bound=bound, scale=1.0, **more)


def passing() -> Report:
    gaps = [gap(f"w{i}", 0.0, level="weights", bound=0.0) for i in range(5)]
    gaps += [gap(f"blocks.{i}.mlp", i * 1e-16, dtype=d) for d in ("float64", "float32")
             for i in range(40)]  # fmt: skip
    gaps.append(gap("loss", 2e-16, level="training", step=3))
    losses = [2.3, 2.1, 1.7]
    return Report(
        subject="runs/digits",
        parameters=86_554,
        level="training",
        dtypes=("float64", "float32"),
        gaps=tuple(gaps),
        settings={"batch_size": 2},
        notes=("the bias of the keys is compared with the others",),
        curves={"float64": {"jax": losses, "torch": [losses[0], losses[1] + 1e-15, losses[2]]}},
        seconds=12.34,
        peak_bytes=3 * 2**29,
    )


def failing() -> Report:
    report = passing()
    gaps = [g if g.name != "blocks.7.mlp" else replace(g, gap=0.5, note="at [0, 1]")
            for g in report.gaps]  # fmt: skip
    gaps += [
        gap("blocks.9.attn", math.nan),
        gap("blocks.9.mlp", math.inf),
        gap("param w", 1e-3, level="training", step=7),
    ]
    curves = {"float64": {"jax": [2.0, math.nan], "torch": [2.0, 1.5]}}
    return replace(report, gaps=tuple(gaps), curves=curves)


DIAGNOSIS = Diagnosis(
    location=Location(
        first="blocks.7.mlp", gap=0.5, bound=4e-13, culprit="blocks.7.mlp", own_gap=0.4
    ),
    causes=(
        Cause(
            place="blocks.7.mlp", what="activation", jax="tanh GELU", torch="exact GELU",
            gap=0.4, residual=3e-16, places=("blocks.7.mlp", "blocks.8.mlp"),
        ),
    ),
    unexplained=("head.bias",),
    ruled_out=(Attempt(place="head.bias", hypothesis="other epsilon", residual=0.2),),
    notes=("the embedding was not compared",),
)  # fmt: skip


class Page(HTMLParser):
    """Checks that elements nest, and collects tags, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def count(self, tag: str, **attrs: str) -> int:
        return sum(
            t == tag and all(a.get(k.rstrip("_")) == v for k, v in attrs.items())
            for t, a in self.tags
        )


def test_a_passing_report_says_so_first_and_shows_everything_in_order():
    source = html(passing(), certificate={"digest": "abc", "gaps": [1e-15]})
    page = Page(source)
    assert "<h1><strong>PASS</strong> runs/digits</h1>" in source
    assert "86,554" in page.text and "12.3 s" in page.text and "1.5 GiB" in page.text
    assert re.findall("<h2>(.*?)</h2>", source) == [
        "Summary", "Gaps", "Loss curves", "Worst tensors", "Notes", "Settings", "Certificate",
    ]  # fmt: skip
    assert page.count("figure") == 4 + 1  # levels and dtypes, and one loss curve
    assert page.count("svg", class_="bad") == 1  # in the key only
    assert '"digest": "abc"' in page.text
    assert page.count("details") == 1 and page.count("details", open="") == 0


def test_a_failing_report_names_the_first_failure_and_its_diagnosis():
    source = html(failing(), diagnosis=DIAGNOSIS)
    page = Page(source)
    assert "<strong>FAIL</strong>" in source
    assert "5 of 89 quantities differ" in page.text
    assert "layers, float64, blocks.7.mlp: gap 5.0e-01, bound 4.0e-13 (at [0, 1])." in page.text
    assert source.index("<h2>Diagnosis</h2>") < source.index("<h2>Summary</h2>")
    for said in ("tanh GELU", "exact GELU", "3.0e-16", "blocks.8.mlp", "other epsilon", "2.0e-01",
                 "head.bias", "the embedding was not compared"):  # fmt: skip
        assert said in page.text, said
    drawn = source[: source.index("<h2>Loss curves</h2>")]
    assert drawn.count('<svg class="bad"') == 1 + 5  # the key and every failure
    assert "<title>blocks.9.attn: NaN, bound 4.0e-13, FAILED</title>" in drawn
    assert "<title>step 1: NaN, FAILED</title>" in source


def test_the_banner_has_cause_and_place_as_the_diagnosis_does():
    banner = html(failing(), diagnosis=DIAGNOSIS).partition("</h1>")[2].partition("</div>")[0]
    assert (
        "<strong>Cause</strong> activation at <code>blocks.7.mlp</code> and 1 more place" in banner
    )
    assert "JAX tanh GELU, PyTorch exact GELU." in banner
    located = replace(DIAGNOSIS, causes=(), unexplained=("blocks.7.mlp",))
    banner = html(failing(), diagnosis=located).partition("</h1>")[2].partition("</div>")[0]
    assert "given equal inputs, blocks.7.mlp itself differs by 4.0e-01." in banner


def test_causes_that_fit_as_well_stand_beside_the_first():
    rival = "scale: JAX none, PyTorch <1 / head channels>"
    cause = replace(DIAGNOSIS.causes[0], rivals=(rival,))
    page = Page(html(failing(), diagnosis=replace(DIAGNOSIS, causes=(cause,))))
    assert f"Or, explaining it as well: {rival}." in page.text


def test_nan_is_drawn_above_and_zero_below_everything_else():
    gaps = (gap("a", math.nan), gap("b", 1e300), gap("c", 5e-324), gap("d", 0.0))
    source = html(replace(passing(), gaps=gaps))
    marks = re.findall(r'c?y="([\d.]+)"(?: r="2.6")?><title>([abcd]):', source)
    heights = {name: float(y) for y, name in marks}
    assert heights["a"] < heights["b"] < heights["c"] < heights["d"]


@pytest.mark.parametrize("diagnosis", [None, Diagnosis()])
def test_an_empty_report_fails_and_is_still_a_page(diagnosis):
    source = html(
        Report(subject="", parameters=0, level="weights", dtypes=(), gaps=()), diagnosis=diagnosis
    )
    page = Page(source)
    assert "FAIL" in page.text and "Nothing was compared." in page.text
    assert "No training was compared." in page.text


@pytest.mark.parametrize(
    "curves",
    [{}, {"float64": {}}, {"float64": {"jax": [], "torch": []}}, {"float64": {"jax": [1.0]}},
     {"float64": {"jax": [math.nan], "torch": [math.inf, 1e308, -1e308]}},
     {"float64": {"jax": [0.0, 0.0], "torch": [0.0, 0.0]}}],
)  # fmt: skip
def test_every_shape_of_curves_is_a_page(curves):
    Page(html(replace(passing(), curves=curves)))


def test_outputs_that_are_zero_on_both_sides_fail_with_a_reason():
    zero = Gap(level="outputs", dtype="float64", name="logits", gap=0.0, bound=1e-12, scale=0.0)
    page = Page(html(replace(passing(), gaps=(zero,))))
    assert "FAIL" in page.text and page.text.count("zero on both sides, which proves nothing") == 2


def test_hostile_text_stays_text():
    hostile = gap(HOSTILE, 1.0, note=HOSTILE)
    report = replace(
        failing(),
        subject=HOSTILE,
        level=HOSTILE,
        dtypes=(HOSTILE,),
        gaps=(hostile, replace(hostile, dtype=HOSTILE, gap=0.0)),
        notes=(HOSTILE,),
        settings={HOSTILE: HOSTILE},
        curves={HOSTILE: {"jax": [1.0, 2.0], HOSTILE: [1.0]}},
    )
    cause = Cause(place=HOSTILE, what=HOSTILE, jax=HOSTILE, torch=HOSTILE, gap=1, residual=0,
                  places=(HOSTILE, HOSTILE))  # fmt: skip
    diagnosis = Diagnosis(
        location=replace(DIAGNOSIS.location, first=HOSTILE, culprit=HOSTILE, sound=(HOSTILE,)),
        causes=(cause,),
        unexplained=(HOSTILE,),
        ruled_out=(Attempt(place=HOSTILE, hypothesis=HOSTILE, residual=1.0),),
        notes=(HOSTILE,),
    )
    source = html(report, diagnosis=diagnosis, certificate={HOSTILE: [HOSTILE]})
    page = Page(source)
    assert page.count("script") == 1 and page.count("img") == 0
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert "\0" not in source and source.encode()
    assert "alert('x')" in page.text


def test_the_page_reaches_for_nothing():
    source = html(failing(), diagnosis=DIAGNOSIS, certificate={})
    assert f'http-equiv="Content-Security-Policy" content="{POLICY}"' in source
    assert "default-src 'none'" in POLICY
    assert not re.findall(r"https?:", source)
    assert not re.findall(r"@import|url\(|<(?:iframe|object|embed|img)", source)
    links = [attrs for tag, attrs in Page(source).tags if "src" in attrs or "href" in attrs]
    assert links == [{"rel": "icon", "href": "data:,"}]


def test_thinning_keeps_every_failure_and_every_peak():
    values = [1e-15 * (1 + i % 7) for i in range(30_000)]
    failed = [11, 12, 29_998]
    peak = 17_003
    values[peak] = 1.0
    shown = thinned(values, failed)
    assert {*failed, peak, 0, 29_999} <= set(shown) and len(shown) <= LIMIT + 5
    assert thinned(values[:LIMIT]) == list(range(LIMIT))
    report = replace(passing(), gaps=tuple(gap(f"t{i}", v) for i, v in enumerate(values)))
    page = Page(html(report))
    assert "of 30,000 are drawn" in page.text and page.text.count("t17003") >= 2


def test_the_worst_come_first():
    rows = re.findall(r'<tr><th scope="row" class="name" data-value="(.*?)">', html(failing()))
    assert rows[:2] == ["blocks.9.attn", "blocks.9.mlp"] and len(rows) == WORST


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_reach_the_contrast_of_wcag_aa():
    css = files("parity").joinpath("report.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colour = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        pairs = [(f, b) for b in ("page", "card") for f in colour
                 if f not in ("page", "card", "rule", "on-verdict")]  # fmt: skip
        for front, back in [*pairs, ("on-verdict", "pass"), ("on-verdict", "fail")]:
            light, dark = sorted((luminance(colour[front]), luminance(colour[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


@pytest.fixture
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install playwright"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


def test_in_a_browser(browser, tmp_path):
    file = tmp_path / "report.html"
    report = replace(failing(), subject="x" * 300)
    file.write_text(html(report, diagnosis=DIAGNOSIS, certificate={"k": "v" * 300}))
    page = browser.new_page(viewport={"width": 320, "height": 640})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 320

    first = page.locator("table.sortable tbody th")
    header = page.locator("table.sortable thead th").first
    before = first.all_text_contents()
    header.get_by_role("button").click()
    up = first.all_text_contents()
    assert header.get_attribute("aria-sort") == "ascending" and up != before
    assert page.locator("table.sortable [aria-sort]").count() == 1
    page.keyboard.press("Enter")  # the button keeps the focus
    down = first.all_text_contents()
    assert header.get_attribute("aria-sort") == "descending"
    assert down[0] == up[-1] and sorted(up) == sorted(down) == sorted(before)

    page.get_by_role("button", name="Gap", exact=True).click()
    shown = page.locator("table.sortable tbody tr td:nth-child(4)").all_text_contents()
    assert set(shown[:2]) == {"NaN", "∞"} and shown[2] == "5.0e-01"
    assert not complaints
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]


def test_in_a_browser_without_scripts(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(html(failing()))
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(file.as_uri())
    assert page.locator("table.sortable tbody tr").count() == WORST
    assert page.get_by_role("button").count() == 0
    assert page.locator("svg.area").first.is_visible()
