"""What a checkpoint is that is not ours, for messages: told from its first bytes or its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_spec.strict_json import shown

LIBRARIES = {"model_type": "transformers", "architecture": "timm", "model_cfg": "open_clip"}
"""What the `config.json` of a library has, and ours has not."""
WAY = "convert a checkpoint of another library with `parity convert SRC DST`"
HEAD = 64  # bytes of a file that tell its kind
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that PyTorch's pickles start with


def check_kind(file: Path) -> None:
    """Raises `ValueError` for a file of another kind than safetensors, with what to do."""
    with file.open("rb") as opened:
        kind = _kind(opened.read(HEAD))
    if kind:
        raise ValueError(
            f"{file} is {kind}, not safetensors: convert it with `parity convert {file} DST`, and "
            "load DST"
        )


def of_config(content: Mapping[str, Any], ours: str) -> str:
    """What a `config.json` is whose format is not `ours`; it goes on after the file's name."""
    for key, library in LIBRARIES.items():
        if key in content:
            return (
                f"is of {library} ({key} {shown(content[key])}), not of a vitwin checkpoint: {WAY}"
            )
    return (
        f"has format {shown(content.get('format'))}, not {ours!r}: it is not a vitwin checkpoint, "
        "whose config.json is the text of vit_spec.Header(config=vit_spec.ViTConfig(...)).to_json"
        f"(); {WAY}"
    )


def _kind(start: bytes) -> str | None:
    """The kind, if it is another one for sure."""
    if start.startswith(b"PK\3\4"):
        if b".npy" in start:
            return "a NumPy archive (.npz)"
        return "a PyTorch file (a zip archive)" if b"data.pkl" in start else "a zip archive"
    pickled = start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
    if pickled and start[8:9] != b"{":  # which is the start of a safetensors file's head
        return "a PyTorch file (a pickle)" if LEGACY in start else "a pickle"
    return None
