"""The command `parity`. Exit codes: 0 pass, 1 mismatch, 2 wrong usage or broken input."""

import argparse
import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from parity import changing
from parity import conversion_outputs as outputs
from parity.arguments import parser
from parity.certificate import certificate
from parity.certificate_file import beside, to_json, writable, write_text
from parity.choice import Choice
from parity.convert import FORMATS, converted
from parity.inspection import inspect
from parity.memory import return_freed_memory
from parity.verify import verify
from vit_spec import count_parameters, extras, get, variants
from vit_spec.names import plain, printable
from vit_spec.variants import ALIASES

MISMATCH, USAGE, TERMINATED = 1, 2, 143
FLAGS = {
    "source": "--from",
    "target": "--to",
    "model": "--model",
    "entry": "--entry",
    "prefix": "--prefix",
    "leave_out": "--leave-out",
}
CHOICE = ("entry", "prefix", "leave_out")  # of these, what `inspect` has too


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = parser().parse_args(arguments)
    if arguments is None:  # as a program; what is half-written is removed on the way out
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log is not ours
    return_freed_memory()
    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()  # here, where a closed pipe is caught
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return getattr(options, "code", 0)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _print(f"parity: {_message(error, options.command)}", sys.stderr)
        return MISMATCH if isinstance(error, outputs.Disagreement) else USAGE
    except Exception:  # a fault of this program, which is no mismatch
        traceback.print_exc()
        return USAGE
    except KeyboardInterrupt:
        print("parity: interrupted; nothing half-written was left", file=sys.stderr)
        return 130


def _print(text: object, file: TextIO | None = None) -> None:
    """Prints lines that may have names and texts of files in them."""
    print(printable(text, lines=True), file=file)


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
    _print(render(report))
    for what, path in (("certificate", options.json), ("page", options.html)):
        if path:
            _print(f"{what}: {path}")
    return options.code


def _verify(options: argparse.Namespace) -> int:
    from parity.progress import Progress

    with Progress(sys.stderr) as show:
        verification = verify(options.certificate, options.model, options.against, progress=show)
    options.code = 0 if verification.passed else MISMATCH
    _print(verification)
    return options.code


def _diagnose(options: argparse.Namespace) -> int:
    from parity.functions import diagnose
    from parity.progress import Progress
    from parity.render import render_diagnosis

    with Progress(sys.stderr) as show:
        show("both models")
        found = diagnose(options.model, options.twin, level=options.level)
    options.code = (
        MISMATCH if found.advice or found.location or found.causes or found.unexplained else 0
    )
    _print(render_diagnosis(found))
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
        _print("\n".join(f"{bug.group:13}  {bug.name}" for bug in chosen))
        return 0
    with Progress(sys.stderr) as show:
        scores = run.measure(chosen, seeds=options.seeds, progress=show)
    options.code = 0 if scores.passed else MISMATCH
    if options.json:
        write_text(options.json, json.dumps(table.to_json(scores), indent=2) + "\n")
    _print(table.render(scores))
    return options.code


def _convert(options: argparse.Namespace) -> int:
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        _print(f"note: {_flags(text)}")

    written, record = converted(
        options.src,
        options.dst,
        source=options.source,
        target=options.target,
        model=options.model,
        image_size=_image_size(options.image_size),
        choice=Choice.of(options.entry, options.prefix, options.leave_out),
        change=changing.parsed(options.change),
        max_shard_size=options.max_shard_size,
        certificate=options.certificate,
        verify=options.verify,
        note=note,
    )
    _print(f"wrote {written}")
    if record:
        _print(outputs.text(record["outputs"]))
    for remark in record.get("remarks", [])[len(notes) :]:
        _print(f"note: {_flags(remark)}")
    if options.certificate:
        _print(f"certificate: {beside(written)}")
    return 0


def _image_size(sides: list[int] | None) -> tuple[int, int] | None:
    """Height and width, of which one stands for both."""
    if sides is None or len(sides) == 2:
        return (sides[0], sides[1]) if sides else None
    if len(sides) > 2:
        raise ValueError(f"--image-size has {len(sides)} numbers: give height and width")
    return sides[0], sides[0]


def _inspect(options: argparse.Namespace) -> int:
    where = {"entry": options.entry, "prefix": options.prefix, "leave_out": options.leave_out}
    summary = inspect(options.path, **where, strict=False)
    total = sum(math.prod(shape) for _, shape in summary.tensors.values())
    dtypes = ", ".join(dict.fromkeys(dtype for dtype, _ in summary.tensors.values()))
    _print(
        f"{summary.path}: {summary.format}, {len(summary.tensors)} tensors, {total:,} "
        f"values, {dtypes}"
    )
    if summary.header:
        fields = summary.header.config.to_dict()
        _print(f"\nconfig (family {plain(summary.header.family)})")
        _print("\n".join(f"  {name:24} {value}" for name, value in fields.items()))
    else:
        _print("\nno config in the file")
    for note in summary.notes:
        _print(f"\nnote: {_flags(note, options.command)}")
    if summary.optim is not None:
        _print(f"\ntraining state after step {summary.step:,} of {summary.optim.total_steps:,}")
        fields = dataclasses.asdict(summary.optim)
        _print("\n".join(f"  {name:24} {value}" for name, value in fields.items()))
    if summary.entries:
        _print("\nentries")
        _print("\n".join(f"  {plain(name):24} {what}" for name, what in summary.entries.items()))
    _print("\ntensors")
    tensors = {plain(name): about for name, about in summary.tensors.items()}
    width = max(map(len, tensors), default=0)
    for name, (dtype, shape) in tensors.items():
        _print(f"  {name:{width}}  {dtype:8} {' x '.join(map(str, shape)) or 'scalar'}")
    if summary.problem:
        raise ValueError(summary.problem)
    return 0


def _formats(options: argparse.Namespace) -> int:
    width = max(map(len, FORMATS))
    _print("\n".join(f"{name:{width}}  {about}" for name, about in FORMATS.items()))
    return 0


def _variants(options: argparse.Namespace) -> int:
    aliases = {full: alias for alias, full in ALIASES.items()}
    _print(
        f"{'name':44} {'alias':12} {'width':>5} {'depth':>5} {'heads':>5} {'mlp':>5} "
        f"{'parameters':>15}"
    )
    for name in variants():
        config = get(name)
        alias = aliases.get(name, "")
        _print(
            f"{name:44} {alias:12} {config.width:5} {config.depth:5} {config.num_heads:5} "
            f"{config.mlp_width:5} {count_parameters(config):15,}"
        )
    return 0


def _message(error: Exception, command: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return extras.explain(error, "this command") or str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {Path(error.filename)}" if error.filename else ""
        return f"{error.strerror}{where}"
    return _flags(str(error), command)


def _flags(text: str, command: str = "convert") -> str:
    """A message with the options of the command in place of Python's arguments."""
    to = " to `parity convert`" if command == "inspect" else ""  # which alone has some of them
    for name, flag in (("verify=False", "--no-verify"), ("max_shard_size", "--max-shard-size")):
        text = text.replace(name, flag)
    text = re.sub(r"\bchange=(\{[^}]*\})", lambda match: changing.option(match[1]), text)
    text = re.sub(r"\bimage_size=\((\d+), (\d+)\)", rf"--image-size \1 \2{to}", text)
    names = "|".join(FLAGS)
    text = re.sub(rf"\b({names})=(?=[\s,;]|$)", lambda match: FLAGS[match[1]], text)
    return re.sub(
        rf"\b({names})='([^']*)'",
        lambda match: (
            f"{FLAGS[match[1]]} {shlex.quote(match[2])}{'' if match[1] in CHOICE else to}"
        ),
        text,
    )


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "verify": _verify,
    "diagnose": _diagnose,
    "mutants": _mutants,
    "convert": _convert,
    "inspect": _inspect,
    "formats": _formats,
    "variants": _variants,
}


if __name__ == "__main__":
    sys.exit(main())
