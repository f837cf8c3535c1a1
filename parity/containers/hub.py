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
    fetch = partial(huggingface_hub.hf_hub_download, repository, revision=revision)
    found = _first(address, fetch, [file] if file else list(CANDIDATES))
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


def _first(address: str, fetch: Callable[..., Any], names: list[str]) -> Path:
    """The first of `names` that the repository has; after a failure of the network, the cache's."""
    from huggingface_hub import errors

    offline: Exception | None = None
    for name in names:
        try:
            return Path(fetch(filename=name, local_files_only=offline is not None))
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
