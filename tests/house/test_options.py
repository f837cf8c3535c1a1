"""Every option that a message, a docstring or a page names is one that a program of ours takes."""

import argparse
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from parity.arguments import parser
from vit_data.recipe import Recipe
from vit_jax import probe, visualize

ROOT = Path(__file__).parents[2]
PACKAGES = ("vit_spec", "vit_data", "vit_jax", "vit_torch", "parity", "vitwin")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9._-]*[a-z0-9]")
OTHERS = {
    *("--help", "--version"),
    *("--no-proof", "--model"),  # of the training program, see vitwin/arguments.py
    "--parity-html",  # of the pytest plugin, see vitwin/pytest_plugin.py
    *("--logdir", "--worker", "--zone", "--accelerator-type", "--command", "--tpu-type"),  # others'
    *("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"),  # SLURM's
    *("--data_dir", "--file_format"),  # tfds build
    *("--kills", "--memory", "--reduced"),  # of programs in `tests`
}

OF_OTHERS = ("ci.md", "performance.md")  # pages with options of pip, pytest and the benchmarks


def of_recipe(kind=Recipe, before=""):
    """The options of the training program."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = f"{before}{field.name.replace('_', '-')}"
        if is_dataclass(hints[field.name]):
            yield from of_recipe(hints[field.name], f"{name}.")
        yield f"--{name}"
        *parts, last = name.split(".")
        yield "--" + ".".join([*parts, f"no-{last}"])


def of_parser(found):
    """The options of a parser and of its commands."""
    for action in found._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from of_parser(command)


KNOWN = OTHERS | {*of_recipe()} | {*of_parser(parser())}
KNOWN |= {*of_parser(probe._parser()), *of_parser(visualize._parser())}


def test_every_option_that_is_named_exists():
    files = [f for package in PACKAGES for f in (ROOT / package).rglob("*.py")]
    files += [ROOT / "train.py", ROOT / "README.md", *ROOT.glob("C*.md")]
    files += [page for page in (ROOT / "docs").glob("*.md") if page.name not in OF_OTHERS]
    named = {(f.name, option) for f in files for option in OPTION.findall(f.read_text())}
    assert not sorted((name, option) for name, option in named if option not in KNOWN)
