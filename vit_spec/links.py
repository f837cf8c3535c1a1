"""Links in folders that come from anyone: whether a reader may follow them."""

import os
from pathlib import Path


def leads_out(path: Path) -> bool:
    """Whether a path is a link that leads out of the folder that it is in."""
    return not Path(os.path.realpath(path)).is_relative_to(root_of(path.parent))  # a loop is in it


def root_of(folder: Path) -> Path:
    """Where the files of a folder may lie: in it, or in huggingface_hub's cache of a repository."""
    for parent in folder.absolute().parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return parent.parent.resolve()
    return folder.resolve()
