"""One checkpoint for both twins: a directory with `model.safetensors` and `config.json`.

Tensors are in PyTorch's layout under timm's names. `model.safetensors` repeats the config in its
metadata, so it is complete by itself. Files are written beside their place and renamed.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vit_spec import strict_json
from vit_spec.config import ViTConfig
from vit_spec.layout import State
from vit_spec.others import check_kind, of_config
from vit_spec.parameters import check_head, check_shapes, check_size, parameters
from vit_spec.preprocessing import Preprocessing
from vit_spec.strict_json import shown

FORMAT = "vitwin 1"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself, beside its tensors."""

    config: ViTConfig
    family: str = "vit"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] | None = None  # name of each class

    def __post_init__(self) -> None:
        if self.preprocessing.size == self.config.image_shape:
            own = replace(self.preprocessing, size=None)
            object.__setattr__(self, "preprocessing", own)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images that the model is given, in pixels."""
        return self.preprocessing.size or self.config.image_shape

    def to_json(self) -> str:
        """The text of `config.json`."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "family": self.family,
            "config": self.config.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.labels is not None:
            content["labels"] = list(self.labels)
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "Header":
        """The inverse of `to_json`. Raises `ValueError` naming `where`."""
        try:
            content = strict_json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where} {error}: it is not a vitwin checkpoint") from error
        if content.get("format") != FORMAT:
            raise ValueError(f"{where} {of_config(content, FORMAT)}")
        entries = {"config": dict, "family": str, "preprocessing": dict}
        for name, kind in entries.items():
            if name not in content:
                raise ValueError(f"{where} lacks the entry {name!r}")
            if not isinstance(content[name], kind):
                raise ValueError(
                    f"{where}: {name} {shown(content[name])} must be "
                    f"{'an object' if kind is dict else 'a text'}"
                )
        labels = content.get("labels")
        if labels is not None and not _is_texts(labels):
            raise ValueError(f"{where}: labels {shown(labels)} must be a list of texts")
        try:
            return cls(
                config=ViTConfig.from_dict(content["config"]),
                family=content["family"],
                preprocessing=Preprocessing.from_dict(content["preprocessing"]),
                labels=None if labels is None else tuple(labels),
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a checkpoint directory, its `config.json`, or a `.safetensors` file of ours."""
    path = Path(path)
    if path.is_dir():
        file = path / CONFIG
        if not os.path.lexists(file):
            raise FileNotFoundError(
                f"{path} has no {CONFIG}: it is not a vitwin checkpoint directory; convert a "
                "checkpoint of another library with `parity convert SRC DST`"
            )
        return Header.from_json(_text(file), where=str(file))
    if path.suffix == ".json":
        return Header.from_json(_text(path), where=str(path))
    header = _embedded_header(path)
    if header is None:
        raise ValueError(
            f"{path} has no vitwin header, so its config is unknown: load the directory with its "
            f"{CONFIG}, or name its model: `parity convert {path} DIR --model NAME|{CONFIG}`"
        )
    return header


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises `ValueError` for an address, which is no path here."""
    found = re.match(r"hf:/+(.*)", str(path))  # of a `Path` with one slash
    if found:
        address = f"hf://{found[1]}"
        raise ValueError(
            f"{address} is an address, and checkpoints are loaded from folders and files: use "
            f"`parity convert {address} DIR` and load DIR, or header, state = "
            f"parity.read({address!r}) and api.from_state(header.config, state)"
        )


def read(path: str | os.PathLike[str]) -> tuple[Header, State]:
    """Header and tensors of a checkpoint, checked against the config.

    Raises `FileNotFoundError`, or `ValueError` for a damaged file or for missing, extra and
    wrong-shaped tensors (all in one message).
    """
    header = read_header(path)
    check_embedded(path, header)
    file = weights_file(path)
    shapes = {name: shape for name, (_, shape) in tensor_shapes(path).items()}
    check_size(header.config, shapes, where=str(path))
    state = read_tensors(file)
    check_shapes(parameters(header.config), {n: a.shape for n, a in state.items()}, where=str(file))
    return header, state


def check_embedded(path: str | os.PathLike[str], header: Header) -> None:
    """Raises `ValueError` if the weights say that they are of another model than `header`."""
    embedded = _embedded_header(weights_file(path))
    if embedded is not None and embedded.config != header.config:
        raise ValueError(
            f"{path}: {CONFIG} and {WEIGHTS} are of different models: copy both from one place"
        )


def read_tensors(file: str | os.PathLike[str]) -> State:
    """All tensors of a safetensors file by name."""
    with _opened(Path(file)) as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def tensor_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of a checkpoint, without reading the tensors."""
    with _opened(weights_file(path)) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {
            name: (DTYPES.get(str(s.get_dtype()), str(s.get_dtype())), tuple(s.get_shape()))
            for name, s in slices.items()
        }


def write(path: str | os.PathLike[str], header: Header, state: State) -> None:
    """Writes the directory `path`; what was there before stays whole until both files are complete.

    Raises `ValueError` if `state` does not fit the config, `OSError` if the disk refuses.
    """
    shapes = {n: a.shape for n, a in state.items()}
    check_head(header.config, shapes)
    check_shapes(parameters(header.config), shapes, where="the model")
    path = make_directory(path)
    text = header.to_json()
    with replacing(path / WEIGHTS) as weights, replacing(path / CONFIG) as config:
        write_tensors(weights, state, metadata={"format": "pt", "vitwin": text})
        config.write_text(text)


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory of a checkpoint, made if need be. Raises `FileExistsError` for a file."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; a checkpoint is a directory: choose another path")
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_tensors(file: Path, state: State, *, metadata: dict[str, str]) -> None:
    """A safetensors file of contiguous copies of `state`, in the order of its names."""
    try:
        save_file(
            {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()},
            file,
            metadata,
        )
    except SafetensorError as error:
        raise OSError(f"could not write {file}: {error}") from error


def metadata(file: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the head of a safetensors file."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    size = file.stat().st_size
    check_kind(file)
    try:
        with file.open("rb") as opened:  # `safe_open` would map all of the file
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(size - 8, strict_json.LIMIT):
                raise ValueError(f"a head of {length} bytes in a file of {size}")
            content = strict_json.loads(opened.read(length))
        found = content.pop("__metadata__", None) or {}
        end = max((entry["data_offsets"][1] for entry in content.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{size} bytes, not the {8 + length + end} that it declares")
        return {str(key): str(text) for key, text in found.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(file, error) from error


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The safetensors file of a checkpoint directory, or the file itself."""
    path = Path(path)
    return path / WEIGHTS if path.is_dir() else path


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that takes its place when the block ends well."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def flush(file: Path) -> None:
    """Waits until the disk has what was written. Raises `OSError` if it refuses."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _embedded_header(file: Path) -> Header | None:
    """The header in the metadata of a safetensors file, if it has one."""
    text = metadata(file).get("vitwin")
    return None if text is None else Header.from_json(text, where=f"the header of {file}")


def _text(file: Path) -> bytes:
    """The bytes of a text that is small. Raises `ValueError` for any other file, unopened."""
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a regular file: put the file there, or give another path")
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        return opened.read(min(size, strict_json.LIMIT) + 1)  # one too many is refused there


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except SafetensorError as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} is not a whole safetensors file ({error}): copy or convert it again; `parity "
        "convert SRC DST` reads other kinds of files"
    )
