"""The command `parity`. Exit codes: 0 pass, 1 mismatch, 2 wrong usage or broken input."""

import argparse
import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from parity import conversion_outputs as outputs
from parity.certificate import certificate
from parity.certificate_file import beside, to_json, writable, write_text
from parity.certificate_file import read as read_certificate
from parity.convert import FORMATS, TARGETS, convert, inspect
from parity.memory import return_freed_memory
from parity.report import LEVELS
from parity.verify import verify
from vit_spec import count_parameters, get, variants
from vit_spec.variants import ALIASES

DTYPES = ("float64", "float32", "bfloat16", "float16")
MISMATCH, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log is not ours
    return_freed_memory()
    try:
        code = run(options)
        sys.stdout.flush()  # here, where a closed pipe is caught
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return getattr(options, "code", 0)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"parity: {_message(error)}", file=sys.stderr)
        return MISMATCH if isinstance(error, outputs.Disagreement) else USAGE
    except Exception:  # a fault of this program, which is no mismatch
        traceback.print_exc()
        return USAGE
    except KeyboardInterrupt:
        print("parity: interrupted; nothing half-written was left", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity", description="Port ViT weights between JAX and PyTorch, and prove it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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
    check.set_defaults(run=_check)

    verification = commands.add_parser("verify", help="repeat what a certificate records")
    verification.add_argument("certificate", metavar="CERTIFICATE")
    verification.add_argument(
        "--model", metavar="NAME|DIR|FILE", help="default: what the certificate names"
    )
    verification.add_argument(
        "--against", metavar="DIR|FILE", help="PyTorch side, or source of a conversion"
    )
    verification.set_defaults(run=_verify)

    diagnosis = commands.add_parser("diagnose", help="where two models differ, and why")
    diagnosis.add_argument("model", metavar="A", help="checkpoint of the JAX side")
    diagnosis.add_argument("twin", metavar="B", help="checkpoint of the PyTorch side")
    diagnosis.add_argument("--level", choices=LEVELS, default="gradients")
    diagnosis.set_defaults(run=_diagnose)

    bugs = commands.add_parser(
        "mutants", help="how many known bugs the checks catch, and how many the diagnosis names"
    )
    bugs.add_argument("--only", metavar="TEXT", default="", help="bugs whose name or group has it")
    bugs.add_argument("--list", action="store_true", help="only the names and groups of the bugs")
    bugs.add_argument("--seeds", type=int, default=200, help="healthy pairs (default: 200)")
    bugs.add_argument("--json", metavar="FILE", help="write everything that was measured")
    bugs.set_defaults(run=_mutants)

    conversion = commands.add_parser("convert", help="rewrite a checkpoint in another format")
    conversion.add_argument("src", metavar="SRC")
    conversion.add_argument("dst", metavar="DST")
    conversion.add_argument(
        "--from", dest="source", choices=FORMATS, help="format of SRC; default: told from content"
    )
    conversion.add_argument(
        "--to", dest="target", choices=TARGETS, help="format of DST; default: told from the path"
    )
    conversion.add_argument(
        "--model",
        metavar="NAME|FILE|DIR",
        help="variant, config.json or checkpoint directory, for a file without a config of its own",
    )
    conversion.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_false",
        help="do not read DST back, and write no certificate beside it",
    )
    conversion.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="compare bits alone, not the outputs of both sides; imports no framework",
    )
    conversion.set_defaults(run=_convert)

    inspection = commands.add_parser("inspect", help="what a checkpoint holds")
    inspection.add_argument("path", metavar="FILE|DIR")
    inspection.set_defaults(run=_inspect)

    commands.add_parser("formats", help="all formats of checkpoints").set_defaults(run=_formats)
    commands.add_parser(
        "variants", help="all variants with sizes and parameter counts"
    ).set_defaults(run=_variants)
    return parser


def _check(options: argparse.Namespace) -> int:
    outputs = [writable(path) for path in (options.json, options.html) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ValueError(f"--json and --html are both {outputs[0]}: choose two files")
    from parity.check import check
    from parity.html import html
    from parity.progress import Progress
    from parity.render import render

    with Progress(sys.stderr) as show:
        report = check(
            options.model,
            options.against,
            level=options.level,
            dtype=options.dtype,
            batch_size=options.batch_size,
            steps=options.steps,
            seed=options.seed,
            progress=show,
        )
    options.code = 0 if report.passed else MISMATCH
    record = certificate(report) if outputs else {}
    if options.json:
        write_text(options.json, to_json(record))
    if options.html:
        write_text(options.html, html(report, certificate=record))
    print(render(report))
    for what, path in (("certificate", options.json), ("page", options.html)):
        if path:
            print(f"{what}: {path}")
    return options.code


def _verify(options: argparse.Namespace) -> int:
    from parity.progress import Progress

    with Progress(sys.stderr) as show:
        verification = verify(options.certificate, options.model, options.against, progress=show)
    options.code = 0 if verification.passed else MISMATCH
    print(verification)
    return options.code


def _diagnose(options: argparse.Namespace) -> int:
    from parity.functions import diagnose
    from parity.progress import Progress
    from parity.render import render_diagnosis

    with Progress(sys.stderr) as show:
        show("both models")
        found = diagnose(options.model, options.twin, level=options.level)
    options.code = MISMATCH if found.location or found.causes or found.unexplained else 0
    print(render_diagnosis(found))
    return options.code


def _mutants(options: argparse.Namespace) -> int:
    if options.json:
        writable(options.json)
    from parity.mutants import run, table
    from parity.progress import Progress

    chosen = [m for m in run.MUTANTS if options.only in m.name or options.only == m.group]
    if not chosen and options.only:
        raise ValueError(f"no bug has {options.only!r} in its name: see `parity mutants --list`")
    if options.list:
        print("\n".join(f"{bug.group:13}  {bug.name}" for bug in chosen))
        return options.code
    with Progress(sys.stderr) as show:
        scores = run.measure(chosen, seeds=options.seeds, progress=show)
    options.code = 0 if scores.passed else MISMATCH
    if options.json:
        write_text(options.json, json.dumps(table.to_json(scores), indent=2) + "\n")
    print(table.render(scores))
    return options.code


def _convert(options: argparse.Namespace) -> int:
    written = convert(
        options.src,
        options.dst,
        source=options.source,
        target=options.target,
        model=options.model,
        certificate=options.certificate,
        verify=options.verify,
    )
    print(f"wrote {written}")
    if options.certificate:
        record = read_certificate(beside(written))
        print(outputs.text(record["outputs"]))
        for remark in record.get("remarks", []):
            print(f"note: {remark}")
        print(f"certificate: {beside(written)}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    summary = inspect(options.path)
    total = sum(math.prod(shape) for _, shape in summary.tensors.values())
    dtypes = ", ".join(dict.fromkeys(dtype for dtype, _ in summary.tensors.values()))
    print(
        f"{summary.path}: {summary.format}, {len(summary.tensors)} tensors, {total:,} "
        f"values, {dtypes}"
    )
    if summary.header:
        fields = summary.header.config.to_dict()
        print("\nconfig (family " + summary.header.family + ")")
        print("\n".join(f"  {name:24} {value}" for name, value in fields.items()))
    else:
        print("\nno config in the file")
    if summary.optim is not None:
        print(f"\ntraining state after step {summary.step:,} of {summary.optim.total_steps:,}")
        fields = dataclasses.asdict(summary.optim)
        print("\n".join(f"  {name:24} {value}" for name, value in fields.items()))
    print("\ntensors")
    width = max((len(name) for name in summary.tensors), default=0)
    for name, (dtype, shape) in summary.tensors.items():
        print(f"  {name:{width}}  {dtype:8} {' x '.join(map(str, shape)) or 'scalar'}")
    return 0


def _formats(options: argparse.Namespace) -> int:
    width = max(map(len, FORMATS))
    print("\n".join(f"{name:{width}}  {about}" for name, about in FORMATS.items()))
    return 0


def _variants(options: argparse.Namespace) -> int:
    aliases = {full: alias for alias, full in ALIASES.items()}
    print(
        f"{'name':44} {'alias':12} {'width':>5} {'depth':>5} {'heads':>5} {'mlp':>5} "
        f"{'parameters':>15}"
    )
    for name in variants():
        config = get(name)
        alias = aliases.get(name, "")
        print(
            f"{name:44} {alias:12} {config.width:5} {config.depth:5} {config.num_heads:5} "
            f"{config.mlp_width:5} {count_parameters(config):15,}"
        )
    return 0


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = "torch" if error.name == "torch" else "jax"
        return f"this command needs {error.name}: pip install 'vitwin[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        where = f" {Path(error.filename)}" if error.filename else ""
        return f"{error.strerror}:{where}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
