"""Files below `downloads/` of the data folder: fetched, compared with their hashes, counted, and read as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from reuselib import home
from reuselib.errors import DamagedFile, MissingFile, ReuseError, unknown

SPLITS = ("train", "test")
Change = Callable[[Image.Image, int], Image.Image]


def downloads(*parts: str) -> Path:
    """The folder that fetched files lie in, or a path below it."""
    return home.path("downloads", *parts)


def command(name: str) -> str:
    """The command that fetches a set."""
    celeba = name == "celeba_attributes"
    call = "multi_label.celeba_attributes(download=True)" if celeba else f"load('{name}', download=True)"
    return f'python -c "from reuselib import data; data.{call}"'


def fetch_again(name: str, place: Path) -> str:
    """How what lies somewhere below `downloads/` is brought back."""
    return f"delete {place} if it is there, then run {command(name)}"


def check_split(split: str, name: str = "", splits: Sequence[str] = SPLITS) -> None:
    """Refuse a split that a set has not; UnknownName names the nearest."""
    if split not in splits:
        raise unknown(f"split of {name}" if name else "split", split, splits)


def count_and_seed(split: str, train: int, test: int, seed: int = 0) -> tuple[int, int]:
    """How many images of a split are drawn, and by which seed: test images by the one after that of training images."""
    check_split(split)
    return (train, test)[SPLITS.index(split)], seed + SPLITS.index(split)


CUT_OFF = "what came was cut off, or is a page in its place: run {command} again"
TOO_OFTEN = "its server gave it too often today: run {command} tomorrow"
MENDED = {
    "'gdown' is required": "pip install gdown, and run {command}",
    **dict.fromkeys(("quota", "many accesses", "many users"), TOO_OFTEN),
    **dict.fromkeys(("corrupted", "incomplete"), CUT_OFF),
    "no space left": "free some space, or set REUSELIB_DATA to a folder on another disk, and run {command}",
    "http error": "its server is there but does not give it: run {command} later",
}
"""What a failed download says, in small letters → what to do."""


def fetch(name: str, download: Callable[[], object], again: str = "") -> None:
    """Run a download, for example one of torchvision's; `again` is the command that repeats it, if not `command(name)`.

    Raises:
        ReuseError: If it fails, for example without a network.
    """
    try:
        download()
    except Exception as error:  # urllib's, torchvision's and gdown's errors have no narrower base in common
        reason = " ".join(str(error).split()) or type(error).__name__
        known = (mended for sign, mended in MENDED.items() if sign in reason.lower())
        fix = next(known, "connect to the network and run {command}")
        raise ReuseError(
            f"{name} could not be fetched ({reason}). Fix: {fix.format(command=again or command(name))}, "
            f"or bring the files from elsewhere to {downloads()}"
        ) from error


def check(name: str, files: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Compare files with their published MD5.

    Raises:
        MissingFile: If one is not there.
        DamagedFile: If one has another hash.
    """
    for path, expected in files:
        with open(present(path, command(name)), "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != expected:
            fix = f"delete {path} and what was unpacked from it below {folder}, then run {command(name)}"
            raise DamagedFile(path, f"expected md5 {expected}, found {found}", fix)


def present(path: Path, fix: str) -> Path:
    """The path itself; MissingFile where nothing is."""
    if not path.exists():
        raise MissingFile(f"{path} is missing. Fix: {fix}")
    return path


def named(path: Path, fix: str) -> Path:
    """The path itself; DamagedFile unless its name ends, after a hyphen, in the first digits of the file's SHA-256."""
    expected = path.stem.rpartition("-")[2]
    if not (digest := home.sha256(path)).startswith(expected):
        raise DamagedFile(path, f"expected sha256 {expected}..., found {digest}", fix)
    return path


def count(place: Path, found: int, expected: int, fix: str, what: str = "images") -> None:
    """Refuse a place that does not hold as much as was published."""
    if found != expected:
        raise DamagedFile(place, f"expected {expected} {what}, found {found}", fix)


def listed(folder: Path, pattern: str, expected: int, fix: str) -> list[Path]:
    """The sorted files of a folder that must be there in full number."""
    files = sorted(present(folder, fix).glob(pattern))
    count(folder, len(files), expected, fix)
    return files


def matlab(path: Path, keys: Sequence[str], fix: str, squeeze: bool = False) -> dict[str, Any]:
    """Variables of a MATLAB file, without dimensions of length 1 where `squeeze` says so."""
    from scipy.io import loadmat

    present(path, fix)
    try:
        held = loadmat(str(path), variable_names=list(keys), squeeze_me=squeeze)
    except Exception as error:  # what scipy raises depends on where the file is cut off or altered
        raise DamagedFile(path, f"it cannot be read ({error})", fix) from error
    if lacking := [key for key in keys if key not in held]:
        raise DamagedFile(path, f"it holds no {', '.join(lacking)}", fix)
    return held


def pictures(
    place: Path, names: Sequence[str | Path], change: Change, fix: str, opened: Callable[[str], IO[bytes]] | None = None
) -> Tensor:
    """Read pictures in parallel.

    Args:
        place: The folder, archive or database that holds them.
        names: Of the pictures in it; paths may also be whole.
        change: Makes all of them one size and mode, given each and its position; an OSError of its counts as damage.
        fix: Ends the message when one is missing or cannot be decoded.
        opened: Opens one by its name; without it, `place` is a folder.

    Returns:
        uint8, (N, C, H, W). It is filled in place: gigabytes are not to be held twice.
    """

    def read(index: int) -> Tensor:
        source = opened(str(names[index])) if opened else present(place / names[index], fix)
        try:
            with Image.open(source) as image:
                return transforms.pil_to_tensor(change(image, index))
        except OSError as error:
            raise DamagedFile(place / names[index], f"it cannot be decoded ({error})", fix) from error

    first = read(0)
    found = torch.empty(len(names), *first.shape, dtype=torch.uint8)

    def put(index: int) -> None:
        picture = read(index)
        if picture.shape != first.shape:
            sizes = f"{tuple(picture.shape[1:])}, not {tuple(first.shape[1:])}"
            raise DamagedFile(place / names[index], f"its size becomes {sizes} as that of {names[0]}", fix)
        found[index] = picture

    with ThreadPoolExecutor() as pool:
        list(pool.map(put, range(len(names))))
    return found


def square(size: int, shorter: int | None = None) -> Change:
    """Make a picture coloured, its shorter side `shorter` long (`size` if left out), and cut out its centre."""

    def change(image: Image.Image, _: int) -> Image.Image:
        return transforms.center_crop(transforms.resize(image.convert("RGB"), shorter or size), size)

    return change


def shrunk(shorter: int) -> Change:
    """Make a picture coloured and its shorter side `shorter` long."""
    return lambda image, _: transforms.resize(image.convert("RGB"), shorter)
