"""Where data, weights and records live, and how files are verified and written.

In a clone everything is in the clone's `data/`. A wheel brings published tables, records and the cards of networks;
images and weights are fetched into `$REUSELIB_DATA` or the user's cache, each checked against `registry.txt`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from reuselib import __version__
from reuselib.errors import BadValue, CannotWrite, DamagedFile, MissingFile

PACKAGE = Path(__file__).resolve().parent
CLONE = PACKAGE.parent
REGISTRY = PACKAGE / "registry.txt"
SHIPPED = (
    "FashionMNIST/raw/*.gz",
    "papers/*.*",
    *(
        f"zoo/{piece}/{file}"
        for piece in ("*", "rooms-[01]/*", "closeups/*", "digits/*", "found/*")
        for file in ("*.safetensors", "card.json", "log.csv")
    ),
)


@cache
def in_clone() -> bool:
    """Return whether the package stands in a clone of the repository, beside its `data/`."""
    return (CLONE / "data" / "papers").is_dir()


def root() -> Path:
    """Return the data folder: `$REUSELIB_DATA`, else the clone's `data/`, else the user's cache.

    Raises:
        MissingFile: If `$REUSELIB_DATA` is no folder. A folder is not made here: a mistyped one would look empty.
    """
    if chosen := os.environ.get("REUSELIB_DATA"):
        folder = Path(chosen).expanduser().resolve()
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise MissingFile(f"REUSELIB_DATA names {folder}, which {what}. Fix: make that folder, or name another")
        return folder
    if in_clone():
        return CLONE / "data"
    import pooch

    return Path(pooch.os_cache("reuselib"))


def path(*parts: str | Path) -> Path:
    """Return a path below `root()`; nothing is created.

    Raises:
        BadValue: If a part, such as a row's name, leads out of its folder.
    """
    for part in map(Path, parts):
        if part.is_absolute() or ".." in part.parts:
            raise BadValue(f"{str(part)!r} leads out of the data folder. Fix: give a plain name")
    return root().joinpath(*parts)


def brought() -> Path:
    """Return the folder of what came with this installation: the clone's `data/`, or the wheel's part of it."""
    return CLONE / "data" if in_clone() else PACKAGE / "shipped"


def results(paper: str) -> Path:
    """Return the file to read a paper's records from: until a wheel's user has records, those that it brought."""
    own = path("results", f"{paper}.jsonl")
    there = brought() / "results" / own.name
    return there if not own.is_file() and not os.environ.get("REUSELIB_DATA") and there.is_file() else own


def _repository() -> str:
    """Return the repository's web address: from the clone's `_config.yml`, else the wheel's metadata; "" if not set."""
    config = CLONE / "_config.yml"
    if in_clone() and config.is_file():
        pattern = r"^repository:\s*\n(?:[ \t]+.*\n)*?[ \t]+url:[ \t]*\"?([^\s\"]*)"
        found = re.search(pattern, config.read_text("utf-8"), re.MULTILINE)
        return found[1].rstrip("/") if found else ""
    try:
        entries = metadata.metadata("reuselib").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    return dict(entry.split(", ", 1) for entry in entries).get("Repository", "").rstrip("/")


REPOSITORY = _repository()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: str | Path, expected: str, fix: str) -> Path:
    """Check a file against its hash.

    Args:
        path: The file.
        expected: Its SHA-256, as hexadecimal digits.
        fix: The command that fetches it again; it ends the error message.

    Returns:
        The path, unchanged.

    Raises:
        MissingFile: If there is no such file.
        DamagedFile: If its hash differs.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"{path} is missing. Fix: {fix}")
    found = sha256(path)
    if found != expected:
        raise DamagedFile(path, f"expected sha256 {expected}, found {found}", fix)
    return path


def registry() -> dict[str, str]:
    """Return the SHA-256 of every shipped file, by its path below the data folder."""
    lines = REGISTRY.read_text("utf-8").splitlines()
    return {relative: digest for digest, relative in (line.split(maxsplit=1) for line in lines)}


def shipped(relative: str) -> Path:
    """Return a file that comes with the repository, verified against `registry.txt`.

    In a clone the file is there already, also when `$REUSELIB_DATA` points elsewhere. A wheel brings the small ones;
    the others are fetched once, from the repository's raw address.

    Args:
        relative: Path below the data folder, with forward slashes: "zoo/fashion16-conv3/card.json".

    Raises:
        MissingFile: If the name is not in the registry, or the file cannot be had.
        DamagedFile: If the file that came with the installation has another hash.
    """
    expected = registry().get(relative)
    if expected is None:
        raise MissingFile(f"{relative} is not in registry.txt. Fix: in a clone, run python -m reuselib.home")
    own, there = path(relative), brought() / relative
    if not in_clone() and not there.is_file():
        return _fetch(relative, expected)
    if own.is_file() and own != there:
        return verify(own, expected, f"delete it, the installation has its own data/{relative}")
    return verify(there, expected, f"git checkout -- data/{relative}" if in_clone() else "install reuselib again")


def at_hand(relative: str) -> bool:
    """Return whether a shipped file is on this machine, so that :func:`shipped` need not fetch it."""
    return in_clone() or (brought() / relative).is_file() or path(relative).is_file()


def _fetch(relative: str, expected: str) -> Path:
    """Fetch a shipped file into the data folder unless it is there with the right hash."""
    import pooch

    target = path(relative)
    found = sha256(target) if target.is_file() else None
    if found == expected:
        return target
    otherwise = "set REUSELIB_DATA to the data/ folder of a clone"
    if not REPOSITORY:
        raise MissingFile(f"{target} is missing, and this copy has no address to fetch it from. Fix: {otherwise}")
    address = f"{REPOSITORY}/raw/v{__version__}/data/{relative}"
    fix = f"connect to the network and try again, or {otherwise}"
    try:
        pooch.retrieve(address, f"sha256:{expected}", fname=target.name, path=target.parent)
    except Exception as error:
        reason = f"fetching {address} failed with {type(error).__name__}: {error}"
        if found:
            raise DamagedFile(target, f"expected sha256 {expected}, found {found}; {reason}", fix) from error
        raise MissingFile(f"{target} is missing; {reason}. Fix: {fix}") from error
    return target


FIXES = {
    errno.ENOSPC: "Free some space there, or set REUSELIB_DATA to a folder on another disk. {kept}",
    errno.ENOTDIR: "A file stands where a folder is needed: move it away",
    errno.EEXIST: "A file stands where a folder is needed: move it away",
    errno.EISDIR: "A folder stands where a file is needed: move it away, or give another path",
}
FIXES[errno.EDQUOT] = FIXES[errno.ENOSPC]


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system says against a block that writes into an error that names the path and the fix.

    Raises:
        CannotWrite: If the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        otherwise = "Make it writable, or set REUSELIB_DATA to a folder that is"
        kept = "All records and the last checkpoint are kept: the same command goes on from there"
        fix = FIXES.get(error.errno or 0, otherwise).format(kept=kept)
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}. Fix: {fix}") from error


def check_writable(folder: Path) -> None:
    """Write a megabyte to a folder, made if absent, and take it away: better refused now than after hours of work.

    Raises:
        CannotWrite: If the folder cannot be made or written, or its disk is full.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: The file; its folder is made when absent.
        data: The whole content.

    Raises:
        CannotWrite: If there is no space or no right to write; the old content is still there.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def scan(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a data folder that is shipped, by its relative path."""
    folder = Path(folder)
    files = (file for pattern in SHIPPED for file in folder.glob(pattern) if file.is_file())
    relatives = sorted(file.relative_to(folder).as_posix() for file in files if not file.name.startswith("."))
    return {relative: sha256(folder / relative) for relative in relatives}


def write_registry() -> Path:
    """Write `registry.txt` anew from the clone's `data/`; run it whenever a shipped file changes."""
    lines = (f"{digest}  {relative}\n" for relative, digest in scan(CLONE / "data").items())
    write_atomic(REGISTRY, "".join(lines).encode())
    return REGISTRY


if __name__ == "__main__":
    print(write_registry())
