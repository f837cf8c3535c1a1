"""Writes the tables and plots of docs/performance.md from benchmarks/results.

    python -m benchmarks.report

What stands between two markers of the page, `<!-- train -->` and `<!-- /train -->`, is replaced;
the rest is written by hand. Of the files that differ only in their date, the newest counts.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _machine, _svg, compile, convert, data, infer, parity, train
from benchmarks._blocks import page
from benchmarks._machine import RESULTS

MODULES: dict[str, Any] = {
    "train": train, "infer": infer, "compile": compile, "parity": parity, "convert": convert,
    "data": data,
}  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
DATE = re.compile(r"-\d{4}-\d\d-\d\d$")


def newest(folder: Path) -> dict[str, dict[str, Any]]:
    """Records by the name of their file without its date."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stem)
    return {DATE.sub("", file.stem): json.loads(file.read_text(encoding="utf-8")) for file in files}


def sections(records: dict[str, dict[str, Any]], plots: str) -> dict[str, str]:
    """Markdown of every benchmark; `plots` is where the page finds the plots."""
    found = dict.fromkeys(MODULES, "")
    for name, record in records.items():
        benchmark = name.partition("-")[0]
        head = f"{record.get('hardware') or record['machine']['processor']}, {record['date']}"
        head += "".join(f", {name}" for name in _apart(record))
        text = page(record, MODULES[benchmark].tables(record))
        picture = f"![{benchmark} on {head}]({plots}/{name}.svg)\n\n" if drawn(record, name) else ""
        found[benchmark] += f"\n### {head}\n\n{versions(record)}\n\n{picture}{text}"
    return {name: text or "\nNo results yet.\n" for name, text in found.items()}


def _apart(record: dict[str, Any]) -> list[str]:
    """What tells a record from others of its machine: another JAX, a library loaded before all."""
    found = [f"jax {record['jax_versions']['jax']}"] if "jax_versions" in record else []
    loaded = record["settings"].get("variables", {}).get("LD_PRELOAD")
    return [*found, loaded] if loaded else found


def drawn(record: dict[str, Any], name: str) -> str:
    """The plot of a record; empty if there is nothing to draw."""
    benchmark = name.partition("-")[0]
    plot = MODULES[benchmark].plot(record)
    return _svg.drawn(plot) if plot.bars else ""


def versions(record: dict[str, Any]) -> str:
    """A line of what was installed, and of the variables that change what runs."""
    found = _machine.listed(record["versions"])
    found += [f"`{k}={v}`" for k, v in record["settings"].get("variables", {}).items()]
    others = ", ".join(_machine.listed(record.get("jax_versions", {})))
    return "With " + ", ".join(found) + "." + (f" vit_jax with {others}." if others else "")


def filled(text: str, found: dict[str, str]) -> str:
    """The page with its generated parts. Raises `ValueError` for a part without its markers."""
    for name, part in found.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"the page has no {begin.strip()} with an {end} after it: add both")
        text = before + begin + part + "\n" + end + after
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page and its plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    records, plots = newest(options.results), options.page.parent / "performance"
    text = filled(options.page.read_text(encoding="utf-8"), sections(records, plots.name))
    plots.mkdir(exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for name, record in records.items():
        if picture := drawn(record, name):
            (plots / f"{name}.svg").write_text(picture, encoding="utf-8")
    options.page.write_text(text, encoding="utf-8")
    print(f"{options.page}: {len(records)} results, {len(list(plots.glob('*.svg')))} plots")


if __name__ == "__main__":
    main()
