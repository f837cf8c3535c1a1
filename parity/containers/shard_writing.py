"""Writes a model as several safetensors files and their index, as transformers reads them."""

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from parity.containers.info import Info
from parity.containers.names import INDEX
from parity.containers.shards import MOST_SHARDS
from parity.containers.writing import write
from vit_spec.checkpoint import WEIGHTS, replacing
from vit_spec.strict_json import shown

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"


def size_of(size: int | str) -> int:
    """The bytes of a size such as "5GB" or "500 MiB". Raises `ValueError`."""
    found = re.fullmatch(NUMBER + r" *([a-z]*)", str(size).strip().lower())
    number, unit = (found[1], UNITS.get(found[2].upper(), 0)) if found else ("", 0)
    count = int(Fraction(number) * unit) if unit else 0
    if count < 1 or (unit == 1 and "." in number):
        raise ValueError(
            f"the size {shown(size)} must be whole bytes, or such as 5GB, 500MB or 2GiB"
        )
    return count


def write_shards(
    folder: Path,
    tensors: Mapping[str, Info],
    values: Callable[[str], np.ndarray],
    limit: int,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes files of up to `limit` bytes of tensors, and the index last; one file if all fit.

    A tensor that is larger has a file of its own. Arguments and errors as those of `write`;
    `ValueError` too for more than `MOST_SHARDS` files.
    """
    shards: list[dict[str, Info]] = [{}]
    filled = 0
    for name, info in tensors.items():
        if shards[-1] and filled + info.nbytes > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = info
        filled += info.nbytes
    if len(shards) == 1:
        write(folder / WEIGHTS, "safetensors", tensors, values, metadata=metadata)
        return
    if len(shards) > MOST_SHARDS:
        raise ValueError(f"{len(shards)} files of {limit} bytes; at most {MOST_SHARDS} are read")
    stem, suffix = Path(WEIGHTS).stem, Path(WEIGHTS).suffix
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}{suffix}"
        write(folder / file, "safetensors", shard, values, metadata=metadata)
        places |= dict.fromkeys(shard, file)
    total = sum(info.nbytes for info in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    with replacing(folder / (WEIGHTS + INDEX)) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
