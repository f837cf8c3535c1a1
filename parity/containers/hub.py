"""`hf://ORG/NAME[@REVISION][/FILE]`: a file of the Hugging Face Hub, or from its cache offline."""

import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from parity.containers.container import CONFIG
from parity.containers.files import reading
from parity.containers.names import BESIDE, CANDIDATES, INDEX
from parity.containers.shards import inside, places_of

UNREACHED = ("ConnectError", "ConnectTimeout", "ConnectionError")
"""Names of errors without any connection, in the libraries under huggingface_hub's versions."""
ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.+))?")


def is_address(path: str) -> bool:
    """Whether a path is an address on the Hub; `Path` makes one slash of two."""
    return path.startswith("hf:/")


def names_file(address: str) -> bool:
    """Whether an address ends with the name of a file."""
    match = ADDRESS.fullmatch(address)
    return match is not None and match[3] is not None


def downloaded(address: str) -> Path:
    """The file on this disk, with its shards, its `config.json` and its like beside it.

    Raises `ValueError` for another form of address, `ModuleNotFoundError` without huggingface_hub,
    `FileNotFoundError` for what the Hub does not have, or the cache without network.
    """
    match = ADDRESS.fullmatch(address)
    if match is None or ".." in (match[3] or "").split("/"):
        raise ValueError(f"{address!r} is no address: write hf://ORG/NAME[@REVISION][/FILE]")
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{address} needs huggingface_hub: pip install huggingface_hub, or download the file "
            "and give its path"
        ) from error
    repository, revision, file = match[1], unquote(match[2] or "main"), match[3]
    names = [file] if file else list(CANDIDATES)
    fetch = partial(huggingface_hub.hf_hub_download, repository, revision=revision)
    if not _reached(repository, revision, names[0]):
        fetch = partial(fetch, local_files_only=True)
    found = _first(address, fetch, names)
    folder = Path(file or "").parent
    if found.name.endswith(INDEX):
        with reading(found) as index:
            places, _ = places_of(index)
        for shard in sorted(set(places.values())):
            inside(found, shard)
            _first(address, fetch, [(folder / shard).as_posix()])
    for name in (CONFIG, *BESIDE):
        with contextlib.suppress(FileNotFoundError):  # a model need not have one
            _first(address, fetch, [(folder / name).as_posix()])
    return found


def _reached(repository: str, revision: str, name: str) -> bool:
    """Whether the Hub can be connected to, or may be: a slow answer and a wrong name are one.

    A download of what is not in the cache is tried again for 23 s, and no setting shortens that;
    this request is made once, and `HF_HUB_ETAG_TIMEOUT` (10 s) bounds it.
    """
    import huggingface_hub

    try:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
        huggingface_hub.get_hf_file_metadata(url)
    except Exception as error:  # what else is wrong, the download says
        return type(error).__name__ not in UNREACHED
    return True


def _first(address: str, fetch: Callable[..., Any], names: list[str]) -> Path:
    """The first of `names` that the repository has; after a failure of the network, the cache's."""
    from huggingface_hub import errors

    offline: Exception | None = None
    for name in names:
        try:
            return Path(fetch(filename=name, **({"local_files_only": True} if offline else {})))
        except errors.LocalEntryNotFoundError as error:
            offline = error
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise ValueError(f"{address!r} is no address: {error}") from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise FileNotFoundError(
                f"{address}: the Hub has no such repository or revision, or not for you: check the "
                "name; for gated models, accept the terms and run `hf auth login`"
            ) from error
        except OSError as error:  # refused, no space, no network
            raise OSError(f"{address}: downloading {name} failed: {error}") from error
    if offline is not None:
        raise FileNotFoundError(
            f"{address}: {', '.join(names)} not in the cache, and the Hub cannot be reached: "
            "connect, or download the file elsewhere and give its path"
        ) from offline
    raise FileNotFoundError(
        f"{address}: the repository has no {', '.join(names)}: add /FILE to the address"
    )
