"""Writes a TFDS data set once, whole or not at all. No twin.

A data set is written in a hidden folder beside its place and moved there in one step, so that a
crash, a full disk or a second process never leaves half of one where it would be read.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

_STAGING = ".preparing-"
_STALE_SECONDS = 24 * 3600

logger = logging.getLogger("vit_data")


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where prepared data lies: `data_dir`, else `$VITWIN_DATA`, else the user's cache."""
    chosen = data_dir or os.environ.get("VITWIN_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "vitwin"


def prepared(builder_class: Any, root: Path, **builder_args: Any) -> Any:
    """The builder of `builder_class` with its data under `root`, written first if need be.

    Raises `PermissionError` when `root` cannot be written, `OSError` when the disk is full. Then
    nothing is left behind.
    """
    place = root / builder_class.name / str(builder_class.VERSION)
    if (place / "dataset_info.json").is_file():
        return builder_class(data_dir=root, file_format="array_record")
    _make_writable(root)
    try:
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=root) as staging:
            logger.info("preparing %s in %s, once", builder_class.name, root)
            staged = builder_class(data_dir=staging, file_format="array_record", **builder_args)
            _write(staged)
            _move(Path(staged.data_dir), place)
    except (OSError, RuntimeError) as error:
        # array_record's writer reports a full disk as a RuntimeError
        if isinstance(error, (FileNotFoundError, NotImplementedError)):
            raise
        raise OSError(
            f"cannot write {builder_class.name} to {root} ({error}): free some space, or set "
            "VITWIN_DATA to a folder on another disk; nothing was left behind"
        ) from error
    return builder_class(data_dir=root, file_format="array_record")


def _write(builder: Any) -> None:
    """Generates the data of `builder` without a word, and reads the last example of each split."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(None):
        builder.download_and_prepare()
    for split, info in builder.info.splits.items():
        data = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        if len(data) != info.num_examples:
            raise OSError(f"{split} has {len(data)} of {info.num_examples} examples")
        data[len(data) - 1]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        if (target / "dataset_info.json").is_file():
            return  # another process was faster
        shutil.rmtree(target)  # without its info, it is a leftover that nothing can read
        source.rename(target)


def _make_writable(root: Path) -> None:
    """Makes the folder `root`. Raises `PermissionError` when nothing can be written there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise PermissionError(
            f"data_dir {root} is not a writable folder ({error.strerror}): give another data_dir "
            "or set VITWIN_DATA"
        ) from error
    _remove_stale(root)


def _remove_stale(root: Path) -> None:
    """Removes what killed processes left, once it is a day old."""
    for folder in root.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder)
