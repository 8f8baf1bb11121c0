"""Files of two papers on transferability: Taskonomy's encoders, and the photographs by which networks were compared.

The lists of photographs are the authors'; COCO's are fetched one by one, those of Indoor Scene and of Taskonomy itself
must be brought, and any folder of one's own will do: ``downloads/probes/own``.

Source: Zamir et al. 2018 (encoders, as Sax et al. 2018 put them into PyTorch, MIT); Song et al. 2019 and 2020 (lists).
"""

import random
from pathlib import Path

from PIL import Image

from reuselib import home
from reuselib.data import files
from reuselib.data.image_set import HALVES, ImageSet, one_class
from reuselib.errors import MissingFile, ReuseError, unknown

ENCODERS = "taskonomy_encoders"
_GITHUB = "https://raw.githubusercontent.com/zju-vipa"
_LISTS = f"{_GITHUB}/TransferbilityFromAttributionMaps/6818649dd19cde262eeb662dac0bc62b5aecbb0c/explain_result"
LISTS = {
    "coco_probes": "e204308d264e050aad1b6541e9b0a74f0ebea1393eb8de591a78dcff86f75b48",
    "indoor_probes": "68f1cfd7a2d8c61ef9c1547ccf0b3b8d344a8182c820701d2bee585ee1e87a64",
    "taskonomy_probes": "488463c566c180656c3403e49e37c84acaffbeba8ec241146c76f936dd189a0b",
}
"""Photographs → SHA-256 of the authors' list of their names."""
ADDRESSES = {
    "coco_probes": "http://images.cocodataset.org/val2014",
    "depara_probes": f"{_GITHUB}/DEPARA/6cf9f6ebef6f819a8f654aea32d1ea5a8066ba99/syn2real-data/test200",
    ENCODERS: "https://github.com/alexsax/visual-prior/raw/networks/assets/pytorch",
}
BROUGHT = {
    "indoor_probes": "unpack indoorCVPR_09.tar of MIT's Indoor Scene Recognition there",
    "taskonomy_probes": "bring the RGB images of Taskonomy that are listed, in folders like collierville_rgb",
    "own_probes": "put photographs of your own there",
}
PROBES = (*LISTS, "depara_probes", "own_probes")


def encoders() -> dict[str, str]:
    """Task, as the chapter's affinities name it → file of its encoder, which ends in its SHA-256."""
    return dict(line.split() for line in home.shipped("papers/taskonomy_encoders.txt").read_text("utf-8").splitlines())


def _registered(name: str, download: bool = False) -> dict[str, str | None]:
    """The files of a name below its folder, with their SHA-256 where that is known."""
    if name == ENCODERS:
        return {file: Path(file).stem.rpartition("-")[2] for file in encoders().values()}
    if name == "depara_probes":
        lines = home.shipped("papers/depara_photographs.txt").read_text("utf-8").splitlines()
        return dict(tuple(line.split()) for line in lines)  # type: ignore[misc]
    if name == "own_probes":
        found = [path for path in folder(name).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        return {str(path.relative_to(folder(name))): None for path in sorted(found)}
    listed = folder(name).with_name(f"{name}.txt")
    if download:
        _retrieve(f"{_LISTS}/{name.removesuffix('_probes')}/imlist.txt", LISTS[name], listed)
    text = home.verify(
        files.present(listed, f"reuselib fetch attribution --scale colab, which brings {name}"),
        LISTS[name],
        f"delete {listed} and fetch it again",
    ).read_text("utf-8")
    return {line.strip().removeprefix("/disk2/sj/taskonomy_data/"): None for line in text.splitlines() if line.strip()}


def folder(name: str) -> Path:
    """Where the files of a name lie, or will."""
    return files.downloads(*((name,) if name == ENCODERS else ("probes", name.removesuffix("_probes"))))


def _retrieve(address: str, digest: str | None, path: Path) -> None:
    import pooch

    pooch.retrieve(address, digest and f"sha256:{digest}", fname=path.name, path=path.parent)


def at_hand(name: str) -> bool:
    """Whether all files of a name are there; each is compared with its hash when it is read."""
    try:
        found = _registered(name)
    except ReuseError:
        return False
    return bool(found) and all((folder(name) / file).is_file() for file in found)


def fetch(name: str) -> None:
    """Have the files of a name, those that are not there yet.

    Raises:
        MissingFile: they must be brought.
        ReuseError: they cannot be fetched.
    """

    def each() -> None:
        for file, digest in _registered(name, download=name in LISTS).items():
            if not (folder(name) / file).is_file() and name in ADDRESSES:
                _retrieve(f"{ADDRESSES[name]}/{file}", digest, folder(name) / file)

    files.fetch(name, each, "reuselib fetch attribution --scale colab")
    if not at_hand(name):
        raise MissingFile(f"{folder(name)} lacks files of {name}. Fix: {BROUGHT[name]}")


def encoder_file(task: str) -> Path:
    """The verified file of the weights of a task.

    Raises:
        UnknownName: there is no such task.
        MissingFile: it is not there.
        DamagedFile: it was altered.
    """
    if task not in encoders():
        raise unknown("task of Taskonomy", task, encoders())
    path = files.present(folder(ENCODERS) / encoders()[task], "reuselib fetch attribution --scale colab")
    return files.named(path, f"delete {path} and fetch it again")


def _shorter(path: Path) -> int:
    """The shorter side of a picture, 0 where there is none."""
    if not path.is_file():
        return 0
    with Image.open(path) as image:
        return min(image.size)


def photographs(name: str, count: int, size: int, seed: int = 0, least: int = 0) -> ImageSet:
    """Unlabelled photographs, their centre cut to a square, in [-1, 1] once normalised.

    Args:
        name: one of ``PROBES``.
        count: how many, drawn by the seed; all if there are no more.
        size: pixels a side.
        seed: of the draw.
        least: pixels that the shorter side of a photograph must have to be drawn.

    Raises:
        UnknownName: there are no such photographs.
        MissingFile: they are not there.
        DamagedFile: one cannot be read, or is another one.
    """
    if name not in PROBES:
        raise unknown("photographs", name, PROBES)
    known = _registered(name)
    large = [file for file in sorted(known) if not least or _shorter(folder(name) / file) >= least]
    chosen = random.Random(seed).sample(large, min(count, len(large)))
    fix = f"reuselib fetch attribution --scale colab; or {BROUGHT.get(name, 'bring them')}"
    if not chosen:
        raise MissingFile(f"{folder(name)} holds no photograph. Fix: {fix}")
    for file in chosen:
        if digest := known[file]:
            home.verify(files.present(folder(name) / file, fix), digest, f"delete it, then {fix}")
    return one_class(name, files.pictures(folder(name), chosen, files.square(size), fix), "photograph", HALVES)
