"""What the command `parity` is given: its subcommands and their options."""

import argparse

from parity.convert import FORMATS
from parity.report import LEVELS
from vit_spec.version import __version__

DTYPES = ("float64", "float32", "bfloat16", "float16")


def parser() -> argparse.ArgumentParser:
    """The parser of the command `parity`; what it parses has the name of its `command`."""
    found = argparse.ArgumentParser(
        prog="parity", description="Port ViT weights between JAX and PyTorch, and prove it."
    )
    found.add_argument("--version", action="version", version=f"parity of vitwin {__version__}")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check", help="compare both sides: outputs, layers, gradients, training"
    )
    check.add_argument(
        "model", metavar="NAME|DIR|FILE", help="variant (random weights) or checkpoint"
    )
    check.add_argument(
        "--against", metavar="DIR|FILE", help="checkpoint for the PyTorch side; default: the same"
    )
    check.add_argument(
        "--level", choices=LEVELS, default="training", help="each level includes those before it"
    )
    check.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float64"], help="float64 is the proof"
    )
    check.add_argument("--batch-size", type=int, default=3, help="images in a batch (default: 3)")
    check.add_argument(
        "--steps", type=int, default=20, help="AdamW steps of the level training (default: 20)"
    )
    check.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    check.add_argument("--json", metavar="FILE", help="write a certificate for `parity verify`")
    check.add_argument("--html", metavar="FILE", help="write the report as a page")

    verification = commands.add_parser("verify", help="repeat what a certificate records")
    verification.add_argument(
        "certificate",
        metavar="CERTIFICATE",
        help="of `parity check --json`, or what `parity convert` wrote",
    )
    verification.add_argument(
        "--model", metavar="NAME|DIR|FILE", help="default: what the certificate names"
    )
    verification.add_argument(
        "--against", metavar="DIR|FILE", help="PyTorch side, or source of a conversion"
    )

    diagnosis = commands.add_parser("diagnose", help="where two models differ, and why")
    diagnosis.add_argument("model", metavar="A", help="checkpoint of the JAX side")
    diagnosis.add_argument("twin", metavar="B", help="checkpoint of the PyTorch side")
    diagnosis.add_argument("--level", choices=LEVELS, default="gradients")

    bugs = commands.add_parser(
        "mutants", help="how many known bugs the checks catch, and how many the diagnosis names"
    )
    bugs.add_argument("--only", metavar="TEXT", default="", help="bugs whose name or group has it")
    bugs.add_argument("--list", action="store_true", help="only the names and groups of the bugs")
    bugs.add_argument("--seeds", type=int, default=200, help="healthy pairs (default: 200)")
    bugs.add_argument("--json", metavar="FILE", help="write everything that was measured")

    conversion = commands.add_parser("convert", help="rewrite a checkpoint in another format")
    conversion.add_argument(
        "src", metavar="SRC", help="a file, a folder, hf://ORG/NAME, or FILE:PART, a part of it"
    )
    conversion.add_argument(
        "dst",
        metavar="DST",
        help="what is there is replaced only if its certificate says that a conversion to this "
        "format wrote it",
    )
    conversion.add_argument(
        "--from", dest="source", choices=FORMATS, help="format of SRC; default: told from content"
    )
    conversion.add_argument(
        "--to", dest="target", choices=FORMATS, help="format of DST; default: told from the path"
    )
    conversion.add_argument(
        "--model",
        metavar="NAME|FILE|DIR",
        help="variant, config.json or checkpoint directory, for a file without a config of its own",
    )
    _add_choice(conversion)
    conversion.add_argument(
        "--image-size",
        nargs="+",
        type=int,
        metavar=("H", "W"),
        help="height and width in pixels, where the number of positions does not say it",
    )
    conversion.add_argument(
        "--change",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the model, such as activation=gelu_tanh norm_eps=1e-6, for a format "
        "that has no others; how far the outputs move is measured and recorded",
    )
    conversion.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help="write several files of up to SIZE, such as 5GB, and their index (transformers only)",
    )
    conversion.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_false",
        help="write no certificate; DST is compared with SRC all the same, unless with --no-verify",
    )
    conversion.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="compare bits alone, not the outputs of both sides; imports no framework",
    )

    inspection = commands.add_parser("inspect", help="what a checkpoint holds")
    inspection.add_argument("path", metavar="FILE|DIR")
    _add_choice(inspection)

    commands.add_parser("formats", help="all formats of checkpoints")
    commands.add_parser("variants", help="all variants with sizes and parameter counts")
    return found


def _add_choice(command: argparse.ArgumentParser) -> None:
    """Which tensors of a file are the model."""
    command.add_argument(
        "--entry",
        "--weights",
        metavar="NAME",
        help="where in the file the model is, such as state_dict_ema; default: what fits, and of "
        "several, which is said, the moving average",
    )
    command.add_argument(
        "--prefix", metavar="TEXT", help="what its names begin with, such as module.encoder."
    )
    command.add_argument(
        "--leave-out",
        metavar="PATTERN",
        action="append",
        default=[],
        help="names that are not part of the model, such as 'projector.*'; may be repeated",
    )
