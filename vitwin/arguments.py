"""The command line of the training program: which recipe, and its fields."""

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

from vit_data.recipe import Recipe
from vit_data.recipes import RECIPES
from vit_jax.run_folder import RECIPE
from vit_spec import ViTConfig, get
from vit_spec.names import unknown_name

ABOUT = """

Beside the fields below:
  --model NAME        a variant of `parity variants`, such as S/16; fields of it can follow
  --init CHECKPOINT   takes the model and its normalisation from there as well
  --no-proof          is --proof none
  --resume            without a recipe: as the run in --out was started"""


def program() -> str:
    """How the training program was called, for messages."""
    return "vitwin train" if sys.argv[0] == "vitwin train" else "python train.py"


def parse(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe's name and its fields from a command line. Raises `ValueError`."""
    import tyro

    first, rest = None, list(arguments)
    if rest in (["-h"], ["--help"]):
        print(overview())
        raise SystemExit(0)
    if rest and not rest[0].startswith("-"):
        first = rest.pop(0)
    rest = [part for a in rest for part in (("--proof", "none") if a == "--no-proof" else (a,))]
    name, base = _base(first, rest)
    variant = _value(rest, "--model")
    if variant is not None:
        base = _with_model(base, get(variant))
        rest = _without(rest, "--model")
    if _value(rest, "--init") is not None:
        told = tyro.cli(Recipe, default=base, args=_beginning(rest, "--init"))
        if told.init not in (None, base.init):
            base = _started(base, told, name, rest, follow=variant is None)
    about = inspect.getdoc(RECIPES.get(name, RECIPES["folder"])) or ""
    about = re.sub(r"\n(Cost|Result):", r"\n\n\1:", about) + ABOUT
    called = f"{program()} {first or ''}".strip()
    with _whole_paragraphs():
        recipe = tyro.cli(Recipe, default=base, args=rest, prog=called, description=about)
    if _value(rest, "--model.image-size") and not _value(rest, "--preprocessing.size"):
        facts = dataclasses.replace(recipe.preprocessing, size=None)  # not the checkpoint's
        recipe = dataclasses.replace(recipe, preprocessing=facts)
    return name, recipe


def overview() -> str:
    """What `--help` without a recipe shows."""
    rows = {name: (inspect.getdoc(make) or "").partition("\n")[0] for name, make in RECIPES.items()}
    rows["path/to/images"] = "the recipe `folder` for your own images, one subfolder per class"
    width = max(map(len, rows))
    return "\n".join(
        [
            "Train a Vision Transformer in JAX, and prove that its PyTorch twin computes the same.",
            "",
            f"usage: {program()} [RECIPE] [--FIELD VALUE ...]",
            "",
            "recipes (without one: digits)",
            *(f"  {name:{width}}  {text}" for name, text in rows.items()),
            "",
            f"{program()} RECIPE --help               every field with its default",
            f"{program()} folder --data NAME          a data set of tensorflow-datasets",
            f"{program()} RECIPE --init CHECKPOINT    fine-tune: hf://ORG/NAME, a folder or a file",
            f"{program()} --resume --out RUN          resume an interrupted run",
            f"{program()} --eval-only --out RUN       test a run again",
        ]
    )


def _base(first: str | None, rest: list[str]) -> tuple[str, Recipe]:
    """Name and fields of the recipe, before the fields of the command line."""
    out = _value(rest, "--out")
    if first is None and {"--resume", "--eval-only"} & {*rest}:
        folder = Path(out or "runs/digits")
        if (stored := stored_recipe(folder)) is not None:
            return folder.name, dataclasses.replace(stored, out=str(folder))
        if out is not None and "--resume" in rest:
            raise ValueError(
                f"{out} holds no run to resume: to start one there, give its recipe, such as "
                f"{program()} digits --resume --out {out}"
            )
    if (first or "digits") in RECIPES:
        return first or "digits", RECIPES[first or "digits"]()
    path = Path(first or "")
    if path.is_dir():
        return f"folder_{path.resolve().name}", dataclasses.replace(RECIPES["folder"](), data=first)
    problem = f"there is no folder {first}; {unknown_name('recipe', str(first), RECIPES)}"
    if re.fullmatch(r"[a-z][a-z0-9_]*([/:][\w.:/-]+)?", str(first)):
        problem += f"\nFor a data set of tensorflow-datasets: {program()} folder --data {first}"
    raise ValueError(problem)


def stored_recipe(folder: Path) -> Recipe | None:
    """The recipe that the run in a folder was started with, or the run that a checkpoint is of.

    Raises `ValueError` for a file that is none.
    """
    places = (folder, *folder.absolute().parents[1:2])  # RUN/checkpoints/STEP
    file = next((p / RECIPE for p in places if (p / RECIPE).is_file()), None)
    if file is None:
        return None
    try:
        return Recipe.from_dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the recipe of a run: {error}") from error


def _started(base: Recipe, told: Recipe, name: str, rest: list[str], *, follow: bool) -> Recipe:
    """The recipe with normalisation, and if it is to `follow` the model, of what `told.init` names.

    A run that was started from the same has noted both, and may have outlived the checkpoint.
    """
    run = stored_recipe(Path(_value(rest, "--out") or base.out or f"runs/{name}"))
    if run is not None and run.init == told.init and "--overwrite" not in rest:
        config, facts = run.model, run.preprocessing
    else:
        from parity.starting import initial_header

        header = initial_header(str(told.init), **told.init_told)
        config, facts = header.config, header.preprocessing
    if base.init is not None:  # made to fine-tune at a size of its own
        config = config.replace(image_size=base.model.image_size)
        facts = dataclasses.replace(base.preprocessing, mean=facts.mean, std=facts.std)
    base = dataclasses.replace(base, preprocessing=facts)
    return _with_model(base, config) if follow else base


def _with_model(base: Recipe, config: ViTConfig) -> Recipe:
    """Another architecture, with what the recipe says of training it."""
    kept = {name: getattr(base.model, name) for name in ("dropout", "drop_path")}
    return dataclasses.replace(base, model=config.replace(**kept))


def _value(arguments: list[str], flag: str) -> str | None:
    """The value that a command line gives to a flag, the last one that it does."""
    found = None
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else " ".join(arguments[i + 1 : i + 2])
    return found


def _without(arguments: list[str], flag: str) -> list[str]:
    """A command line without a flag and its values."""
    pairs = zip(arguments, ["", *arguments[:-1]], strict=True)
    return [w for w, last in pairs if flag not in (w, last) and not w.startswith(f"{flag}=")]


def _beginning(arguments: list[str], start: str) -> list[str]:
    """The flags of a command line that begin so, and their values."""
    found, inside = [], False
    for word in arguments:
        inside = word.startswith(start) if word.startswith("--") else inside
        found += [word] * inside
    return found


@contextmanager
def _whole_paragraphs() -> Iterator[None]:
    """Has tyro join the lines of a docstring: it keeps those that are indented, as in a class."""
    from tyro import _docstrings

    name = "parse_docstring_from_object"
    read = getattr(_docstrings, name, None)
    if read is None:  # of other versions
        yield
        return
    join = cache(lambda kind: {n: " ".join(text.split()) for n, text in read(kind).items()})
    with patch.object(_docstrings, name, join):
        yield
