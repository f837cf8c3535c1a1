"""The command `vitwin`. Exit codes are those of its subcommands; 2 is wrong usage."""

import sys
from collections.abc import Sequence

from vitwin import __version__

HELP = """usage: vitwin COMMAND ...

  train     train a Vision Transformer, then prove that its PyTorch twin computes the same

vitwin train --help      all recipes
vitwin --version
To carry weights and to compare models there is the command `parity`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in ("", "-h", "--help"):
        print(HELP)
        return 0
    if command == "--version":
        print(f"vitwin {__version__}")
        return 0
    if command != "train":
        print(f"vitwin: unknown command {command!r}: try vitwin --help", file=sys.stderr)
        return 2
    from vitwin import training  # the file `train.py`

    sys.argv = ["vitwin train", *rest[:-1]]
    return training.main()
