"""Where files are, that they are verified, and that writing never leaves half a file."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import archives
import pytest

import reuselib
from reuselib import home
from reuselib.errors import BadValue, CannotWrite, DamagedFile, MissingFile

SHIPPED = "zoo/digits8-conv3/log.csv"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder as the repository and return the place of its shipped file."""
    file = tmp_path / "web" / "raw" / f"v{reuselib.__version__}" / "data" / SHIPPED
    home.write_atomic(file, (home.CLONE / "data" / SHIPPED).read_bytes())
    with archives.serving(tmp_path / "web", monkeypatch) as address:
        monkeypatch.setattr(home, "REPOSITORY", address.rstrip("/"))
        yield file


def test_root_is_the_clone_or_what_the_user_chose_and_of_a_wheel_the_users_cache(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.root() == room
    for name in ("../evil", "a/../../evil", "/evil"):
        with pytest.raises(BadValue, match="leads out of the data folder"):
            home.path("results", name, "seed0")
    (room / "file").touch()
    for name, words in (("none", "does not exist"), ("file", "is a file")):
        monkeypatch.setenv("REUSELIB_DATA", str(room / name))
        with pytest.raises(MissingFile, match=f"{name}, which {words}. Fix: make"):
            home.root()
    monkeypatch.delenv("REUSELIB_DATA")
    assert home.path("results", "dfad") == home.CLONE / "data" / "results" / "dfad"
    monkeypatch.setattr(home, "in_clone", lambda: False)
    assert home.root().name == "reuselib" and home.CLONE not in home.root().parents


def test_a_shipped_file_is_the_clones_wherever_results_go_and_verified(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.shipped(SHIPPED) == home.CLONE / "data" / SHIPPED
    home.write_atomic(room / SHIPPED, b"abc")
    with pytest.raises(DamagedFile) as caught:
        home.shipped(SHIPPED)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert all(
        part in str(caught.value) for part in (str(room / SHIPPED), home.registry()[SHIPPED], digest, "delete it")
    )
    with pytest.raises(MissingFile, match="other is missing. Fix: fetch it"):
        home.verify(room / "other", digest, "fetch it")
    monkeypatch.delenv("REUSELIB_DATA")
    monkeypatch.setattr(home, "registry", lambda: {SHIPPED: "0" * 64})
    with pytest.raises(DamagedFile, match=f"git checkout -- data/{SHIPPED}"):
        home.shipped(SHIPPED)
    with pytest.raises(MissingFile, match="python -m reuselib.home"):
        home.shipped("zoo/nothing/card.json")


def test_a_wheel_fetches_a_shipped_file_once_and_says_what_to_do_where_it_cannot(
    room: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "in_clone", lambda: False)
    original = repository.read_bytes()
    assert not home.at_hand(SHIPPED)
    repository.write_text("altered")
    with pytest.raises(MissingFile, match="hash"):
        home.shipped(SHIPPED)
    repository.unlink()
    with pytest.raises(MissingFile, match="REUSELIB_DATA"):
        home.shipped(SHIPPED)
    home.write_atomic(room / SHIPPED, b"half")
    with pytest.raises(DamagedFile, match="expected sha256 .* found"):
        home.shipped(SHIPPED)
    repository.write_bytes(original)
    assert home.shipped(SHIPPED) == room / SHIPPED and home.sha256(room / SHIPPED) == home.registry()[SHIPPED]
    repository.unlink()
    assert home.shipped(SHIPPED) == room / SHIPPED and home.at_hand(SHIPPED)


def test_write_atomic_makes_folders_and_leaves_the_old_file_where_it_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.json"
    for content in (b"first", b"old"):
        home.write_atomic(file, content)
        assert file.read_bytes() == content and os.listdir(file.parent) == ["b.json"]
    code = (
        "import os, signal; from reuselib import home; "
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        f"home.write_atomic({str(file)!r}, b'new' * 10000)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=home.CLONE).returncode < 0
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Free some space.*the same command goes on"), (errno.EROFS, "set REUSELIB_DATA"), (None, "odd")],
)
def test_what_keeps_a_file_from_being_written_is_named_and_the_old_one_stays(
    number: int | None, words: str, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number)) if number else OSError("odd")

    home.write_atomic(room / "file", b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CannotWrite, match=f"file cannot be written: .*{words}"):
        home.write_atomic(room / "file", b"new")
    assert (room / "file").read_bytes() == b"old" and os.listdir(room) == ["file"]


def test_a_file_in_the_way_of_a_folder_is_found_before_anything_is_written(room: Path) -> None:
    home.check_writable(room / "results" / ".scratch")
    assert os.listdir(room / "results" / ".scratch") == []
    (room / "zoo").touch()
    with pytest.raises(CannotWrite, match="zoo.* cannot be written: .*A file stands where a folder is needed"):
        home.check_writable(room / "zoo" / "mine")


def test_the_registry_is_in_step_with_the_shipped_files_and_with_nothing_beside_them(tmp_path: Path) -> None:
    assert home.scan(home.CLONE / "data") == home.registry(), "run python -m reuselib.home"
    names = ["papers/a.yaml", "zoo/net/card.json", "zoo/rooms-1/depth/card.json", "FashionMNIST/raw/x.gz"]
    for name in [*names, "FashionMNIST/raw/x", "zoo/net/training.pt", "zoo/pool/net/card.json", "results/r.json"]:
        home.write_atomic(tmp_path / name, name.encode())
    assert home.scan(tmp_path) == {n: hashlib.sha256(n.encode()).hexdigest() for n in sorted(names)}
