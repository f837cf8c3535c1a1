"""`hf://ORG/NAME` as the source of a conversion, from a cache on this disk."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

import parity
import vit_torch
from parity.cli import main
from parity.containers.hub import downloaded
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY
from vit_spec import Preprocessing, checkpoint

SHA = "0123456789" * 4


@pytest.fixture
def ours(tmp_path):
    facts = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_fraction=1.0, squash=True)
    model = vit_torch.create(TINY.replace(pos_embed_antialias=False))
    vit_torch.save(model, tmp_path / "ours", preprocessing=facts)
    return tmp_path / "ours"


def cached(home, name, files):
    """A repository in huggingface_hub's cache: links to blobs, as it makes them."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / SHA, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    for file in files.iterdir():
        if file.name != "parity.json":
            (blobs / f"blob-{file.name}").write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(blobs / f"blob-{file.name}")


def command(home, *arguments, **settings):
    environment = os.environ | {"HF_HOME": str(home)} | (settings or {"HF_HUB_OFFLINE": "1"})
    line = [sys.executable, "-m", "parity", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("format", ["hf_vit", "timm", "hf_flax_vit"])
def test_a_repository_is_converted_with_all_it_says(format, ours, tmp_path):
    there = parity.convert(ours, tmp_path / "theirs", target=format)
    cached(tmp_path, "org/name", there)
    for address in ("hf://org/name", "hf://org/name@main", f"hf://org/name@{SHA}"):
        target = tmp_path / f"back{len(address)}"
        result = command(tmp_path, "convert", address, str(target), "--no-verify")
        assert result.returncode == 0, result.stderr
        assert_same_bits(ours, target)
        said = checkpoint.read_header(target)
        assert said.preprocessing == checkpoint.read_header(ours).preprocessing
        assert said.config.replace(pos_embed_antialias=False) == TINY.replace(
            pos_embed_antialias=False
        )
        content = json.loads((target / "parity.json").read_text())
        assert content["address"] == address and SHA in content["source"]["path"]
        assert content["source"]["format"] == format
        assert parity.verify(target).passed
    inspected = command(tmp_path, "inspect", "hf://org/name")
    assert f"{format}, " in inspected.stdout, inspected.stderr


def test_outputs_of_a_repository_are_compared(ours, tmp_path):
    cached(tmp_path, "org/name", parity.convert(ours, tmp_path / "theirs", target="hf_vit"))
    result = command(tmp_path, "convert", "hf://org/name", str(tmp_path / "x"), "--to", "timm")
    assert "outputs of both sides on 2 images" in result.stdout, result.stderr


def test_one_file_of_a_repository(ours, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    parity.convert(ours, files / "weights.safetensors", certificate=False)
    cached(tmp_path, "org/name", files)
    address = "hf://org/name/weights.safetensors"
    result = command(tmp_path, "convert", address, str(tmp_path / "x"), "--no-verify")
    assert result.returncode == 0, result.stderr
    assert_same_bits(ours, tmp_path / "x")


def test_a_repository_that_is_not_there_says_so_in_one_line(tmp_path):
    result = command(tmp_path, "convert", "hf://org/other", str(tmp_path / "x"))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "hf://org/other: model.safetensors" in result.stderr


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for one file; at first it is too busy."""

    weights = b""
    requests = 0
    slow = False
    asked_again = threading.Event()

    def do_HEAD(self):
        there = self.path == "/org/name/resolve/main/model.safetensors"
        Hub.requests += there
        busy = there and Hub.requests == 1
        if busy and self.slow:
            self.asked_again.wait(30)
        elif there:
            self.asked_again.set()
        self.send_response(503 if busy else 200 if there else 404)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("X-Error-Code", "" if there else "EntryNotFound")
        self.send_header("ETag", '"blob"')
        self.send_header("Content-Length", str(len(self.weights) if there and not busy else 0))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.weights)

    def log_message(self, format, *args):
        """Nothing."""


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def endpoint(port):
    there = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0"}
    return there | {"NO_PROXY": "*", "no_proxy": "*"}


def test_a_repository_is_downloaded_from_a_hub_that_is_busy_at_first(ours, server, tmp_path):
    file = parity.convert(ours, tmp_path / "x.safetensors")
    Hub.weights, Hub.requests = file.read_bytes(), 0
    settings = endpoint(server.server_port)
    result = command(tmp_path, "inspect", "hf://org/name/model.safetensors", **settings)
    assert "model.safetensors: safetensors, " in result.stdout, result.stderr


def refusing(listening):
    """Answers all as a proxy that lets nothing through."""
    for connection in accepted(listening):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def closing(listening):
    """Closes the connection in place of an answer."""
    for connection in accepted(listening):
        connection.recv(4096)


def accepted(listening):
    with contextlib.suppress(OSError):  # until it is closed
        while True:
            connection, _ = listening.accept()
            with connection:
                yield connection


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Sets the address of the Hub in this process, and where its cache is."""

    def set_to(endpoint, timeout):
        for name, value in {
            "ENDPOINT": endpoint, "HF_HUB_ETAG_TIMEOUT": timeout, "HF_HUB_OFFLINE": False,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }.items():  # fmt: skip
            monkeypatch.setattr(huggingface_hub.constants, name, value)

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    huggingface_hub.close_session()  # which has read the proxies
    yield set_to
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusing, "ProxyError: 403 Forbidden"),
        (closing, "RemoteProtocolError: "),
        (None, "ReadTimeout: timed out; a slow one has HF_HUB_ETAG_TIMEOUT seconds"),
    ],
)
def test_each_failure_of_the_network_is_one_line_and_after_the_cache(
    answer, why, hub, tmp_path, monkeypatch, capsys
):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if answer is refusing:
            monkeypatch.setenv("https_proxy", there)
        hub("https://hub.invalid" if answer is refusing else there, 0.1)
        if answer:
            threading.Thread(target=answer, args=[listening], daemon=True).start()
        began = time.monotonic()
        assert main(["inspect", "hf://org/other"]) == 2
        assert time.monotonic() - began < 5
        error = capsys.readouterr().err
        assert "not in the cache, and the Hub cannot be reached: connect, or" in error
        assert f"({why}" in error and error.count("\n") == 1
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "model.safetensors").write_bytes(b"weights")
        cached(tmp_path, "org/name", tmp_path / "files")
        assert downloaded("hf://org/name").read_bytes() == b"weights"
        listening.shutdown(socket.SHUT_RDWR)


def test_a_hub_that_is_slow_at_first_is_waited_for(hub, server, monkeypatch):
    monkeypatch.setattr(Hub, "slow", True)
    monkeypatch.setattr(Hub, "asked_again", threading.Event())
    Hub.weights, Hub.requests = b"weights", 0
    hub(f"http://127.0.0.1:{server.server_port}", 0.5)
    assert downloaded("hf://org/name").read_bytes() == b"weights"


def test_a_config_that_the_network_fails_to_bring_is_no_model_without_one(hub, server, monkeypatch):
    def broken(self):
        self.close_connection = not self.path.endswith("/model.safetensors")
        if not self.close_connection:
            answer(self)

    answer = Hub.do_HEAD
    monkeypatch.setattr(Hub, "do_HEAD", broken)
    Hub.weights, Hub.requests = b"weights", 1
    hub(f"http://127.0.0.1:{server.server_port}", 5)
    with pytest.raises(OSError, match=r"downloading config\.json failed: RemoteProtocolError"):
        downloaded("hf://org/name")


def test_without_a_network_nothing_is_tried_again(ours, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings = endpoint(closed.getsockname()[1])
    result = command(tmp_path, "inspect", "hf://org/other", **settings)
    assert result.returncode == 2 and "the Hub cannot be reached: connect" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr  # each try has a line of its own
    cached(tmp_path, "org/name", parity.convert(ours, tmp_path / "theirs", target="timm"))
    result = command(tmp_path, "inspect", "hf://org/name", **settings)
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_an_address_as_a_target_says_how_to_upload(ours, capsys):
    assert main(["convert", str(ours), "hf://org/name"]) == 2
    assert "convert to a directory and upload it by `hf upload" in capsys.readouterr().err
