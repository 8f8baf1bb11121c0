"""AwA, CUB, SUN and aPY as Xian et al. publish them (2018, "the good, the bad and the ugly"), in either split.

Features are fetched to `downloads/` of the data folder, photographs must be brought there. Their place publishes no
hashes, so those of what came first are kept beside it and compared ever after, and what is read is counted.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reuselib import home
from reuselib.data import files, photographs
from reuselib.data.attributes.zero_shot import ZeroShotSet
from reuselib.data.image_set import IMAGENET_STATISTICS, ImageSet
from reuselib.errors import DamagedFile, ReuseError, unknown


@dataclass(frozen=True)
class Benchmark:
    """What the published files of a set hold.

    Attributes:
        images: In all.
        classes: In all.
        unseen: Unseen ones among them, in either split.
        attributes: Of a class.
        tested: Images of unseen classes, in the standard and in the proposed split.
        folder: Of its photographs, below `downloads/`: in `res101.mat`, a name goes on after the folder's own name.
        source: Where the photographs are to be had.
    """

    images: int
    classes: int
    unseen: int
    attributes: int
    tested: tuple[int, int]
    folder: str = ""
    source: str = ""


AWA2_IMAGES = "AwA2-data.zip of cvml.ista.ac.at/AwA2, unpacked"
CUB_IMAGES = "CUB_200_2011.tgz of data.caltech.edu/records/65de6-vp158, unpacked"
SUN_IMAGES = "SUNAttributeDB_Images.tar.gz of cs.brown.edu/~gmpatter/sunattributes.html, unpacked into a folder SUN"
AWA2_FOLDER = "Animals_with_Attributes2/JPEGImages"
BENCHMARKS: dict[str, Benchmark] = {
    "AWA1": Benchmark(30_475, 50, 10, 85, (6_180, 5_685)),
    "AWA2": Benchmark(37_322, 50, 10, 85, (6_985, 7_913), AWA2_FOLDER, AWA2_IMAGES),
    "CUB": Benchmark(11_788, 200, 50, 312, (2_933, 2_967), "CUB_200_2011/images", CUB_IMAGES),
    "SUN": Benchmark(14_340, 717, 72, 102, (1_440, 1_440), "SUN/images", SUN_IMAGES),
    "APY": Benchmark(15_339, 32, 12, 64, (2_644, 7_924)),
}
"""AwA with either images, CUB, SUN and aPY, as Xian et al. count them."""
SPLIT_KINDS = ("ss", "ps")
FEATURES = 2048
ADDRESS = "https://datasets.d2.mpi-inf.mpg.de/xian/"
KEPT = "xlsa17-first-fetch.sha256"
"""Below `downloads/`: the hashes of what was fetched first, in the format of `sha256sum`."""


def gbu(name: str, split: str = "ps") -> ZeroShotSet:
    """Load the ResNet-101 features of a benchmark, as Xian et al. publish them.

    Below `downloads/` lie `xlsa17/data/<name>/res101.mat` and `att_splits.mat` of the proposed split, and
    `standard_split/<name>/att_splits.mat` of the standard one. The unseen classes of the proposed split are not among
    those of ImageNet, which the features were trained on; some of the standard split are. The standard split holds out
    no images of seen classes: its `test_seen` is empty, and so it serves the conventional protocol alone. Attributes
    are those as annotated (in percent for AwA and CUB, -1 where undefined); their names are not among the files.

    Args:
        name: One of `BENCHMARKS`.
        split: "ps", the proposed split, or "ss", the standard one.

    Raises:
        UnknownName: If there is no such set or split.
        MissingFile: If a file is not there; the message says where to get it and where to put it.
        DamagedFile: If a file is unreadable, or does not hold what was published.
    """
    source = _Source(name, split)
    source.check_kept()
    features, labels, classes = source.images("features")
    if features.shape != (FEATURES, len(labels)):
        raise source.damaged(source.listed, f"features must be ({FEATURES}, {len(labels)}), not {features.shape}")
    if not np.isfinite(features).all():
        raise source.damaged(source.listed, "features must be finite")
    rows = torch.from_numpy(np.ascontiguousarray(features.T, dtype=np.float32))
    return source.zero_shot(labels, classes).with_features(rows)


def fetch_gbu(name: str, split: str = "ps") -> None:
    """Fetch and unpack what `gbu` reads, unless it is there: 0.9 GB for all benchmarks together, from their authors.

    What comes must be as long as its server says, an archive, and in each member what its checksum says. The hashes of
    the first fetch are kept in the data room, and everything that comes or is read later must have them.

    Args:
        name: One of `BENCHMARKS`.
        split: As in `gbu`.

    Raises:
        UnknownName: If there is no such set or split.
        ReuseError: If it cannot be fetched.
        DamagedFile: If something else came: a page, a part, or another file than the first time.
    """
    source = _Source(name, split)
    for path in dict.fromkeys((source.listed, source.described, source.divided)):
        if not path.is_file():
            source.unpack(path)


def gbu_attributes(name: str) -> torch.Tensor:
    """Load the attributes of a benchmark's classes alone, float32 (C, m); errors as in `gbu`."""
    source = _Source(name, "ps")
    source.check_kept()
    return source.table()


def gbu_images(name: str, split: str = "ps", size: int = photographs.SQUARE) -> ZeroShotSet:
    """Load the photographs of a benchmark, in the order and split of its features; as in `gbu`.

    The shorter side becomes 256/224 of the size, and the centre is cut out. Mean and std are those of ImageNet. At 224
    pixels AwA2 takes 5.6 GB of memory, CUB 1.8 and SUN 2.2. `res101.mat` is needed too: it lists the photographs.

    Args:
        name: "AWA2", "CUB" or "SUN"; the photographs of AwA1 were never published.
        split: As in `gbu`.
        size: Height and width.

    Raises:
        UnknownName: If there is no such set or split.
        MissingFile: If a file is not there; the message says where to get it and where to put it.
        DamagedFile: If a file is unreadable, or does not hold what was published.
    """
    published = [known for known, benchmark in BENCHMARKS.items() if benchmark.folder]
    if name not in published:
        raise unknown("benchmark with photographs", name, published)
    source = _Source(name, split)
    cells, labels, classes = source.images("image_files")
    names = list(map(_text, cells.ravel()))
    files.count(source.listed, len(names), len(labels), source.fix, "names of photographs")
    found, change = source.zero_shot(labels, classes), files.square(size, round(size * 256 / photographs.SQUARE))
    pixels = files.pictures(source.downloads, source.paths(names), change, source.pictures)
    return replace(found, images=ImageSet(found.name, pixels, found.labels, classes, *IMAGENET_STATISTICS))


class _Source:
    """The published files of one benchmark and split.

    Args:
        name: One of `BENCHMARKS`.
        split: One of `SPLIT_KINDS`.
    """

    def __init__(self, name: str, split: str) -> None:
        for kind, value, options in (("benchmark", name, BENCHMARKS), ("split", split, SPLIT_KINDS)):
            if value not in options:
                raise unknown(kind, value, options)
        self.name, self.split, self.benchmark = name, split, BENCHMARKS[name]
        self.downloads = files.downloads()
        self.listed = self.downloads / "xlsa17" / "data" / name / "res101.mat"
        self.described = self.listed.with_name("att_splits.mat")
        standard = self.downloads / "standard_split" / name / "att_splits.mat"
        self.divided = standard if split == "ss" else self.described
        needed = "xlsa17.zip and standard_split.zip" if split == "ss" else "xlsa17.zip"
        call = f"attributes.fetch_gbu('{name}', '{split}')"
        self.command = f'python -c "from reuselib.data import attributes; {call}"'
        self.fix = f"run {self.command}, or bring {needed} of {ADDRESS}, unpacked, to {self.downloads}"
        self.pictures = f"bring {self.benchmark.source}, to {self.downloads}"

    def damaged(self, path: Path, reason: str) -> DamagedFile:
        """The error for a file that does not hold what was published."""
        return DamagedFile(path, reason, self.fix)

    def check_kept(self) -> None:
        """Compare the files with those that were fetched first; files that were brought have no hash."""
        kept = _kept(self.downloads)
        for path in {self.listed, self.described, self.divided}:
            if path.is_file() and (expected := kept.get(path.relative_to(self.downloads).as_posix())):
                home.verify(path, expected, f"delete it, then {self.fix}")

    def unpack(self, path: Path) -> None:
        """Take a file out of its archive, which is fetched if it is not there."""
        member = path.relative_to(self.downloads).as_posix()
        archive = self.downloads / f"{member.partition('/')[0]}.zip"
        if not archive.is_file():
            files.fetch(archive.name, lambda: _download(archive), self.command)
        again = f"delete {archive}, then {self.fix}"
        try:
            with zipfile.ZipFile(archive) as opened:
                whole = opened.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            reason = f"it was cut off, or is a page in the archive's place ({error})"
            raise DamagedFile(archive, reason, again) from error
        except KeyError as error:
            raise DamagedFile(archive, f"it holds no {member}", again) from error
        _keep(archive, self.downloads, again)
        home.write_atomic(path, whole)
        _keep(path, self.downloads, again)

    def positions(self, path: Path, what: str, found: np.ndarray, end: int) -> np.ndarray:
        """Return numbers from 1 to `end` as positions from 0."""
        places = found.ravel().astype(np.int64) - 1
        if len(places) and (places.min() < 0 or places.max() >= end):
            raise self.damaged(path, f"{what} must be 1 to {end}, not {places.min() + 1} to {places.max() + 1}")
        return places

    def images(self, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Return one variable of `res101.mat`, the labels from 0, int64 (N,), and the names of the classes."""
        held = files.matlab(self.listed, (key, "labels"), self.fix)
        files.count(self.listed, held["labels"].size, self.benchmark.images, self.fix)
        labels = self.positions(self.listed, "labels", held["labels"], self.benchmark.classes)
        names = files.matlab(self.described, ("allclasses_names",), self.fix)["allclasses_names"].ravel()
        files.count(self.described, len(names), self.benchmark.classes, self.fix, "classes")
        return held[key], labels, tuple(map(_text, names))

    def table(self) -> torch.Tensor:
        """Return the attributes of all classes, float32 (C, m)."""
        matrix = files.matlab(self.described, ("original_att",), self.fix)["original_att"]
        shape = (self.benchmark.attributes, self.benchmark.classes)
        if matrix.shape != shape:
            raise self.damaged(self.described, f"original_att must be {shape}, not {matrix.shape}")

        return torch.from_numpy(np.ascontiguousarray(matrix.T, dtype=np.float32))

    def zero_shot(self, labels: np.ndarray, classes: tuple[str, ...]) -> ZeroShotSet:
        """Return the set, still without features and images."""
        keys = ("trainval_loc", "test_unseen_loc", *(["test_seen_loc"] if self.split == "ps" else []))
        held = files.matlab(self.divided, keys, self.fix)
        parts = {key: self.positions(self.divided, key, held[key], len(labels)) for key in keys}
        unseen = np.unique(labels[parts["test_unseen_loc"]])
        tested = self.benchmark.tested[SPLIT_KINDS.index(self.split)]
        for what, found, expected in (
            ("unseen classes", len(unseen), self.benchmark.unseen),
            ("images of unseen classes", len(parts["test_unseen_loc"]), tested),
            ("images in its parts", sum(map(len, parts.values())), len(labels)),
        ):
            files.count(self.divided, found, expected, self.fix, what)
        try:
            return ZeroShotSet(
                name=f"{self.name.lower()}_{self.split}",
                labels=torch.from_numpy(labels),
                attributes=self.table(),
                seen=torch.from_numpy(np.setdiff1d(np.arange(len(classes)), unseen)),
                unseen=torch.from_numpy(unseen),
                train=torch.from_numpy(parts["trainval_loc"]),
                test_seen=torch.from_numpy(parts.get("test_seen_loc", np.zeros(0, np.int64))),
                test_unseen=torch.from_numpy(parts["test_unseen_loc"]),
                classes=classes,
                attribute_names=tuple(f"attribute {number}" for number in range(1, self.benchmark.attributes + 1)),
            )
        except ReuseError as error:
            raise self.damaged(self.divided, str(error)) from error

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return where photographs lie, by the end of the names that they had where they were listed."""
        folder, found = self.downloads / self.benchmark.folder, []
        for name in names:
            _, marker, rest = name.rpartition(f"/{folder.name}/")
            if not marker:
                raise self.damaged(self.listed, f"{name!r} is none of its photographs")

            found.append(files.present(folder / rest, self.pictures))
        return found


def _download(path: Path) -> None:
    """Fetch one of the archives with a bar, whole or not at all."""
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=True)
    pooch.retrieve(ADDRESS + path.name, None, fname=path.name, path=path.parent, downloader=downloader)


def _kept(downloads: Path) -> dict[str, str]:
    """The hashes of the first fetch, by path below `downloads/`."""
    path = downloads / KEPT
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def _keep(path: Path, downloads: Path, fix: str) -> None:
    """Keep the hash of a file that came for the first time; refuse one that came otherwise before."""
    kept, name = _kept(downloads), path.relative_to(downloads).as_posix()
    if name in kept:
        home.verify(path, kept[name], fix)
        return
    kept[name] = home.sha256(path)
    lines = "".join(f"{digest}  {each}\n" for each, digest in sorted(kept.items()))
    home.write_atomic(downloads / KEPT, lines.encode())
    said = f"this one's, {kept[name][:16]}..., is kept in {KEPT} and compared from now on."
    print(f"{name}: no hash is published; {said}")


def _text(cell: Any) -> str:
    """Return the text in a cell of MATLAB's."""
    return str(np.asarray(cell).ravel()[0])
