"""What the packages need beside NumPy, by the extra that brings it. Says so in one line."""

import importlib.util
import sys

EXTRAS = {
    "jax": ("jax", "jaxlib", "flax", "optax"),
    "torch": ("torch",),
    "train": (
        *("PIL", "absl", "google", "grain", "importlib_resources", "orbax", "sklearn"),
        *("tensorboardX", "tensorflow_datasets", "tqdm", "tyro"),
    ),
    "orbax": ("tensorstore",),
    "hub": ("huggingface_hub",),
}
"""Top-level modules of each extra of `pyproject.toml`."""


def require(who: str, *modules: str) -> None:
    """Raises `ModuleNotFoundError` naming all of `modules` that are missing, and their extras.

    While `python -m PACKAGE.PROGRAM` imports its package, prints that and ends with exit code 2.
    """
    missing = [name for name in modules if not is_installed(name)]
    if not missing:
        return
    if sys.argv[:1] == ["-m"]:  # Python's mark of that moment; a program has no traceback
        exit_without(who, *missing)
    raise ModuleNotFoundError(needs(who, *missing), name=missing[0])


def exit_without(who: str, *modules: str) -> None:
    """Ends a program that lacks some of `modules`, with one line and exit code 2."""
    if missing := [name for name in modules if not is_installed(name)]:
        print(needs(who, *missing), file=sys.stderr)
        raise SystemExit(2)


def needs(who: str, *modules: str) -> str:
    """`vit_jax needs jax: pip install 'vitwin[jax]'` and so on, for modules of `EXTRAS`."""
    extras = dict.fromkeys(extra for name in modules if (extra := extra_of(name)))
    names = [name.partition(".")[0] for name in modules]
    return f"{who} needs {', '.join(names)}: {install(*extras)}"


def explain(error: ModuleNotFoundError, who: str) -> str | None:
    """What to tell the user of a program; None if no extra brings the missing module."""
    if f" needs {str(error.name).partition('.')[0]}" in str(error):
        return str(error)
    return needs(who, error.name) if error.name and extra_of(error.name) else None


def extra_of(module: str) -> str | None:
    """The extra that brings a module."""
    top = module.partition(".")[0]
    return next((extra for extra, names in EXTRAS.items() if top in names), None)


def install(*extras: str) -> str:
    """The command that installs extras of this project."""
    names = f"[{','.join(extras)}]"
    return f"pip install 'vitwin{names}', or in a checkout of vitwin: pip install '.{names}'"


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not, but the packages around it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package around it
        return False
    except ValueError:  # loaded by other means than a file
        return True
