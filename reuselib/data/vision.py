"""The papers' image sets that are published as arrays, read through torchvision's own classes where it can be.

Fashion-MNIST comes with the repository; the others are fetched by `download=True` into `downloads/` of the data folder.
Every file is checked against its published hash at each load, and only then read: the CIFAR batches are pickles.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from reuselib import home
from reuselib.data import files
from reuselib.data.image_set import STATISTICS, ImageSet, Statistics, statistics

MNIST_STATISTICS = (0.1307,), (0.3081,)
CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100_STATISTICS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""As CMI's and NetGraft's codes take them; DFAD's code normalises CIFAR-100 as CIFAR-10."""
FASHION_MNIST = tuple(f"FashionMNIST/raw/{name}" for name, _ in datasets.FashionMNIST.resources)
"""Training images and labels, test images and labels: files that are shipped."""
MNIST_UNPACKED_MD5 = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
CIFAR10_JPEG_SHA256 = {
    "train": "9c5890631c2fc93a1f5ca38a1bea239b70ee424ed296262fc75e1457ecc8dc70",
    "test": "83dbfe6ec36d9fffc5c492f8cd7e3693c3d247c9d73a80c03202a52437331a01",
}


def fashion_mnist(split: str = "train", download: bool = False) -> ImageSet:
    """Load Fashion-MNIST: 60,000 / 10,000 grey images of clothing, 28x28, 10 classes (Xiao et al. 2017, MIT).

    Args:
        split: "train" or "test".
        download: Accepted as by the other sets; the files come with the repository.

    Raises:
        MissingFile: If a file is neither there nor to be fetched.
        DamagedFile: If a file has another hash than the one shipped.
    """
    files.check_split(split)
    archives, classes = list(map(home.shipped, FASHION_MNIST)), tuple(datasets.FashionMNIST.classes)
    return _mnist("fashion_mnist", archives, split, classes, STATISTICS["fashion_mnist", 28])


def mnist(split: str = "train", download: bool = False) -> ImageSet:
    """Load MNIST: 60,000 / 10,000 grey handwritten digits, 28x28; arguments and errors as in `cifar10`."""
    files.check_split(split)
    source, folder = datasets.MNIST, files.downloads("MNIST", "raw")
    if download:
        files.fetch("mnist", lambda: source(str(files.downloads()), download=True))
    archives = [(folder / name, digest) for name, digest in source.resources]
    files.check("mnist", [pair for pair in archives if not _packed_anew(pair[0])], folder)
    return _mnist("mnist", [path for path, _ in archives], split, tuple("0123456789"), MNIST_STATISTICS)


def _packed_anew(path: Path) -> bool:
    """Whether an archive holds the original file, whoever packed it."""
    if not path.is_file() or path.name not in MNIST_UNPACKED_MD5:
        return False
    try:
        return hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() == MNIST_UNPACKED_MD5[path.name]
    except (OSError, EOFError, zlib.error):
        return False


def _mnist(
    name: str, archives: list[Path], split: str, classes: tuple[str, ...], normalisation: Statistics
) -> ImageSet:
    """Read idx files: training images and labels, test images and labels."""
    pixels, labels = (gzip.decompress(path.read_bytes()) for path in archives[2 * files.SPLITS.index(split) :][:2])
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    numbers = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()
    return ImageSet(name, images, numbers, classes, *normalisation)


def svhn(split: str = "train", download: bool = False) -> ImageSet:
    """Load SVHN: 73,257 / 26,032 coloured house numbers, 32x32, label = digit; as in `cifar10`.

    Its mean and std are those of the loaded pixels: it serves as related data, `with_statistics_of` the task.
    """
    files.check_split(split)
    root = files.downloads("SVHN")
    _, file, digest = datasets.SVHN.split_list[split]
    read = _open("svhn", datasets.SVHN, [(root / file, digest)], root, download, split=split)
    images = _tensor(read.data)
    return ImageSet("svhn", images, torch.from_numpy(read.labels), tuple("0123456789"), *statistics(images))


def stl10(split: str = "train", download: bool = False) -> ImageSet:
    """Load STL-10: 5,000 / 8,000 labelled photographs, 96x96, 10 classes; as in `cifar10` and `svhn`."""
    files.check_split(split)
    source, root = datasets.STL10, files.downloads()
    paths = [(root / source.base_folder / name, digest) for name, digest in source.train_list + source.test_list]
    read = _open("stl10", source, paths, root, download, split=split)
    images, labels = _tensor(read.data), torch.from_numpy(read.labels.astype(np.int64))
    return ImageSet("stl10", images, labels, tuple(read.classes), *statistics(images))


def cifar10(split: str = "train", download: bool = False) -> ImageSet:
    """Load CIFAR-10: 50,000 / 10,000 coloured photographs, 32x32, 10 classes.

    Args:
        split: "train" or "test".
        download: Whether to fetch the archive when it is not there.

    Raises:
        UnknownName: If the split is neither "train" nor "test".
        MissingFile: If the files are not there; the message holds the command that fetches them.
        DamagedFile: If a file has another hash than the published one.
        ReuseError: If the download fails.
    """
    return _cifar("cifar10", datasets.CIFAR10, split, download)


def cifar100(split: str = "train", download: bool = False) -> ImageSet:
    """Load CIFAR-100 with its 100 fine classes; arguments and errors as in `cifar10`."""
    return _cifar("cifar100", datasets.CIFAR100, split, download, CIFAR100_STATISTICS)


def cifar100_dfad(split: str = "train", download: bool = False) -> ImageSet:
    """Load CIFAR-100 as DFAD's official code normalises it, by the statistics of CIFAR-10; as in `cifar10`."""
    return _cifar("cifar100_dfad", datasets.CIFAR100, split, download)


def _cifar(
    name: str, source: type[datasets.CIFAR10], split: str, download: bool, normalisation: Statistics = CIFAR_STATISTICS
) -> ImageSet:
    files.check_split(split)
    root = files.downloads()
    batches = source.train_list + source.test_list + [[source.meta["filename"], source.meta["md5"]]]
    paths = [(root / source.base_folder / file, digest) for file, digest in batches]
    read = _open(name, source, paths, root, download, train=split == "train")
    images = _tensor(read.data.transpose(0, 3, 1, 2))
    return ImageSet(name, images, torch.tensor(read.targets), tuple(read.classes), *normalisation)


def cifar10_jpeg(split: str = "train", download: bool = False) -> ImageSet:
    """Load CIFAR-10 after a JPEG round trip (quality 75, 4:2:0); arguments, errors and statistics as in `cifar10`.

    Read from `CIFAR10-JPEG/<split>.npz` of the downloads where that lies, in its own order, else made from CIFAR-10.
    The two differ by rounding. Decoded once a process: every row of a table asks for them. A network that learned from
    the originals loses about ten points on these.
    """
    files.check_split(split)
    path = files.downloads("CIFAR10-JPEG", f"{split}.npz")
    if path.is_file():
        home.verify(path, CIFAR10_JPEG_SHA256[split], f"delete {path} and run {files.command('cifar10-jpeg')}")
        images, labels, classes = _held(path, path.stat().st_mtime_ns)
    else:
        original = cifar10(split, download)
        folder = files.downloads(datasets.CIFAR10.base_folder)
        images = _round_trip(split, folder, folder.stat().st_mtime_ns)
        labels, classes = original.labels, original.classes
    return ImageSet("cifar10-jpeg", images, labels, classes, *CIFAR_STATISTICS)


@lru_cache(maxsize=2)
def _held(path: Path, _stamp: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    with np.load(path) as held:
        pieces = np.split(held["jpeg"], held["offsets"][1:-1])
        images, labels = _decoded(BytesIO(piece.tobytes()) for piece in pieces), torch.from_numpy(held["labels"]).long()
        return images, labels, tuple(str(name) for name in held["classes"])


@lru_cache(maxsize=2)
def _round_trip(split: str, _folder: Path, _stamp: int) -> Tensor:
    return _decoded(_encoded(image) for image in cifar10(split).images.permute(0, 2, 3, 1).numpy())


def _encoded(image: np.ndarray) -> BytesIO:
    """An image (H, W, 3) as a JPEG of quality 75."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return file


def _decoded(pieces: Iterable[BytesIO]) -> Tensor:
    """JPEGs of one size as uint8 (N, C, H, W)."""
    return _tensor(np.stack([np.asarray(Image.open(piece)) for piece in pieces]).transpose(0, 3, 1, 2))


def _open(
    name: str, source: Callable[..., Any], paths: list[tuple[Path, str]], root: Path, download: bool, **options: Any
) -> Any:
    """Open a torchvision data set below `root`, having said which file is missing or damaged."""
    if download:
        files.fetch(name, lambda: source(str(root), download=True, **options))
    files.check(name, paths, root)
    return source(str(root), download=False, **options)


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))


LOADERS = (fashion_mnist, mnist, svhn, stl10, cifar10, cifar100, cifar100_dfad)
"""Each takes split and whether to download."""
