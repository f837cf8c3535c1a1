"""Writes weights alone as one step of a run, which Orbax and `vit_jax.load` read: no framework.

Each array is one piece of zarr 2, not packed: a file with its bytes, beside a `.zarray`. That is
what Orbax itself writes with `use_ocdbt=False`, and what it takes as well as its tree of OCDBT. So
a few tensors are in memory at a time, and nothing is kept of them.
"""

import json
from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from parity.containers.info import DTYPES, Info
from parity.containers.values import Values
from parity.containers.writing import flowing, flush_directory
from parity.orbax.digests import Digest
from parity.orbax.metadata import FILE, ZARRAY, zarray
from vit_spec import Header
from vit_spec.checkpoint import flush
from vit_spec.layout import jax_name
from vit_spec.run_step import SEAL, STATE, sealed

HANDLERS = "orbax.checkpoint._src.handlers"
STEP = {
    "item_handlers": {
        "state": f"{HANDLERS}.standard_checkpoint_handler.StandardCheckpointHandler",
        "run": f"{HANDLERS}.json_checkpoint_handler.JsonCheckpointHandler",
    },
    "metrics": {},
    "performance_metrics": {},
    "init_timestamp_nsecs": None,
    "commit_timestamp_nsecs": None,
    "custom_metadata": {},
}
"""`_CHECKPOINT_METADATA`: who of Orbax reads which folder."""


def write(
    path: Path, header: Header, tensors: Mapping[str, Info], read: Callable[[str], np.ndarray]
) -> None:
    """Writes tensors, in PyTorch's names and layout, where nothing is, and waits for the disk.

    Raises `OSError` if the disk refuses.
    """
    digests = _write_arrays(path / STATE, tensors, read)
    keys = [("params", name) for name in digests]
    tree = {
        "tree_metadata": {str(names): _leaf(names) for names in keys},
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    sums = {f".params[{name!r}]": digest for name, digest in digests.items()}
    run = {"header": json.loads(header.to_json()), "digests": sums}
    _write_json(path / STATE / FILE, tree)
    _write_json(path / SEAL, sealed(run))
    _write_json(path / "_CHECKPOINT_METADATA", STEP)
    for folder in (path / STATE, path / SEAL.parent, path):
        (folder / "commit_success.txt").write_text("Checkpoint commit was successful\n")
    for place in (path, *path.rglob("*")):
        (flush_directory if place.is_dir() else flush)(place)


def _write_arrays(
    folder: Path, tensors: Mapping[str, Info], read: Callable[[str], np.ndarray]
) -> dict[str, str]:
    """Writes all arrays; returns their digests by JAX's name."""
    names = {jax_name(name, len(info.shape)): name for name, info in tensors.items()}
    sources = {ours: (name, axes) for (ours, axes), name in names.items()}
    infos = {
        ours: Info.of(tensors[name].dtype, [tensors[name].shape[axis] for axis in axes])
        for ours, (name, axes) in sources.items()
    }

    def value(ours: str) -> np.ndarray:
        name, axes = sources[ours]
        return read(name).transpose(axes)

    digests = {}
    with Values(infos, value).stream(infos) as stream:
        for ours, pieces in groupby(stream, itemgetter(0)):
            info, place = infos[ours], folder / f"params.{ours}"
            digest = Digest(DTYPES[info.dtype], info.shape)
            _write_json(place / ZARRAY, zarray(info.dtype, info.shape, packed=False))
            with flowing(place / ".".join("0" * len(info.shape))) as out:
                for _, piece in pieces:
                    digest.update(piece)
                    out.write(piece)
            digests[ours] = digest.text()
    return digests


def _leaf(names: tuple[str, ...]) -> dict[str, Any]:
    """What Orbax notes of an array."""
    return {
        "key_metadata": [{"key": name, "key_type": 2} for name in names],
        "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
    }


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
