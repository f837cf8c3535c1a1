"""Repeats what a certificate records, and says what changed."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity import certificate_file, foreign
from parity import conversion_outputs as outputs
from parity.certificate import SIDES, certificate, sha256
from parity.changing import fields
from parity.choice import Choice
from parity.conversion import PACKAGES, differences, file_of, read_back, reading, some
from parity.environment import versions
from parity.report import Report
from vit_spec import Header, ViTConfig
from vit_spec.training_state import digest

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Change:
    """An entry of a certificate that is different now."""

    what: str
    recorded: str
    now: str
    matters: bool = False  # other weights or model, or a level that did not run; not circumstances


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of `parity.verify`; as text, the tables that the command prints."""

    path: str
    recorded: Mapping[str, Any]  # the certificate
    changes: tuple[Change, ...]
    now: Mapping[str, Any] | None = None  # the certificate of the repeated check
    report: Report | None = None  # of the repeated check
    outputs: Mapping[str, Any] | None = None  # of a conversion, compared again

    @property
    def passed(self) -> bool:
        """All of the check passes now, and the weights are those of the certificate."""
        repeated = self.report is None or self.report.passed
        return repeated and not any(change.matters for change in self.changes)

    def __str__(self) -> str:
        from parity.verify_text import text

        return text(self)


def verify(
    path: str | os.PathLike[str],
    model: Any = None,
    against: Any = None,
    *,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Verification:
    """Repeats the check of a certificate, or compares the files of a conversion again.

    Args:
        path: the certificate, or the directory or file that a conversion wrote.
        model: None: the model that the certificate names. Of a conversion: the target.
        against: the same for what it was compared with. Of a conversion: the source.
        progress: as in `parity.check`.
        options: arguments of `parity.check` that no certificate can hold, such as `inputs`.

    Raises:
        FileNotFoundError, ValueError: the certificate is damaged, or its model is gone, or was not
            a file.
    """
    content = certificate_file.read(path)
    file = certificate_file.located(path)
    if content["kind"] == "conversion":
        return _conversion(file, content, model, against)
    return _check(file, content, model, against, progress, options)


def _check(
    path: Path, content: dict[str, Any], model: Any, against: Any, progress: Any, options: Any
) -> Verification:
    arguments = content["arguments"]
    lacking = [name for name in arguments["others"] if name not in options]
    if lacking:
        names = ", ".join(f"{name}=" for name in lacking)
        raise ValueError(
            f"{path} is of a check with {names} which no certificate can hold: call "
            f"parity.verify with the same {names.replace('=', '')}"
        )
    model = _found(path, content, "model") if model is None else model
    against = _found(path, content, "against") if against is None else against
    from parity.check import check

    report = check(
        model,
        against,
        level=arguments["level"],
        dtype=arguments["dtypes"],
        batch_size=arguments["batch_size"],
        steps=arguments["steps"],
        seed=arguments["seed"],
        explain=False,
        progress=progress,
        **options,
    )
    now = certificate(report)
    changes = (*_model_changes(content, now), *_circumstances(content, now))
    return Verification(path=str(path), recorded=content, changes=changes, now=now, report=report)


def _found(path: Path, content: dict[str, Any], name: str) -> Any:
    """The model that a certificate names."""
    reference = content["arguments"][name]
    option = f"give --{name} DIR|FILE"
    if reference is None:
        return None
    if reference["kind"] == "live":
        raise ValueError(f"{path} is of a live model, which no file holds: save it and {option}")
    if reference["kind"] == "config":
        if content["config"] is None:
            raise ValueError(f"{path} lacks the config of its model: {option}")
        try:
            return ViTConfig.from_dict(content["config"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, config: {error}") from error
    if reference["kind"] == "checkpoint" and not Path(reference["name"]).exists():
        raise FileNotFoundError(f"{reference['name']}, which {path} is of, is gone: {option}")
    return reference["name"]


def _model_changes(content: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Differences of weights and config."""
    for side in SIDES:
        ours, theirs = content["weights"][side], now["weights"][side]
        for key in ("state_sha256", "file_sha256"):
            if key in ours and key in theirs:
                yield from _changed(f"weights.{side}.{key}", ours[key], theirs[key], matters=True)
    if content["config"] is None or now["config"] is None:
        yield from _changed("config", content["config"], now["config"], matters=True)
    else:
        yield from _entries("config", content["config"], now["config"], matters=True)


def _circumstances(content: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Differences of versions, devices and settings, and of how much was compared."""
    for key in ("versions", "device", "precision"):
        yield from _entries(key, content[key], now[key])
    yield from _changed("verdict", content["verdict"], now["verdict"])
    before, after = (
        {f"{row['level']} {row['dtype']}": row["compared"] for row in of["levels"]}
        for of in (content, now)
    )
    for level in dict.fromkeys([*before, *after]):
        old, new = before.get(level, NONE), after.get(level, NONE)
        yield from _changed(f"compared.{level}", old, new, matters=new == NONE)


def _conversion(path: Path, content: dict[str, Any], model: Any, against: Any) -> Verification:
    target = _output(path, content["target"]["path"]) if model is None else Path(model)
    source = Path(content["source"]["path"] if against is None else against)
    for place, option in ((target, "--model DIR|FILE"), (source, "--against DIR|FILE")):
        if not place.exists():
            raise FileNotFoundError(f"{place}, which {path} is of, is gone: give {option}")
    header, found = _header_of(path, content), None
    changes = [
        *_file_changes("source", content, source),
        *_file_changes("target", content, target),
    ]
    try:
        changes += _tensor_changes(content, source, target, header)
        if content.get("outputs", {}).get("verdict", outputs.NONE) != outputs.NONE:
            formats = (content["source"]["format"], content["target"]["format"])
            found = outputs.again(
                source, target, formats, header, _choice(content), fields(content.get("change"))
            )
            old, new = content["outputs"]["verdict"], found["verdict"]
            changes += _changed("outputs.verdict", old, new, matters=new == outputs.FAIL)
    except (ValueError, OSError):
        if not changes:
            raise
        changes += _changed("contents", "compared", "no longer comparable", matters=True)
    changes += _entries("versions", content["versions"], versions(PACKAGES))
    return Verification(path=str(path), recorded=content, changes=tuple(changes), outputs=found)


def _file_changes(side: str, content: dict[str, Any], place: Path) -> Iterator[Change]:
    """Differences of the files of the source or the target."""
    for part, recorded in content[side]["sha256"].items():
        file = file_of(place, part)
        found = sha256(file) if file.is_file() or file.is_dir() else NONE
        yield from _changed(f"{side}.{part}.sha256", recorded, found, matters=True)


def _tensor_changes(
    content: dict[str, Any], source: Path, target: Path, header: Header
) -> Iterator[Change]:
    """Differences of the target's tensors from the source's, and from those of the certificate."""
    formats = (content["source"]["format"], content["target"]["format"])
    if not set(formats) <= set(foreign.OURS):
        change = fields(content.get("change"))
        problems, digested, _ = read_back(source, target, formats, header, _choice(content), change)
        yield from _changed("state_sha256", content["state_sha256"], digested, matters=True)
        yield from _changed("tensors.weights", "", some(problems), matters=True)
        return
    for part in content["tensors"]:
        with reading(source, part) as ours, reading(target, part) as theirs:
            if part == "weights":
                recorded = content["state_sha256"]
                yield from _changed("state_sha256", recorded, digest(theirs), matters=True)
            problems = differences(ours, theirs)
        yield from _changed(f"tensors.{part}", "", some(problems), matters=True)


def _choice(content: dict[str, Any]) -> Choice:
    """Which tensors of the source a conversion took."""
    return Choice.from_dict(content["source"].get("taken", {}))


def _header_of(path: Path, content: dict[str, Any]) -> Header:
    """The model of a conversion, as its certificate has it."""
    if "header" in content:
        return Header.from_json(content["header"], where=f"the header of {path}")
    try:
        return Header(config=ViTConfig.from_dict(content["config"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, config: {error}") from error


def _output(path: Path, recorded: str) -> Path:
    """The output of a conversion: beside its certificate, else where it was written."""
    if path.name == certificate_file.IN_DIRECTORY:
        return path.parent
    output = path.with_name(path.name.removesuffix(certificate_file.SUFFIX))
    return output if output != path and output.exists() else Path(recorded)


def _entries(name: str, recorded: Any, now: Any, *, matters: bool = False) -> Iterator[Change]:
    for key in dict.fromkeys([*recorded, *now]):
        old, new = recorded.get(key, NONE), now.get(key, NONE)
        yield from _changed(f"{name}.{key}", old, new, matters=matters)


def _changed(what: str, recorded: Any, now: Any, *, matters: bool = False) -> Iterator[Change]:
    if recorded != now:
        yield Change(what=what, recorded=str(recorded), now=str(now), matters=matters)
