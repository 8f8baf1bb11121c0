"""AwA, CUB, SUN and aPY as Xian et al. publish them (2018, "the good, the bad and the ugly"), in either split.

Features and photographs must be brought to `downloads/` of the data folder. Their place publishes no hashes, so they
are counted and looked at when they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from reuselib.data import vision
from reuselib.data.attributes.zero_shot import ZeroShotSet
from reuselib.data.image_set import ImageSet
from reuselib.errors import DamagedFile, MissingFile, ReuseError, unknown


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


BENCHMARKS: dict[str, Benchmark] = {
    "AWA1": Benchmark(30_475, 50, 10, 85, (6_180, 5_685), {}, "Animals_with_Attributes2/predicates.txt", ""),
    "AWA2": Benchmark(
        37_322,
        50,
        10,
        85,
        (6_985, 7_913),
        {"JPEGImages/": "Animals_with_Attributes2/JPEGImages"},
        "Animals_with_Attributes2/predicates.txt",
        "AwA2-data.zip of cvml.ista.ac.at/AwA2, unpacked",
    ),
    "CUB": Benchmark(
        11_788,
        200,
        50,
        312,
        (2_933, 2_967),
        {"images/": "CUB_200_2011/images"},
        "attributes.txt",
        "CUB_200_2011.tgz of data.caltech.edu/records/65de6-vp158, unpacked",
    ),
    "SUN": Benchmark(
        14_340,
        717,
        72,
        102,
        (1_440, 1_440),
        {"images/": "SUN/images"},
        "SUN/SUNAttributeDB/attributes.mat",
        "SUNAttributeDB_Images.tar.gz and SUNAttributeDB.tar.gz of cs.brown.edu/~gmpatter/sunattributes.html, unpacked "
        "into a folder SUN",
    ),
    "APY": Benchmark(
        15_339,
        32,
        12,
        64,
        (2_644, 7_924),
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
    if features.shape != (FEATURES, len(labels)) or not np.isfinite(features).all():
        found = f"{features.shape}, " + ("finite" if np.isfinite(features).all() else "not all of them finite")
        raise DamagedFile(source.listed, f"features must be ({FEATURES}, {len(labels)}), not {found}", source.fix)
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
    listed, labels, classes = source.images("image_files")
    files = list(map(_text, listed.ravel()))
    source.expect(source.listed, "names of photographs", len(files), len(labels))
    found, paths = source.zero_shot(labels, classes), source.paths(files)
    boxes = _boxes(paths, labels, source.pictures) if name == "APY" else [None] * len(paths)
    pixels = _squares(paths, boxes, size, shorter, source.pictures)
    return replace(found, images=ImageSet(found.name, pixels, found.labels, classes, *vision.IMAGENET_STATISTICS))


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
        self.downloads = vision._downloads()
        self.listed = self.downloads / "xlsa17" / "data" / name / "res101.mat"
        self.described = self.listed.with_name("att_splits.mat")
        standard = self.downloads / "standard_split" / name / "att_splits.mat"
        self.divided = standard if split == "ss" else self.described
        archive = "standard_split.zip" if split == "ss" else "xlsa17.zip"
        needed = "xlsa17.zip" + (f" and {archive}" if split == "ss" else "")
        self.fix = f"bring {needed} of datasets.d2.mpi-inf.mpg.de/xian, unpacked, to {self.downloads}"
        self.pictures = f"bring {self.benchmark.source}, to {self.downloads}"

    def images(self, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Return one variable of `res101.mat`, the labels from 0, int64 (N,), and the names of the classes."""
        held = _matlab(self.listed, (key, "labels"), self.fix)
        labels = held["labels"].ravel().astype(np.int64) - 1
        self.expect(self.listed, "images", len(labels), self.benchmark.images)
        if labels.min() < 0 or labels.max() >= self.benchmark.classes:
            reason = f"labels must be 1 to {self.benchmark.classes}, not {labels.min() + 1} to {labels.max() + 1}"
            raise DamagedFile(self.listed, reason, self.fix)
        names = _matlab(self.described, ("allclasses_names",), self.fix)["allclasses_names"].ravel()
        self.expect(self.described, "classes", len(names), self.benchmark.classes)
        return held[key], labels, tuple(map(_text, names))

    def zero_shot(self, labels: np.ndarray, classes: tuple[str, ...]) -> ZeroShotSet:
        """Return the set, still without features and images."""
        matrix = _matlab(self.described, (self.matrix,), self.fix)[self.matrix]
        shape = (self.benchmark.attributes, self.benchmark.classes)
        if matrix.shape != shape:
            raise DamagedFile(self.described, f"{self.matrix} must be {shape}, not {matrix.shape}", self.fix)
        train, test_seen, test_unseen = self._parts(len(labels))
        unseen = np.unique(labels[test_unseen])
        self.expect(self.divided, "unseen classes", len(unseen), self.benchmark.unseen)
        tested = self.benchmark.tested[SPLIT_KINDS.index(self.split)]
        self.expect(self.divided, "images of unseen classes", len(test_unseen), tested)
        self.expect(self.divided, "images in its parts", len(train) + len(test_seen) + len(test_unseen), len(labels))
        seen, names = np.setdiff1d(np.arange(len(classes)), unseen), self.attribute_names()
        try:
            return ZeroShotSet(
                name=f"{self.name.lower()}_{self.split}",
                labels=torch.from_numpy(labels),
                attributes=torch.from_numpy(np.ascontiguousarray(matrix.T, dtype=np.float32)),
                seen=torch.from_numpy(seen),
                unseen=torch.from_numpy(unseen),
                train=torch.from_numpy(train),
                test_seen=torch.from_numpy(test_seen),
                test_unseen=torch.from_numpy(test_unseen),
                classes=classes,
                attribute_names=names,
            )
        except ReuseError as error:
            raise DamagedFile(self.divided, str(error), self.fix) from error

    def _parts(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the positions of training images, and of test images of seen and unseen classes, from 0."""
        optional = ("test_seen_loc",) if self.split == "ss" else ()
        keys = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
        held = _matlab(self.divided, keys, self.fix, optional)
        places = [held[key].ravel().astype(np.int64) - 1 for key in keys]
        for key, place in zip(keys, places, strict=True):
            if len(place) and (place.min() < 0 or place.max() >= count):
                reason = f"{key} must be 1 to {count}, not {place.min() + 1} to {place.max() + 1}"
                raise DamagedFile(self.divided, reason, self.fix)
        return places[0], places[1], places[2]

    def paths(self, files: Sequence[str]) -> list[Path]:
        """Return where photographs lie, by the end of the names that they had where they were listed."""
        found = []
        for file in files:
            for marker, folder in self.benchmark.folders.items():
                if marker in file:
                    found.append(self.downloads / folder / file.rsplit(marker, 1)[1])
                    break
            else:
                raise DamagedFile(self.listed, f"{file!r} is none of its photographs", self.fix)
        for path in found:
            if not path.is_file():
                raise MissingFile(f"{path} is missing. Fix: {self.pictures}")
        return found

    def attribute_names(self) -> tuple[str, ...]:
        """Return the names of the attributes where the files of the photographs are there, else their numbers."""
        path, count = self.downloads / self.benchmark.names, self.benchmark.attributes
        if not path.is_file():
            return tuple(f"attribute {number}" for number in range(1, count + 1))
        if path.suffix == ".mat":
            names = tuple(map(_text, _matlab(path, ("attributes",), self.pictures)["attributes"].ravel()))
        else:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
            # Of AwA and CUB, the name follows a number.
            names = tuple(line.split(None, 1)[-1] if self.name != "APY" else line for line in lines)
        self.expect(path, "names of attributes", len(names), count, self.pictures)
        return names

    def expect(self, path: Path, what: str, found: int, expected: int, fix: str | None = None) -> None:
        """Check a number of things in a file."""
        if found != expected:
            raise DamagedFile(path, f"expected {expected} {what}, found {found}", fix or self.fix)


def _matlab(path: Path, keys: Sequence[str], fix: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return variables of a MATLAB file; an optional one that is not there is empty."""
    from scipy.io import loadmat

    if not path.is_file():
        raise MissingFile(f"{path} is missing. Fix: {fix}")
    try:
        held = loadmat(str(path), variable_names=list(keys))
    except Exception as error:  # what scipy raises depends on where the file is cut off or altered
        raise DamagedFile(path, f"it cannot be read ({error})", fix) from error
    lacking = [key for key in keys if key not in held and key not in optional]
    if lacking:
        raise DamagedFile(path, f"it holds no {', '.join(lacking)}", fix)
    return {key: np.asarray(held.get(key, np.zeros((0, 1)))) for key in keys}


def _text(cell: Any) -> str:
    """Return the text in a cell of MATLAB's."""
    return str(np.asarray(cell).ravel()[0])


def _boxes(paths: Sequence[Path], labels: np.ndarray, fix: str) -> list[Box | None]:
    """Return the box of each object of aPY: left, upper, right and lower edge, the first pixel being 1.

    Objects of one photograph come in the same order in the lists and with the features.

    Args:
        paths: Of the photograph of each object.
        labels: Of the objects.
        fix: Ends the messages.
    """
    folder = vision._downloads() / "aPY" / "attribute_data"
    listed: dict[str, list[list[str]]] = {}
    for file in BOXES:
        if not (folder / file).is_file():
            raise MissingFile(f"{folder / file} is missing. Fix: {fix}")
        for line in (folder / file).read_text("utf-8").splitlines():
            if line.strip():
                listed.setdefault(line.split()[0], []).append(line.split()[1:6])
    boxes: list[Box | None] = []
    words: dict[int, str] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        word, *edges = listed[path.name].pop(0) if listed.get(path.name) else [""]
        numbers = [int(edge) for edge in edges if edge.lstrip("-").isdecimal()]
        if len(numbers) != 4 or words.setdefault(label, word) != word:
            reason = f"its lists and the features do not agree on the objects in {path.name}"
            raise DamagedFile(folder, reason, fix)
        boxes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return boxes


def _squares(paths: Sequence[Path], boxes: Sequence[Box | None], size: int, shorter: int, fix: str) -> Tensor:
    """Read photographs, or boxes cut out of them: shorter side `shorter`, centre crop, uint8 (N, 3, size, size)."""
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def put(index: int) -> None:
        try:
            with Image.open(paths[index]) as image:
                colour = image.convert("RGB")
        except OSError as error:
            raise DamagedFile(paths[index], f"it cannot be decoded ({error})", fix) from error
        if box := boxes[index]:
            colour = colour.crop(_inside(box, colour.size))
        images[index] = transforms.pil_to_tensor(transforms.center_crop(transforms.resize(colour, shorter), size))

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(put, range(len(paths))):
            pass
    return images


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Return a box whose first pixel is 1 as one of PIL's, inside of the image and at least a pixel wide and high."""
    left, upper, right, lower = box
    left, upper = (min(max(low - 1, 0), end - 1) for low, end in zip((left, upper), size, strict=True))
    right, lower = (min(high, end) for high, end in zip((right, lower), size, strict=True))
    return left, upper, max(right, left + 1), max(lower, upper + 1)
