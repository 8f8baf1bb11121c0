"""Where files are, that they are verified, and that writing never leaves half a file."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import reuselib
from reuselib import home
from reuselib.errors import DamagedFile, MissingFile

SHIPPED = "papers/dfad.yaml"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data folder of an installation without a clone."""
    monkeypatch.setattr(home, "in_clone", lambda: False)
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "data"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder as the repository and return the place of its shipped file."""
    file = tmp_path / "web" / "raw" / f"v{reuselib.__version__}" / "data" / SHIPPED
    file.parent.mkdir(parents=True)
    file.write_bytes((home.CLONE / "data" / SHIPPED).read_bytes())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(home, "REPOSITORY", f"http://127.0.0.1:{server.server_port}")
    yield file
    server.shutdown()
    server.server_close()


def test_root_is_the_clone_or_what_the_user_chose_and_of_a_wheel_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    assert home.root() == tmp_path
    monkeypatch.delenv("REUSELIB_DATA")
    assert home.root() == home.CLONE / "data"
    assert home.path("results", "dfad") == home.CLONE / "data" / "results" / "dfad"
    monkeypatch.setattr(home, "in_clone", lambda: False)
    assert home.root().name == "reuselib" and home.CLONE not in home.root().parents


def test_verify_names_path_hashes_and_fix(tmp_path: Path) -> None:
    file, digest = tmp_path / "weights", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(MissingFile, match="weights is missing. Fix: fetch it"):
        home.verify(file, "0" * 64, "fetch it")
    file.write_bytes(b"abc")
    with pytest.raises(DamagedFile) as caught:
        home.verify(file, "0" * 64, "fetch it")
    assert all(part in str(caught.value) for part in (str(file), "0" * 64, digest, "fetch it"))
    assert home.verify(file, digest, "fetch it") == file and home.sha256(file) == digest


def test_a_shipped_file_is_the_clones_wherever_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    assert home.shipped(SHIPPED) == home.CLONE / "data" / SHIPPED
    (tmp_path / "papers").mkdir()
    (tmp_path / SHIPPED).write_text("altered")
    with pytest.raises(DamagedFile, match="delete it"):
        home.shipped(SHIPPED)


def test_a_damaged_shipped_file_names_the_git_command_and_one_that_is_not_shipped_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REUSELIB_DATA", raising=False)
    monkeypatch.setattr(home, "registry", lambda: {SHIPPED: "0" * 64})
    with pytest.raises(DamagedFile, match=f"git checkout -- data/{SHIPPED}"):
        home.shipped(SHIPPED)
    with pytest.raises(MissingFile, match="python -m reuselib.home"):
        home.shipped("zoo/nothing/card.json")


def test_a_wheel_fetches_a_shipped_file_once_and_replaces_a_damaged_one(wheel: Path, repository: Path) -> None:
    home.write_atomic(wheel / SHIPPED, b"half")
    found = home.shipped(SHIPPED)
    assert found == wheel / SHIPPED and home.sha256(found) == home.registry()[SHIPPED]
    repository.unlink()
    assert home.shipped(SHIPPED) == found


def test_a_wheel_without_the_file_says_what_to_do_and_refuses_altered_bytes(wheel: Path, repository: Path) -> None:
    repository.write_text("altered")
    with pytest.raises(MissingFile, match="hash"):
        home.shipped(SHIPPED)
    repository.unlink()
    with pytest.raises(MissingFile, match="REUSELIB_DATA"):
        home.shipped(SHIPPED)
    assert not (wheel / SHIPPED).exists()
    home.write_atomic(wheel / SHIPPED, b"half")
    with pytest.raises(DamagedFile, match="expected sha256 .* found"):
        home.shipped(SHIPPED)


def test_write_atomic_makes_folders_and_leaves_the_old_file_where_it_fails_or_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a" / "b.json"
    for content in (b"first", b"old"):
        home.write_atomic(file, content)
        assert file.read_bytes() == content and os.listdir(file.parent) == ["b.json"]

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        home.write_atomic(file, b"new")
    assert file.read_bytes() == b"old" and os.listdir(file.parent) == ["b.json"]
    code = (
        "import os, signal; from reuselib import home; "
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        f"home.write_atomic({str(file)!r}, b'new' * 10000)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=home.CLONE).returncode < 0
    assert file.read_bytes() == b"old"


def test_scan_takes_what_is_shipped_and_nothing_beside_it(tmp_path: Path) -> None:
    names = ["papers/a.yaml", "zoo/net/card.json", "FashionMNIST/raw/x.gz"]
    for name in [*names, "papers/a.txt", "FashionMNIST/raw/x", "zoo/net/training.pt", "results/r.json"]:
        home.write_atomic(tmp_path / name, name.encode())
    assert home.scan(tmp_path) == {n: hashlib.sha256(n.encode()).hexdigest() for n in sorted(names)}


def test_the_registry_is_in_step_with_the_shipped_files() -> None:
    assert home.scan(home.CLONE / "data") == home.registry(), "run python -m reuselib.home"
