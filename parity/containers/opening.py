"""Opens a file or a directory as the kind of container that its content is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from parity.containers.container import Container
from parity.containers.files import BrokenFile, File, broken, check_link, reading
from parity.containers.hub import downloaded, is_address
from parity.containers.msgpack_file import MsgpackFile
from parity.containers.names import CANDIDATES, INDEX, SUFFIXES
from parity.containers.npz_file import NpzFile
from parity.containers.safetensors_file import SafetensorsFile
from parity.containers.shards import Shards
from parity.containers.torch_file import LEGACY, TorchFile
from parity.containers.zip_directory import members
from vit_spec.names import plain
from vit_spec.strict_json import shown

SHOWN = 6  # names that a message lists
GIVE = "give a safetensors, .npz, Flax msgpack or PyTorch file"
KNOWN = {  # how files start that are often taken for tensors
    b"version https://git-lfs": ("it is Git LFS's note, not the file", "run `git lfs pull`"),
    b"<": ("it is a web page", "download the file itself, not the page that shows it"),
    b"\x93NUMPY": ("it is one array", "save it with a name by numpy.savez"),
    b"\x89HDF": ("it is an HDF5 file", "save its arrays by numpy.savez"),
    b"\x1f\x8b": ("it is packed by gzip", "unpack it"),
}


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Container]:
    """A container of tensors: a file, an index of shards, a directory, or `hf://ORG/NAME`.

    Tensors that were read stay valid after the block. A file must not be cut while it is open:
    replace it, as `write` does.

    Raises `FileNotFoundError`, `BrokenFile` for damage, `ModuleNotFoundError` for a pickle without
    PyTorch and for the Hub without huggingface_hub.
    """
    address = os.fspath(path)
    found = downloaded(address) if is_address(address) else Path(path)
    container = _folder(found) if found.is_dir() else _open(found, shards=True)
    try:
        yield container
    finally:
        container.close()


def kind_of(path: Path) -> str | None:
    """The kind of container that a file is, without loading it; None if it is none."""
    try:
        with reading(path) as file:
            start = file.read(0, min(file.size, len(LEGACY)))
            zipped = members(file) if start.startswith(b"PK") else []
        if start == LEGACY or any(member.name.endswith("/data.pkl") for member in zipped):
            return TorchFile.kind
        with opened(path) as container:
            return container.kind
    except BrokenFile:
        return None


def _folder(path: Path) -> Container:
    """A folder with a file of tensors, or one that is a tree of arrays itself."""
    from parity.orbax.trees import OrbaxTree, is_tree

    named = any(os.path.lexists(path / name) for name in CANDIDATES)
    if not named and is_tree(path):
        return OrbaxTree(path)
    return _open(_file_of(path), shards=True)


def _open(path: Path, *, shards: bool) -> Container:
    with contextlib.ExitStack() as stack:
        file = File(path)
        stack.callback(file.close)
        container = _container(file, shards=shards)
        stack.pop_all()
        return container


def _container(file: File, *, shards: bool) -> Container:
    """The container that the content is."""
    start = file.read(0, min(file.size, 512))
    if start[5:9] == b"\0\0\0{":  # before all else: the length of a header is any bytes
        return SafetensorsFile(file)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return _archive(file)
    if start.startswith(LEGACY):
        return TorchFile(file)
    if shards and file.path.name.endswith(INDEX):
        return Shards(file, lambda path: _open(path, shards=False))
    for sign, (what, do) in KNOWN.items():
        if start.startswith(sign):
            raise file.broken(what, do)
    packed = start != b"" and (0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF))
    if start[8:9] == b"{" and not packed:
        return SafetensorsFile(file)
    if start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"):
        raise file.broken(
            "it is a plain pickle, which could run code when it is loaded",
            "load it where you trust it and save its arrays by numpy.savez or torch.save",
        )
    if start[257:262] == b"ustar":
        raise file.broken("it is a tar archive", "unpack it; torch.save what is older than 2017")
    if packed:
        return MsgpackFile(file)
    if not start:
        raise file.broken("it is empty")
    if file.path.suffix == ".safetensors":
        return SafetensorsFile(file)
    raise file.broken(f"it starts with {shown(start[:8])}, which no known kind does", GIVE)


def _archive(file: File) -> Container:
    """A zip archive is NumPy's, PyTorch's or neither."""
    names = [member.name for member in members(file)]
    if any(name.endswith("/data.pkl") for name in names):
        return TorchFile(file)
    if not names or any(name.endswith(".npy") for name in names):
        return NpzFile(file)
    raise file.broken(f"it is a zip archive of {shown(names[:3])}", GIVE)


def _file_of(folder: Path) -> Path:
    """The file of a directory: of a published name, or its only one."""
    for name in CANDIDATES:
        if os.path.lexists(folder / name):
            return _inside(folder / name)
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.is_dir())
    if len(found) == 1:
        return _inside(found[0])
    if not found:
        raise FileNotFoundError(
            f"{folder} has no {CANDIDATES[0]} nor another file of tensors: {GIVE}, or one step of "
            "a run, RUN/checkpoints/STEP"
        )
    names = ", ".join(plain(p.name) for p in found[:SHOWN])
    names += f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ValueError(f"{folder} has {len(found)} files of tensors ({names}): give one of them")


def _inside(path: Path) -> Path:
    """A file of a directory. Raises `BrokenFile` for a link to nothing or out of the directory."""
    check_link(path)
    if not path.exists():
        raise broken(path, "it is a link to nothing", "put the file there, or remove the link")
    return path
