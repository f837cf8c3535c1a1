"""What of a file is not part of the model: heads of training, and all that lies beside it."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from parity.choice import Subtree
from parity.formats.format import Given
from parity.subtree import unwrapped
from vit_spec.names import plain
from vit_spec.strict_json import shown

MOST, LISTED = 40, 60
HEADS = re.compile(
    r"((?:proj|projection|pred|prediction|dino|ibot|mim|rec|reconstruction|cls|ssl)_head"
    r"|projector|projection|predictor|classifier|(?:linear|online)_classifier|online_finetuner"
    r"|online_probe|linear_probe|fc|decoder|decoder_\w+|prototypes|queue|queue_ptr|criterion"
    r"|loss_fn|\w+_loss|heads?\.(?:mlp|last_layer|\d+)|mask_token)(?:\..*)?"
)
"""Modules that training puts on the features of a model, by their first names, and the token of
masked training: no output of the model depends on them."""

CLASSIFIER = re.compile(r"(^|\.)(\w+_)?classifier\.(weight|bias)$")


def heads(names: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of heads that a format has no place for."""
    return [name for name in names if name not in known and HEADS.fullmatch(name)]


def check_classifier(given: Given) -> None:
    """Raises `ValueError` for the classifier of a model of transformers that has no place."""
    found = [name for name in given.around if CLASSIFIER.search(name)]
    if given.model_type is not None and found:
        names = ", ".join(plain(name) for name in found)
        ways = " ".join(f"leave_out={shown(name)}" for name in found)
        raise ValueError(
            f"its classifier ({names}) is beside the model, where this format has none: leave it "
            f"out: {ways}"
        )


def patterns(names: Iterable[str], known: Collection[str]) -> str:
    """What to type to leave names out; of one module a pattern."""
    modules = {name.partition(".")[0] for name in known}
    found = dict.fromkeys(
        re.sub(r"\.\d+\.", ".*.", name) if name.partition(".")[0] in modules or "." not in name
        else f"{name.partition('.')[0]}.*"
        for name in names
    )  # fmt: skip
    return " ".join(f"leave_out={shown(pattern)}" for pattern in list(found)[:4])


def remarks(
    tensors: Iterable[str],
    beside: Mapping[str, Any],
    used: Collection[str],
    rivals: Collection[Subtree] = (),
) -> list[str]:
    """What is left out, entry by entry: each is the largest that has nothing of the model in it.

    Args:
        tensors: all names in the file.
        beside: the names of what is no tensor.
        used: the names that the model is made of.
        rivals: other sets of weights.
    """
    inside = {part for name in used for part in _parts(name)}
    groups: dict[str, list[str]] = {}
    for name in tensors:
        if name not in used:
            groups.setdefault(_outside(name, inside), []).append(name)
    values = dict.fromkeys(_outside(name, inside) for name in beside)
    entries = [_entry(name, members, rivals) for name, members in groups.items()]
    entries += [plain(name) for name in values if name not in groups]
    if not entries:
        return []
    more = [f"and {len(entries) - MOST} more"] if len(entries) > MOST else []
    verb = "entry of the source is" if len(entries) == 1 else "entries of the source are"
    end = "was left out" if len(entries) == 1 else "were left out"
    listed = ", ".join(entries[:MOST] + more)
    return [f"{len(entries)} {verb} not part of the model and {end}: {listed}"]


def listing(entries: Mapping[str, str], beside: Mapping[str, Any]) -> dict[str, str]:
    """What lies in the dicts of a file: how many tensors in each, and the values beside them.

    `entries` are the dicts of all tensors.
    """
    counts = Counter(entry for entry in entries.values() if entry)
    found = {plain(entry): _count(count) for entry, count in counts.items()}
    values = {plain(name): _value(value) for name, value in beside.items()}
    more = len(found) + len(values) - LISTED
    both = dict([*found.items(), *values.items()][:LISTED])
    return both | ({"...": f"and {more} more"} if more > 0 else {})


def _value(value: Any) -> str:
    """A value that is no tensor, on one short line."""
    if isinstance(value, bool | int | float | str | bytes | None):
        return shown(value)
    if isinstance(value, list | tuple) and len(value) <= 8:
        return shown(value)
    return getattr(value, "class_name", "") or getattr(value, "what", "") or type(value).__name__


def _entry(name: str, members: list[str], rivals: Collection[Subtree]) -> str:
    if len(members) == 1:
        return f"{plain(members[0])} ({_count(1)})"
    weights = any(r.path.startswith(unwrapped(f"{name}.")) for r in rivals)
    return f"{plain(name)} ({_count(len(members))}{', weights of a model' if weights else ''})"


def _count(tensors: int) -> str:
    return f"{tensors} tensor{'' if tensors == 1 else 's'}"


def _outside(name: str, inside: Collection[str]) -> str:
    """The first part of a name that no name of the model begins with."""
    return next((part for part in _parts(name) if part not in inside), name)


def _parts(name: str) -> Iterable[str]:
    ends = [match.start() for match in re.finditer(r"[./]", name)]
    return [*(name[:end] for end in ends), name]
