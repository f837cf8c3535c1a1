"""Certificates as files: written whole or not at all, and read with every entry checked."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parity.containers.names import BESIDE, SUFFIXES
from vit_spec.checkpoint import CONFIG, WEIGHTS, replacing
from vit_spec.training_state import TRAINING

ASIDE = "aside.safetensors"  # of `parity.aside`
FORMAT = "parity certificate 1"
PARTS = {"weights": WEIGHTS, "config": CONFIG, "training": TRAINING, "aside": ASIDE}
PARTS |= {name: name for name in BESIDE}
"""The files of a checkpoint, in its folder. A plain file is `weights`."""
IN_DIRECTORY, SUFFIX = "parity.json", ".parity.json"

Schema = Any  # a type, a tuple of types, [schema of each element], or {key: schema}
NUMBER = (int, float, str)
NULL = type(None)
TYPES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", NULL: "null"}
REFERENCE = {"kind": str}
ROW = {"level": str, "dtype": str, "compared": int, "failures": int}
ROW |= {"largest_gap": NUMBER, "bound": NUMBER, "name": str}
FILES = {"path": str, "format": str, "sha256": {"weights": str}}
TAKEN = {"entry": str, "prefix": str, "leave_out": [str]}  # each if it was said
MOVED = {"images": int, "size": str, "largest": NUMBER}
SCHEMAS: dict[str, dict[str, Schema]] = {
    "check": {
        "subject": str,
        "verdict": str,
        "config": (dict, NULL),
        "arguments": {
            "model": REFERENCE,
            "against": (dict, NULL),
            "level": str,
            "dtypes": [str],
            "batch_size": int,
            "steps": int,
            "seed": int,
            "others": [str],
        },
        "weights": {"jax": {"state_sha256": str}, "torch": {"state_sha256": str}},
        "levels": [ROW],
        "versions": dict,
        "device": dict,
        "precision": dict,
        "date": str,
    },
    "conversion": {
        "config": dict,
        "source": FILES,
        "target": FILES,
        "tensors": {"weights": int},
        "state_sha256": str,
        "versions": dict,
        "date": str,
    },
}


def file_name(part: str) -> str | None:
    """The file of a part in the folder of a checkpoint: of `PARTS`, or one of several of tensors.

    None for what no certificate has.
    """
    shard = Path(part).name == part and part.endswith(SUFFIXES)
    return PARTS.get(part) or (part if shard else None)


def to_json(certificate: Mapping[str, Any]) -> str:
    """The text of a certificate's file."""
    return json.dumps(certificate, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: str | os.PathLike[str], certificate: Mapping[str, Any]) -> None:
    """Writes a certificate. Raises `OSError` if there is no such directory or the disk refuses."""
    write_text(path, to_json(certificate))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file; what was there before stays until the new one is complete."""
    path = writable(path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable(path: str | os.PathLike[str]) -> Path:
    """The path of a file to be written. Raises `OSError` for a directory, or if it has none."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file in it, {path / 'FILE'}")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written, because {path.parent} is not a directory: make it first"
        )
    return path


def beside(output: str | os.PathLike[str]) -> Path:
    """Where the certificate of a converted file or directory lies."""
    output = Path(output)
    return output / IN_DIRECTORY if output.is_dir() else output.with_name(output.name + SUFFIX)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a certificate; of a directory or file of tensors, that of its conversion.

    Raises `FileNotFoundError`, or `ValueError` if it is not JSON, has another format, lacks
    entries, has entries of another type (all in one message), or contradicts itself.
    """
    path = located(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ValueError(
            f"{path} has format {found!r}, not {FORMAT!r}: it is no certificate of this parity"
        )
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in SCHEMAS:
        raise ValueError(f"{path} has kind {kind!r}: known are {', '.join(SCHEMAS)}")
    problems = list(_problems(content, SCHEMAS[kind])) or list(_contradictions(content))
    if problems:
        raise ValueError(f"{path} is damaged: {'; '.join(problems)}: write it again")
    return content


def located(path: str | os.PathLike[str]) -> Path:
    """The file of a certificate, which lies in a directory or beside a file of tensors."""
    path = Path(path)
    converted = path.is_dir() or path.suffix in SUFFIXES
    file = beside(path) if converted else path
    if not file.is_file():
        way = (
            f": {path} has no certificate of a conversion: give what `parity convert` wrote, or "
            "the FILE of `parity check --json FILE`"
        )
        raise FileNotFoundError(f"{file} does not exist{way if converted else ''}")
    return file


def _problems(value: Any, schema: Schema, where: str = "") -> Iterator[str]:
    """What of a value is missing or of another type."""
    kind = schema if isinstance(schema, type | tuple) else type(schema)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        rule = "a number" if kinds == NUMBER else " or ".join(TYPES[k] for k in kinds)
        yield f"{where} {value!r} must be {rule}"
    elif isinstance(schema, dict):
        for key, inner in schema.items():
            place = f"{where}.{key}" if where else key
            if key in value:
                yield from _problems(value[key], inner, place)
            else:
                yield f"it lacks {place}"
    elif isinstance(schema, list):
        for index, item in enumerate(list(value)):
            yield from _problems(item, schema[0], f"{where}[{index}]")
    elif kinds == NUMBER and isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        yield f"{where} {value!r} must be a number, 'nan', 'inf' or '-inf'"


def _contradictions(content: dict[str, Any]) -> Iterator[str]:
    """Entries that fit their types and not each other."""
    if content["kind"] == "conversion":
        tensors = content["tensors"]
        for part in {*tensors, *content["source"]["sha256"], *content["target"]["sha256"]}:
            if file_name(part) is None:
                yield f"it has files {part!r}: known are {', '.join(PARTS)} and files of tensors"
        yield from _problems(tensors, dict.fromkeys(tensors, int), "tensors")
        yield from _gap_problems(content.get("outputs"), "outputs")
        yield from _taken_problems(content["source"].get("taken", {}))
        if "change" in content:
            yield from _change_problems(content["change"])
        return
    failures = sum(row["failures"] for row in content["levels"])
    passed = bool(content["levels"]) and not failures
    if content["verdict"] != ("PASS" if passed else "FAIL"):
        yield f"its verdict is {content['verdict']!r} with {failures} failures in its levels"
    for index, row in enumerate(content["levels"]):
        told = {"verdict": "FAIL" if row["failures"] else "PASS"}
        yield from _gap_problems(row | told, f"levels[{index}]")
    for name in ("model", "against"):
        reference = content["arguments"][name]
        if reference is None:
            continue
        kind = reference.get("kind")
        if kind not in ("checkpoint", "variant", "config", "live"):
            yield f"arguments.{name}.kind is {kind!r}"
        elif kind != "config" and not isinstance(reference.get("name"), str):
            yield f"it lacks arguments.{name}.name"


def _taken_problems(taken: Any) -> Iterator[str]:
    """What of the choice of tensors is not as it is written."""
    where = "source.taken"
    if not isinstance(taken, dict):
        yield from _problems(taken, dict, where)
        return
    yield from (f"{where} has {name!r}" for name in taken if name not in TAKEN)
    yield from _problems(taken, {n: kind for n, kind in TAKEN.items() if n in taken}, where)


def _change_problems(change: Any) -> Iterator[str]:
    """What of the fields that were changed on request is not as it is written."""
    problems = list(_problems(change, {"fields": dict, "outputs": dict}, "change"))
    pairs = [] if problems else change["fields"].items()
    yield from problems
    if not problems:
        known = "reason" in change["outputs"]
        yield from _problems(
            change["outputs"], {"reason": str} if known else MOVED, "change.outputs"
        )
    for name, pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            yield f"change.fields.{name} {pair!r} must be the old value and the new one"


def _gap_problems(record: Any, where: str) -> Iterator[str]:
    """A largest gap that does not pass in a record that says so."""
    if not isinstance(record, dict) or record.get("verdict") != "PASS":
        return
    if problems := list(_problems(record, {"largest_gap": NUMBER, "bound": NUMBER}, where)):
        yield from problems
    elif not float(record["largest_gap"]) <= float(record["bound"]):
        gap, bound = record["largest_gap"], record["bound"]
        yield f"{where}.largest_gap {gap} passes and is over its bound {bound}"
