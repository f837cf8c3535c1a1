"""The certificate of a check: what was found, for which weights, and how to find it again."""

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parity import orbax
from parity.certificate_file import FORMAT
from parity.report import Gap, Report
from vit_spec import checkpoint
from vit_spec.training_state import digest

SIDES = ("jax", "torch")
Files = Iterable[str | os.PathLike[str]]


def certificate(report: Report, *, files: Files = ()) -> dict[str, Any]:
    """The record of a check as JSON values; `parity.verify` repeats the check from it.

    Each side's `state_sha256` is of the weights that were checked, in PyTorch's names and layout;
    `file_sha256` is of the file that they came from, if they came from one.

    Args:
        report: what `parity.check` returned.
        files: checkpoints of JAX's and of PyTorch's weights, one for both if they are the same;
            none: those that the check was given.

    Raises:
        ValueError: the report is not of `parity.check`, or a file holds other weights than those
            that were checked.
        FileNotFoundError: a file is gone.
    """
    if not report.digests or not report.environment:
        raise ValueError(
            f"the report on {report.subject!r} has no digests of weights and no versions, so it is "
            "not what parity.check returned: give it that report"
        )
    named = [os.fspath(file) for file in files]
    return {
        "format": FORMAT,
        "kind": "check",
        "subject": report.subject,
        "verdict": verdict(report.passed),
        "parameters": report.parameters,
        "config": report.config,
        "arguments": _arguments(report, named),
        "weights": _weights(report, named),
        "levels": levels(report),
        **report.environment,
        "seconds": round(report.seconds, 3),
        "peak_bytes": report.peak_bytes,
        "date": report.date,
    }


def levels(report: Report) -> list[dict[str, Any]]:
    """For each level and dtype: how much was compared and failed, and the worst gap."""
    rows = []
    for level in report.levels:
        for dtype in dict.fromkeys(gap.dtype for gap in report.of(level)):
            gaps, failures = report.of(level, dtype), report.failures
            worst = report.worst(level, dtype)
            rows.append(
                {
                    "level": level,
                    "dtype": dtype,
                    "compared": len(gaps),
                    "failures": sum(f.level == level and f.dtype == dtype for f in failures),
                    **({} if worst is None else _gap(worst)),
                }
            )
    return rows


def verdict(passed: bool) -> str:
    """The word for it."""
    return "PASS" if passed else "FAIL"


def number(value: float) -> float | str:
    """A number that JSON can hold: `nan`, `inf` and `-inf` are strings."""
    return float(value) if math.isfinite(value) else str(float(value))


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes; of a folder that of its files' names and digests."""
    if file.is_dir():
        files = sorted(place for place in file.rglob("*") if place.is_file())
        lines = (f"{place.relative_to(file).as_posix()} {sha256(place)}\n" for place in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "largest_gap": number(gap.gap),
        "bound": number(gap.bound),
        "name": gap.name,
        "step": gap.step,
        "note": gap.note,
    }


def _arguments(report: Report, named: list[str]) -> dict[str, Any]:
    live = {"kind": "live", "name": "jax"}
    model, against = report.models.get("model", live), report.models.get("against")
    if named:
        first, *rest = ({"kind": "checkpoint", "name": file} for file in named)
        model, against = first, (rest[0] if rest else None)
    return {
        "model": model,
        "against": against,
        "level": report.level,
        "dtypes": list(report.dtypes),
        "batch_size": int(report.settings["batch_size"]),
        "steps": int(report.settings["steps"]),
        "seed": int(report.settings["seed"]),
        "others": list(report.models.get("others", ())),
    }


def _weights(report: Report, named: list[str]) -> dict[str, dict[str, str]]:
    """Digests by side."""
    if len(named) > 2:
        raise ValueError(f"{len(named)} files were given: give JAX's and PyTorch's, or one")
    files = dict(zip(SIDES, named * 2 if len(named) == 1 else named, strict=False))
    files = files or _files_of(report.models)
    found = {}
    for side in SIDES:
        found[side] = {"state_sha256": report.digests[side]}
        if side not in files:
            continue
        path = Path(files[side])
        file = path / orbax.SEAL if orbax.is_step(path) else checkpoint.weights_file(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file} is gone, so no certificate can name its digest")
        if report.config is not None and _digest_of(path) != report.digests[side]:
            raise ValueError(
                f"{file} holds other weights than those that were checked on the side of {side}: "
                "it changed since, or the model has; save the model and check again"
            )
        found[side] |= {"file": file.as_posix(), "file_sha256": sha256(file)}
    return found


def _files_of(models: dict[str, Any]) -> dict[str, str]:
    """The checkpoint of each side that was loaded from one."""
    model, against = models.get("model") or {}, models.get("against")
    sides = {"jax": model, "torch": against or model}
    if against and model == {"kind": "live", "name": "torch"}:
        sides = {"jax": against, "torch": model}
    return {side: m["name"] for side, m in sides.items() if m.get("kind") == "checkpoint"}


def _digest_of(path: Path) -> str:
    """The digest of a checkpoint's tensors as models hold them: all in the dtype of the first."""
    if orbax.is_step(path):
        state = orbax.read(path)[1]
    else:
        state = checkpoint.read_tensors(checkpoint.weights_file(path))
    first = next(iter(state.values())).dtype
    return digest({name: array.astype(first, copy=False) for name, array in state.items()})
