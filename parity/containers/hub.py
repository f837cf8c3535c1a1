"""`hf://ORG/NAME[@REVISION][/FILE]`: a file of the Hugging Face Hub, or from its cache offline."""

import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote

from parity.containers.container import CONFIG
from parity.containers.files import reading
from parity.containers.names import BESIDE, CANDIDATES, INDEX
from parity.containers.shards import inside, places_of

SLOWER = 3
"""How many times longer a Hub may take that did not answer in `HF_HUB_ETAG_TIMEOUT` seconds."""
REASON = 160  # characters of why the network failed
ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.+))?")


class Absent(FileNotFoundError):
    """The repository does not have a file, says the Hub."""


class Unreached(FileNotFoundError):
    """A file is not in the cache, and the Hub does not give it."""


def is_address(path: str) -> bool:
    """Whether a path is an address on the Hub; `Path` makes one slash of two."""
    return path.startswith("hf:/")


def names_file(address: str) -> bool:
    """Whether an address ends with the name of a file."""
    match = ADDRESS.fullmatch(address)
    return match is not None and match[3] is not None


def downloaded(address: str) -> Path:
    """The file on this disk, with its shards, its `config.json` and its like beside it.

    A Hub that gives no answer, or is busy, is asked once: the cache comes before more tries.

    Raises `ValueError` for another form of address, `ModuleNotFoundError` without huggingface_hub,
    `FileNotFoundError` for what the Hub does not have, or the cache without network, and `OSError`
    for a download that breaks off.
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
    ask = partial(_failure, repository, revision, names[0])
    failure = ask()
    try:
        return _together(address, fetch, names, failure)
    except Unreached:
        if _is_busy(failure) or (_is_slow(failure) and ask(SLOWER) is None):
            return _together(address, fetch, names, None)
        raise


def _together(
    address: str, fetch: Callable[..., Any], names: list[str], failure: Exception | None
) -> Path:
    """The first of `names`, with what belongs to it; from the cache alone after a failure."""
    found, name = _first(address, fetch, names, failure)
    folder = Path(name).parent
    if name.endswith(INDEX):
        with reading(found) as index:
            places, _ = places_of(index)
        for shard in sorted(set(places.values())):
            inside(found, shard)
            _first(address, fetch, [(folder / shard).as_posix()], failure)
    for name in (CONFIG, *BESIDE):  # a model need not have one, nor a cache
        with contextlib.suppress(FileNotFoundError if failure else Absent):
            _first(address, fetch, [(folder / name).as_posix()], failure)
    return found


def _failure(repository: str, revision: str, name: str, times: int = 1) -> Exception | None:
    """Why the Hub does not answer one request, which is not tried again; None if it does.

    A download of what is not in the cache waits for up to 6 minutes and raises some errors of the
    network before it looks there; `HF_HUB_ETAG_TIMEOUT` (10 s) times `times` bounds this request.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT * times)
    except errors.HFValidationError:
        return None  # the download says it
    except Exception as error:  # its versions have several libraries, with no one base
        answered = isinstance(error, errors.HfHubHTTPError) and not _is_busy(error)
        return None if answered else error
    return None


def _is_busy(error: Exception | None) -> bool:
    """Whether the Hub answered that it could not answer now, for which downloads wait and retry."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status in (408, 429) or status >= 500


def _is_slow(error: Exception | None) -> bool:
    return "Timeout" in type(error).__name__


def _first(
    address: str, fetch: Callable[..., Any], names: list[str], failure: Exception | None
) -> tuple[Path, str]:
    """The first of `names` that the repository, or after a failure the cache, has; which it is."""
    from huggingface_hub import errors

    for name in names:
        try:
            return Path(fetch(filename=name, local_files_only=failure is not None)), name
        except errors.LocalEntryNotFoundError as error:
            cause = error.__cause__
            failure = failure or (cause if isinstance(cause, Exception) else error)
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise ValueError(f"{address!r} is no address: {error}") from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise FileNotFoundError(
                f"{address}: the Hub has no such repository or revision, or not for you: check the "
                "name; for gated models, accept the terms and run `hf auth login`"
            ) from error
        except Exception as error:  # refused, no space, a connection that breaks off
            raise OSError(f"{address}: downloading {name} failed: {_why(error)}") from error
    if failure is not None:
        slow = "; a slow one has HF_HUB_ETAG_TIMEOUT seconds" if _is_slow(failure) else ""
        raise Unreached(
            f"{address}: {', '.join(names)} not in the cache, and the Hub cannot be reached: "
            f"connect, or download the file elsewhere and give its path ({_why(failure)}{slow})"
        ) from failure
    raise Absent(f"{address}: the repository has no {', '.join(names)}: add /FILE to the address")


def _why(error: Exception) -> str:
    """An error in one line."""
    return shorten(f"{type(error).__name__}: {error}", REASON, placeholder="...")
