"""AwA, CUB, SUN and aPY as Xian et al. publish them (2018, "the good, the bad and the ugly"), in either split.

Features and photographs must be brought to `downloads/` of the data folder. Their place publishes no hashes, so they
are counted and looked at when they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reuselib.data import files
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
        folders: What stands before an image's name in `res101.mat` -> its folder below `downloads/`.
        names: File with the names of the attributes, below `downloads/`.
        source: Where the photographs are to be had.
    """

    images: int
    classes: int
    unseen: int
    attributes: int
    tested: tuple[int, int]
    folders: dict[str, str]
    names: str
    source: str


AWA = "Animals_with_Attributes2"
BENCHMARKS: dict[str, Benchmark] = {
    "AWA1": Benchmark(30_475, 50, 10, 85, (6_180, 5_685), {}, f"{AWA}/predicates.txt", ""),
    "AWA2": Benchmark(
        *(37_322, 50, 10, 85, (6_985, 7_913), {"JPEGImages/": f"{AWA}/JPEGImages"}, f"{AWA}/predicates.txt"),
        source="AwA2-data.zip of cvml.ista.ac.at/AwA2, unpacked",
    ),
    "CUB": Benchmark(
        *(11_788, 200, 50, 312, (2_933, 2_967), {"images/": "CUB_200_2011/images"}, "attributes.txt"),
        source="CUB_200_2011.tgz of data.caltech.edu/records/65de6-vp158, unpacked",
    ),
    "SUN": Benchmark(
        *(14_340, 717, 72, 102, (1_440, 1_440), {"images/": "SUN/images"}, "SUN/SUNAttributeDB/attributes.mat"),
        source="SUNAttributeDB_Images.tar.gz and SUNAttributeDB.tar.gz of "
        "cs.brown.edu/~gmpatter/sunattributes.html, unpacked into a folder SUN",
    ),
    "APY": Benchmark(
        *(15_339, 32, 12, 64, (2_644, 7_924)),
        {"JPEGImages/": "aPY/VOCdevkit/VOC2008/JPEGImages", "ayahoo_test_images/": "aPY/ayahoo_test_images"},
        "aPY/attribute_data/attribute_names.txt",
        "attribute_data.tar.gz and ayahoo_test_images.tar.gz of vision.cs.uiuc.edu/attributes, and "
        "VOCtrainval_14-Jul-2008.tar of host.robots.ox.ac.uk/pascal/VOC/voc2008, unpacked into a folder aPY",
    ),
}
"""AwA with either images, CUB, SUN and aPY, as Xian et al. count them."""
SPLIT_KINDS = ("ss", "ps")
FEATURES = 2048
BOXES = ("apascal_train.txt", "apascal_test.txt", "ayahoo_test.txt")
"""The lists of objects of aPY."""
MATRICES = ("original_att", "att")
Box = tuple[int, int, int, int]


def gbu(name: str, split: str = "ps", matrix: str = "original_att") -> ZeroShotSet:
    """Load the ResNet-101 features of a benchmark, as Xian et al. publish them.

    Below `downloads/` lie `xlsa17/data/<name>/res101.mat` and `att_splits.mat` of the proposed split, and
    `standard_split/<name>/att_splits.mat` of the standard one. The unseen classes of the proposed split are not among
    those of ImageNet, which the features were trained on; some of the standard split are. The standard split holds out
    no images of seen classes: its `test_seen` is empty, and so it serves the conventional protocol alone.

    Args:
        name: One of `BENCHMARKS`.
        split: "ps", the proposed split, or "ss", the standard one.
        matrix: "original_att", the attributes as annotated (in percent for AwA and CUB, -1 where undefined), or "att",
            the same with rows of length one.

    Raises:
        UnknownName: If there is no such set, split or matrix.
        MissingFile: If a file is not there; the message says where to get it and where to put it.
        DamagedFile: If a file is unreadable, or does not hold what was published.
    """
    source = _Source(name, split, matrix)
    features, labels, classes = source.images("features")
    if features.shape != (FEATURES, len(labels)):
        reason = f"features must be ({FEATURES}, {len(labels)}), not {features.shape}"
        raise DamagedFile(source.listed, reason, source.fix)
    if not np.isfinite(features).all():
        raise DamagedFile(source.listed, "features must be finite", source.fix)
    rows = torch.from_numpy(np.ascontiguousarray(features.T, dtype=np.float32))
    return source.zero_shot(labels, classes).with_features(rows)


def gbu_images(name: str, split: str = "ps", size: int = 224, shorter: int = 256) -> ZeroShotSet:
    """Load the photographs of a benchmark, in the order and split of its features; as in `gbu`.

    The shorter side becomes `shorter`, and the centre is cut out. Of aPY, each image is the box of one object. Mean and
    std are those of ImageNet. At 224 pixels AwA2 takes 5.6 GB of memory, CUB 1.8, SUN 2.2 and aPY 2.3. `res101.mat` is
    needed too: it lists the photographs.

    Args:
        name: "AWA2", "CUB", "SUN" or "APY"; the photographs of AwA1 were never published.
        split: As in `gbu`.
        size: Height and width.
        shorter: The shorter side before the centre is cut out.

    Raises:
        UnknownName: If there is no such set or split.
        MissingFile: If a file is not there; the message says where to get it and where to put it.
        DamagedFile: If a file is unreadable, or does not hold what was published.
    """
    published = [known for known, benchmark in BENCHMARKS.items() if benchmark.folders]
    if name not in published:
        raise unknown("benchmark with photographs", name, published)
    source = _Source(name, split, "original_att")
    cells, labels, classes = source.images("image_files")
    names = list(map(_text, cells.ravel()))
    files.count(source.listed, len(names), len(labels), source.fix, "names of photographs")
    found, paths = source.zero_shot(labels, classes), source.paths(names)
    boxes = _boxes(paths, labels, source.pictures) if name == "APY" else None
    cut = files.square(size, shorter)

    def change(image: Image.Image, index: int) -> Image.Image:
        return cut(image.crop(_inside(boxes[index], image.size)) if boxes else image, index)

    pixels = files.pictures(source.downloads, paths, change, source.pictures)
    return replace(found, images=ImageSet(found.name, pixels, found.labels, classes, *IMAGENET_STATISTICS))


class _Source:
    """The published files of one benchmark and split.

    Args:
        name: One of `BENCHMARKS`.
        split: One of `SPLIT_KINDS`.
        matrix: One of `MATRICES`.
    """

    def __init__(self, name: str, split: str, matrix: str) -> None:
        for kind, value, options in (
            ("benchmark", name, BENCHMARKS),
            ("split", split, SPLIT_KINDS),
            ("matrix of attributes", matrix, MATRICES),
        ):
            if value not in options:
                raise unknown(kind, value, options)
        self.name, self.split, self.matrix, self.benchmark = name, split, matrix, BENCHMARKS[name]
        self.downloads = files.downloads()
        self.listed = self.downloads / "xlsa17" / "data" / name / "res101.mat"
        self.described = self.listed.with_name("att_splits.mat")
        standard = self.downloads / "standard_split" / name / "att_splits.mat"
        self.divided = standard if split == "ss" else self.described
        needed = "xlsa17.zip and standard_split.zip" if split == "ss" else "xlsa17.zip"
        self.fix = f"bring {needed} of datasets.d2.mpi-inf.mpg.de/xian, unpacked, to {self.downloads}"
        self.pictures = f"bring {self.benchmark.source}, to {self.downloads}"

    def positions(self, path: Path, what: str, found: np.ndarray, end: int) -> np.ndarray:
        """Return numbers from 1 to `end` as positions from 0."""
        places = found.ravel().astype(np.int64) - 1
        if len(places) and (places.min() < 0 or places.max() >= end):
            reason = f"{what} must be 1 to {end}, not {places.min() + 1} to {places.max() + 1}"
            raise DamagedFile(path, reason, self.fix)
        return places

    def images(self, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Return one variable of `res101.mat`, the labels from 0, int64 (N,), and the names of the classes."""
        held = files.matlab(self.listed, (key, "labels"), self.fix)
        files.count(self.listed, held["labels"].size, self.benchmark.images, self.fix)
        labels = self.positions(self.listed, "labels", held["labels"], self.benchmark.classes)
        names = files.matlab(self.described, ("allclasses_names",), self.fix)["allclasses_names"].ravel()
        files.count(self.described, len(names), self.benchmark.classes, self.fix, "classes")
        return held[key], labels, tuple(map(_text, names))

    def zero_shot(self, labels: np.ndarray, classes: tuple[str, ...]) -> ZeroShotSet:
        """Return the set, still without features and images."""
        matrix = files.matlab(self.described, (self.matrix,), self.fix)[self.matrix]
        shape = (self.benchmark.attributes, self.benchmark.classes)
        if matrix.shape != shape:
            raise DamagedFile(self.described, f"{self.matrix} must be {shape}, not {matrix.shape}", self.fix)
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
        names = self.attribute_names()
        try:
            return ZeroShotSet(
                name=f"{self.name.lower()}_{self.split}",
                labels=torch.from_numpy(labels),
                attributes=torch.from_numpy(np.ascontiguousarray(matrix.T, dtype=np.float32)),
                seen=torch.from_numpy(np.setdiff1d(np.arange(len(classes)), unseen)),
                unseen=torch.from_numpy(unseen),
                train=torch.from_numpy(parts["trainval_loc"]),
                test_seen=torch.from_numpy(parts.get("test_seen_loc", np.zeros(0, np.int64))),
                test_unseen=torch.from_numpy(parts["test_unseen_loc"]),
                classes=classes,
                attribute_names=names,
            )
        except ReuseError as error:
            raise DamagedFile(self.divided, str(error), self.fix) from error

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return where photographs lie, by the end of the names that they had where they were listed."""
        found = []
        for name in names:
            marker = next((marker for marker in self.benchmark.folders if marker in name), None)
            if marker is None:
                raise DamagedFile(self.listed, f"{name!r} is none of its photographs", self.fix)
            path = self.downloads / self.benchmark.folders[marker] / name.rsplit(marker, 1)[1]
            found.append(files.present(path, self.pictures))
        return found

    def attribute_names(self) -> tuple[str, ...]:
        """Return the names of the attributes where the files of the photographs are there, else their numbers."""
        path, expected = self.downloads / self.benchmark.names, self.benchmark.attributes
        if not path.is_file():
            return tuple(f"attribute {number}" for number in range(1, expected + 1))
        if path.suffix == ".mat":
            names = tuple(map(_text, files.matlab(path, ("attributes",), self.pictures)["attributes"].ravel()))
        else:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
            # Of AwA and CUB, the name follows a number.
            names = tuple(line.split(None, 1)[-1] if self.name != "APY" else line for line in lines)
        files.count(path, len(names), expected, self.pictures, "names of attributes")
        return names


def _text(cell: Any) -> str:
    """Return the text in a cell of MATLAB's."""
    return str(np.asarray(cell).ravel()[0])


def _boxes(paths: Sequence[Path], labels: np.ndarray, fix: str) -> list[Box]:
    """Return the box of each object of aPY: left, upper, right and lower edge, the first pixel being 1.

    Objects of one photograph come in the same order in the lists and with the features.

    Args:
        paths: Of the photograph of each object.
        labels: Of the objects.
        fix: Ends the messages.
    """
    folder = files.downloads("aPY", "attribute_data")
    listed: dict[str, list[list[str]]] = {}
    for file in BOXES:
        for line in files.present(folder / file, fix).read_text("utf-8").splitlines():
            if line.strip():
                listed.setdefault(line.split()[0], []).append(line.split()[1:6])
    boxes, words = [], dict[int, str]()
    for path, label in zip(paths, labels.tolist(), strict=True):
        word, *edges = listed[path.name].pop(0) if listed.get(path.name) else [""]
        numbers = [int(edge) for edge in edges if edge.lstrip("-").isdecimal()]
        if len(numbers) != 4 or words.setdefault(label, word) != word:
            reason = f"its lists and the features do not agree on the objects in {path.name}"
            raise DamagedFile(folder, reason, fix)
        boxes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return boxes


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Return a box whose first pixel is 1 as one of PIL's, inside of the image and at least a pixel wide and high."""
    left, upper, right, lower = box
    left, upper = (min(max(low - 1, 0), end - 1) for low, end in zip((left, upper), size, strict=True))
    right, lower = (min(high, end) for high, end in zip((right, lower), size, strict=True))
    return left, upper, max(right, left + 1), max(lower, upper + 1)
