"""The papers' image sets, read from their original files, where it can be through torchvision's own classes.

Fashion-MNIST comes with the repository. The others are fetched by `download=True` into `downloads/` of the
data folder, except FFHQ, Stanford Cars and ILSVRC-2012, which must be brought there. Every file is checked against its
published hash at each load, and only then read: the CIFAR batches are pickles. Caltech101, LSUN, ILSVRC-2012 and the
fine-grained sets have a hash for their archives alone, FFHQ and Stanford Cars have none, so their images are counted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import utils
from torchvision.transforms import functional as transforms

from reuselib import home
from reuselib.data.image_set import STATISTICS, ImageSet, Statistics, draw_per_class, statistics
from reuselib.errors import DamagedFile, MissingFile, ReuseError, unknown

if TYPE_CHECKING:
    from reuselib.data.multi_label import MultiLabelSet

SPLITS = ("train", "test")
MNIST_STATISTICS = (0.1307,), (0.3081,)
CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the papers use them for both CIFARs
HALVES = (0.5,) * 3, (0.5,) * 3  # pixels in [-1, 1]
CALTECH_SIZE = 128
CALTECH_IMAGES = 8_677  # without BACKGROUND_Google
GAN_SIZE = 64
FFHQ_IMAGES = 70_000
LSUN_CHURCH_IMAGES = 126_227
LSUN_CHURCH_URL = "http://dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip"
LSUN_CHURCH_SHA256 = "91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a"
IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
IMAGENET_ADDRESS = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_SIZES = 256, 224  # the shorter side, and the square cut out of its centre
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FINE_SIZE, FINE_SIDE = 224, 256  # the square that is cut out of an image, and the shorter side of that image
FINE_IMAGES = {  # in the order of SPLITS
    "stanford_dogs": (12_000, 8_580),
    "cub200": (5_994, 5_794),
    "stanford_cars": (8_144, 8_041),
    "fgvc_aircraft": (6_667, 3_333),
}
DOGS_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
DOGS_MD5 = {"images.tar": "1bb1f2a596ae7057f99d7d75860002ef", "lists.tar": "edbb9f16854ec66506b5f09b583e0656"}
CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_MD5 = "97eceeb196236b17998738112f37df78"
AIRCRAFT_URL = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
AIRCRAFT_MD5 = "d4acdd33327262359767eeaa97a4f732"
CELEBA_SPLITS = ("train", "valid", "test")  # as list_eval_partition.txt numbers them
DIGITS = tuple("0123456789")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
# Pinned here too: the registry is written from the disk, and would bless a file altered before.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
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
    _check_split(split)
    folder = _decompress([_shipped(name) for name in FASHION_MNIST_SHA256])
    return _read_mnist(datasets.FashionMNIST, folder, "fashion_mnist", split, STATISTICS["fashion_mnist", 28])


def mnist(split: str = "train", download: bool = False) -> ImageSet:
    """Load MNIST: 60,000 / 10,000 grey handwritten digits, 28x28; arguments and errors as in `cifar10`."""
    _check_split(split)
    source, folder = datasets.MNIST, _downloads() / "MNIST" / "raw"
    if download:
        _fetch("mnist", lambda: source(str(_downloads()), download=True))
    archives = [(folder / name, digest) for name, digest in source.resources]
    _check("mnist", archives, folder)
    return _read_mnist(source, _decompress([path for path, _ in archives]), "mnist", split, MNIST_STATISTICS)


def svhn(split: str = "train", download: bool = False) -> ImageSet:
    """Load SVHN: 73,257 / 26,032 coloured house numbers, 32x32, label = digit; as in `cifar10`.

    Its mean and std are those of the loaded pixels: it serves as related data, `with_statistics_of` the task.
    """
    _check_split(split)
    root = _downloads() / "SVHN"
    _, file, digest = datasets.SVHN.split_list[split]
    read = _open("svhn", datasets.SVHN, [(root / file, digest)], root, download, split=split)
    images = _tensor(read.data)
    return ImageSet("svhn", images, torch.from_numpy(read.labels), DIGITS, *statistics(images))


def stl10(split: str = "train", download: bool = False) -> ImageSet:
    """Load STL-10: 5,000 / 8,000 labelled photographs, 96x96, 10 classes; as in `cifar10` and `svhn`."""
    _check_split(split)
    source, folder = datasets.STL10, _downloads() / datasets.STL10.base_folder
    files = [(folder / name, digest) for name, digest in source.train_list + source.test_list]
    read = _open("stl10", source, files, folder.parent, download, split=split)
    images = _tensor(read.data)
    labels = torch.from_numpy(read.labels.astype(np.int64))
    return ImageSet("stl10", images, labels, STL10_CLASSES, *statistics(images))


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
    """Load CIFAR-100 with its 100 fine classes; arguments, errors and statistics as in `cifar10`."""
    return _cifar("cifar100", datasets.CIFAR100, split, download)


def caltech101(split: str = "train", download: bool = False) -> ImageSet:
    """Load Caltech101 without its background class: colour, shorter side 128, centre crop; as in `cifar10`.

    Per class, `max(int(0.2 * n), 2)` images are the test set, drawn with one `Random(1)` over sorted classes
    and sorted file names, so that the split is the same on every file system.
    """
    _check_split(split)
    root = _downloads()
    if download:
        _fetch("caltech101", lambda: datasets.Caltech101(str(root), download=True))
    folder = root / "caltech101" / "101_ObjectCategories"
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {_command('caltech101')}")
    train, test = caltech_split(folder)
    classes = tuple(category.name for category in _categories(folder))
    fix = f"delete the folder, then run {_command('caltech101')}"
    _count(folder, len(train) + len(test), CALTECH_IMAGES, fix)
    chosen = train if split == "train" else test
    images = _photographs(folder, [str(path.relative_to(folder)) for path, _ in chosen], CALTECH_SIZE, fix)
    labels = torch.tensor([label for _, label in chosen])
    return ImageSet("caltech101", images, labels, classes, *HALVES)


def caltech_split(folder: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Return the training and the test files of a 101_ObjectCategories folder, each with its label."""
    draw = random.Random(1)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, category in enumerate(_categories(folder)):
        files = sorted(category.glob("*.jpg"))
        held_out = set(draw.sample(files, min(max(int(0.2 * len(files)), 2), len(files))))
        train += [(file, label) for file in files if file not in held_out]
        test += [(file, label) for file in files if file in held_out]
    return train, test


def _categories(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "BACKGROUND_Google")


def tiny_imagenet(split: str = "train", download: bool = False) -> ImageSet:
    """Load Tiny-ImageNet: 100,000 / 10,000 coloured photographs, 64x64, 200 classes; as in `cifar10`.

    "test" is its validation set: its own test set has no labels. The archive stays packed; the images of a split take
    1.2 GB of memory. Mean and std are 0.5.
    """
    _check_split(split)
    root, base = _downloads(), "tiny-imagenet-200"
    path = root / f"{base}.zip"
    if download:
        _fetch("tiny_imagenet", lambda: utils.download_url(TINY_IMAGENET_URL, root, path.name, TINY_IMAGENET_MD5))
    _check("tiny_imagenet", [(path, TINY_IMAGENET_MD5)], root)
    with zipfile.ZipFile(path) as archive:
        ids = sorted(archive.read(f"{base}/wnids.txt").decode().split())
        words = dict(line.split("\t") for line in archive.read(f"{base}/words.txt").decode().splitlines())
        if split == "train":
            files = sorted(n for n in archive.namelist() if n.startswith(f"{base}/train/") and n.endswith(".JPEG"))
            named = [name.split("/")[2] for name in files]
        else:
            lines = archive.read(f"{base}/val/val_annotations.txt").decode().splitlines()
            files = [f"{base}/val/images/{line.split()[0]}" for line in lines]
            named = [line.split()[1] for line in lines]
        images = _packed("tiny_imagenet", archive, files)
    position = {wnid: label for label, wnid in enumerate(ids)}
    labels = torch.tensor([position[wnid] for wnid in named])
    return ImageSet("tiny_imagenet", images, labels, tuple(words[wnid] for wnid in ids), *HALVES)


def imagenet(split: str = "test", download: bool = False) -> ImageSet:
    """Load the test images of ILSVRC-2012: 50,000 photographs, 1,000 classes, shorter side 256, centre crop of 224.

    They are its validation set: its own test set has no labels. They take 7.5 GB of memory and minutes to read. The
    training images would take 193 GB: `imagenet_few` reads some of each class.

    The archives must be brought to `downloads/imagenet/`. At the first load torchvision checks them against their
    published hashes and unpacks them, which takes long for the training images; folders `train/` and `val/` that
    are there already are used as they are.

    Args:
        split: "test".
        download: Accepted as by the other sets; this one cannot be fetched by a program.

    Raises:
        ReuseError: If the training images are asked for.
        UnknownName: If there is no such split.
        MissingFile: If an archive is not there; the message says where to get it and where to put it.
        DamagedFile: If an archive has another hash, or images are missing.
    """
    _check_split(split)
    if split == "train":
        raise ReuseError(
            f"the {IMAGENET_IMAGES['train']:,} training images of imagenet would take 193 GB of memory. "
            "Fix: data.load_few('imagenet', per_class=10, seed=0) reads ten of each class"
        )
    listed = _list_imagenet("val")
    return _read_imagenet(listed, torch.arange(len(listed.samples)))


def imagenet_few(per_class: int, seed: int) -> ImageSet:
    """Load `per_class` training images of each class of ILSVRC-2012, drawn by seed; as in `imagenet`.

    All are listed, only those drawn are read. The draw is that of `ImageSet.per_class`, over the sorted file names.
    """
    listed = _list_imagenet("train")
    names = [", ".join(words) for words in listed.classes]
    return _read_imagenet(listed, draw_per_class(torch.tensor(listed.targets), names, per_class, seed))


def _list_imagenet(part: str) -> datasets.ImageNet:
    """List the photographs of "train" or "val", which torchvision unpacks when they are not."""
    folder = _downloads() / "imagenet"
    archives = {name: datasets.imagenet.ARCHIVE_META[name][0] for name in ("devkit", part)}
    there = {"devkit": folder / datasets.imagenet.META_FILE, part: folder / part}
    fix = (
        f"torchvision cannot fetch ILSVRC-2012: get {' and '.join(archives.values())} from {IMAGENET_ADDRESS} "
        f"and put them into {folder}"
    )
    for name, archive in archives.items():
        if not there[name].exists() and not (folder / archive).is_file():
            raise MissingFile(f"{folder / archive} is missing. Fix: {fix}")
    fix = f"delete {there['devkit']} and {there[part]}, see that both archives are whole, and load again; {fix}"
    try:
        listed = datasets.ImageNet(str(folder), split=part)
    except (RuntimeError, OSError, EOFError, KeyError, UnpicklingError) as error:
        raise DamagedFile(folder, " ".join(str(error).split()), fix) from error
    _count(folder / part, len(listed.samples), IMAGENET_IMAGES[part], fix)
    return listed


def _read_imagenet(listed: datasets.ImageNet, index: Tensor) -> ImageSet:
    """Read the photographs at some positions of the list."""
    files = [listed.samples[position][0] for position in index.tolist()]
    fix = f"bring {listed.split_folder} again, or delete it to have it unpacked again from its archive"
    shorter, size = IMAGENET_SIZES
    images = _photographs(Path(listed.split_folder), files, size, fix, shorter=shorter)
    classes = tuple(", ".join(words) for words in listed.classes)
    return ImageSet("imagenet", images, torch.tensor(listed.targets)[index], classes, *IMAGENET_STATISTICS)


def celeba(split: str = "train", download: bool = False) -> ImageSet:
    """Load CelebA: 202,599 aligned faces as one class, shorter side 64, centre crop; as in `cifar10`.

    All images are training images, as the GAN literature has it, so there is no split "test". The archive stays
    packed; the images take 2.5 GB of memory, and reading them takes minutes. Mean and std are 0.5. Its download,
    torchvision's own, needs the package gdown.
    """
    _check_split(split, "celeba", ("train",))
    root = _downloads() / datasets.CelebA.base_folder
    drive_id, digest, file = next(entry for entry in datasets.CelebA.file_list if entry[2].endswith(".zip"))
    if download:
        _fetch("celeba", lambda: utils.download_file_from_google_drive(drive_id, root, file, digest))
    _check("celeba", [(root / file, digest)], root)
    with zipfile.ZipFile(root / file) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return _unlabelled("celeba", _packed("celeba", archive, files), "face")


def lsun_church(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training set of LSUN's outdoor churches: 126,227 photographs as one class; as in `celeba`.

    The images take 1.6 GB of memory, the unpacked database 2.5 GB of disk. It is read with the package lmdb, not
    with torchvision's class, which leaves a pickle in the working directory and trusts the one that it finds there.

    Raises:
        ReuseError: Also if lmdb is not installed.
    """
    _check_split(split, "lsun_church", ("train",))
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ReuseError("lsun_church is an LMDB database, and lmdb is not installed. Fix: pip install lmdb") from error
    folder = _downloads() / "lsun" / "church_outdoor_train_lmdb"
    if download and not (folder / "data.mdb").is_file():
        _fetch_lsun_church(folder.parent)
    if not (folder / "data.mdb").is_file():
        raise MissingFile(f"{folder / 'data.mdb'} is missing. Fix: {_command('lsun_church')}")
    fix = f"delete {folder}, then run {_command('lsun_church')}"
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as database:
            with database.begin() as transaction:
                keys = [key.decode() for key in transaction.cursor().iternext(values=False)]
            _count(folder, len(keys), LSUN_CHURCH_IMAGES, fix)

            def read(key: str) -> IO[bytes]:
                with database.begin() as transaction:
                    return io.BytesIO(transaction.get(key.encode()) or b"")

            images = _photographs(folder, keys, GAN_SIZE, fix, read)
    except lmdb.Error as error:
        raise DamagedFile(folder, f"it is no LMDB database ({error})", fix) from error
    return _unlabelled("lsun_church", images, "outdoor church")


def _fetch_lsun_church(root: Path) -> None:
    archive = root / "church_outdoor_train_lmdb.zip"
    _fetch("lsun_church", lambda: utils.download_url(LSUN_CHURCH_URL, root, archive.name))
    home.verify(archive, LSUN_CHURCH_SHA256, f"delete {archive}, then run {_command('lsun_church')}")
    utils.extract_archive(str(archive), str(root), remove_finished=True)


def ffhq(split: str = "train", download: bool = False) -> ImageSet:
    """Load FFHQ: 70,000 faces as one class, from the PNG files below `downloads/ffhq/`; as in `celeba`.

    They may be of any size: those of thumbnails128x128 are enough, and are read much faster than the large ones. The
    images take 0.9 GB of memory.

    Args:
        split: "train".
        download: Accepted as by the other sets; this one cannot be fetched by a program.
    """
    _check_split(split, "ffhq", ("train",))
    folder = _downloads() / "ffhq"
    fix = f"bring thumbnails128x128 of github.com/NVlabs/ffhq-dataset to {folder}, {FFHQ_IMAGES} PNG files"
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {fix}")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    _count(folder, len(files), FFHQ_IMAGES, fix)
    return _unlabelled("ffhq", _photographs(folder, files, GAN_SIZE, fix), "face")


def stanford_dogs(split: str = "train", download: bool = False) -> ImageSet:
    """Load Stanford Dogs: 12,000 / 8,580 photographs of 120 breeds, shorter side 256, centre 224x224; as in `cifar10`.

    A class is named as its folder is ("n02085620-Chihuahua"), and classes are sorted by that name. Mean and std are
    those of ImageNet. The images of both splits take 3.1 GB of memory.
    """
    _check_split(split)
    folder, fix = _downloads() / "stanford_dogs", _again("stanford_dogs", "stanford_dogs")
    lists = {part: folder / f"{part}_list.mat" for part in SPLITS}
    if download and not all(path.is_file() for path in lists.values()):
        for file, md5 in DOGS_MD5.items():
            _fetch("stanford_dogs", partial(_unpack, f"{DOGS_URL}/{file}", folder, md5))
    names = {part: [str(name) for name in _matlab(path, "file_list", fix)] for part, path in lists.items()}
    listed = {part: [(f"Images/{name}", name.split("/")[0]) for name in names[part]] for part in SPLITS}
    return _fine_grained("stanford_dogs", folder, listed, split, fix)


def cub200(split: str = "train", download: bool = False) -> ImageSet:
    """Load CUB-200-2011: 5,994 / 5,794 photographs of 200 kinds of birds; as in `stanford_dogs`.

    A class is named as its folder is ("001.Black_footed_Albatross"). The images of both splits take 1.8 GB of memory.
    """
    _check_split(split)
    folder, fix = _downloads() / "CUB_200_2011", _again("cub200", "CUB_200_2011")
    if download and not folder.is_dir():
        _fetch("cub200", lambda: _unpack(CUB_URL, folder.parent, CUB_MD5))
    training = dict(_pairs(folder / "train_test_split.txt", fix))
    listed: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for number, name in _pairs(folder / "images.txt", fix):
        part = "train" if training.get(number) == "1" else "test"
        listed[part].append((f"images/{name}", name.split("/")[0]))
    return _fine_grained("cub200", folder, listed, split, fix)


def stanford_cars(split: str = "train", download: bool = False) -> ImageSet:
    """Load Stanford Cars: 8,144 / 8,041 photographs of 196 models of cars; as in `stanford_dogs`.

    The files lie as torchvision's class has them. The images of both splits take 2.4 GB of memory.

    Args:
        split: "train" or "test".
        download: Accepted as by the other sets; the place that published this one is gone.
    """
    _check_split(split)
    folder = _downloads() / "stanford_cars"
    fix = (
        f"bring cars_train/, cars_test/, devkit/ (with cars_train_annos.mat and cars_meta.mat) and "
        f"cars_test_annos_withlabels.mat to {folder}: they are no longer published where they were"
    )
    lists = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    classes = [str(name) for name in _matlab(folder / "devkit" / "cars_meta.mat", "class_names", fix)]
    notes = {part: _matlab(path, "annotations", fix) for part, path in lists.items()}
    listed = {
        part: [(f"cars_{part}/{note['fname']}", classes[int(note["class"]) - 1]) for note in notes[part]]
        for part in SPLITS
    }
    return _fine_grained("stanford_cars", folder, listed, split, fix)


def fgvc_aircraft(split: str = "train", download: bool = False) -> ImageSet:
    """Load FGVC-Aircraft: 6,667 / 3,333 photographs of 100 variants of aeroplanes; as in `stanford_dogs`.

    "train" is the published training and validation set together. The line of text below each photograph stays. The
    images of both splits take 1.5 GB of memory.
    """
    _check_split(split)
    folder, fix = _downloads() / "fgvc-aircraft-2013b", _again("fgvc_aircraft", "fgvc-aircraft-2013b")
    if download and not folder.is_dir():
        _fetch("fgvc_aircraft", lambda: _unpack(AIRCRAFT_URL, folder.parent, AIRCRAFT_MD5))
    lists = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}
    listed = {
        part: [(f"images/{number}.jpg", variant) for number, variant in _pairs(folder / "data" / file, fix)]
        for part, file in lists.items()
    }
    return _fine_grained("fgvc_aircraft", folder / "data", listed, split, fix)


def celeba_attributes(split: str = "train", size: int | None = None, download: bool = False) -> MultiLabelSet:
    """Load CelebA with its 40 yes-or-no attributes: 162,770 / 19,867 / 19,962 aligned faces.

    The shorter side becomes 256/224 of the size, and the centre is cut out. The archive stays packed. At 224 pixels the
    training images take 24.5 GB of memory, at 64 pixels 2.0 GB. Mean and std are those of ImageNet. Its download,
    torchvision's own, needs the package gdown.

    Args:
        split: "train", "valid" or "test".
        size: Height and width of the images; None for 224.
        download: Whether to fetch the files when they are not there.

    Returns:
        The images, and for each attribute the labels 0 (no) and 1 (yes), in the order of the published file.

    Raises:
        UnknownName: If there is no such split.
        MissingFile: If the files are not there; the message holds the command that fetches them.
        DamagedFile: If a file has another hash than the published one.
        ReuseError: If the download fails.
    """
    from reuselib.data.multi_label import MultiLabelSet  # which reads Fashion-MNIST from here

    _check_split(split, "celeba_attributes", CELEBA_SPLITS)
    root, name = _downloads() / datasets.CelebA.base_folder, "celeba_attributes"
    wanted = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
    files = {file: (drive_id, md5) for drive_id, md5, file in datasets.CelebA.file_list if file in wanted}
    for file, (drive_id, md5) in files.items() if download else ():
        _fetch(name, partial(utils.download_file_from_google_drive, drive_id, root, file, md5))
    _check(name, [(root / file, md5) for file, (_, md5) in files.items()], root)
    parts = [line.split() for line in (root / wanted[2]).read_text("utf-8").splitlines()]
    number = str(CELEBA_SPLITS.index(split))
    chosen = {image for image, part in parts if part == number}
    _, heads, *lines = (root / wanted[1]).read_text("utf-8").splitlines()
    rows = [row for row in map(str.split, lines) if row[0] in chosen]
    targets = torch.tensor([[sign == "1" for sign in row[1:]] for row in rows], dtype=torch.int64)
    size = size or FINE_SIZE
    with zipfile.ZipFile(root / wanted[0]) as archive:
        shorter = round(size * FINE_SIDE / FINE_SIZE)
        images = _packed(name, archive, [f"img_align_celeba/{row[0]}" for row in rows], size, shorter)
    labels = torch.zeros(len(images), dtype=torch.int64)
    faces = ImageSet(name, images, labels, ("face",), *IMAGENET_STATISTICS)
    return MultiLabelSet(faces, targets, dict.fromkeys(heads.split(), ("no", "yes")))


def _fine_grained(name: str, folder: Path, listed: dict[str, list[tuple[str, str]]], split: str, fix: str) -> ImageSet:
    """Read one split of photographs that are listed with the names of their classes, which become sorted."""
    for part, count in zip(SPLITS, FINE_IMAGES[name], strict=True):
        _count(folder, len(listed[part]), count, fix)
    classes = sorted({label for files in listed.values() for _, label in files})
    position = {label: index for index, label in enumerate(classes)}
    images = _photographs(folder, [file for file, _ in listed[split]], FINE_SIZE, fix, shorter=FINE_SIDE)
    labels = torch.tensor([position[label] for _, label in listed[split]])
    return ImageSet(name, images, labels, tuple(classes), *IMAGENET_STATISTICS)


def _unpack(url: str, folder: Path, md5: str) -> None:
    """Fetch an archive, compare it with its published MD5, and unpack it; the archive is not kept."""
    utils.download_and_extract_archive(url, str(folder), md5=md5, remove_finished=True)


def _matlab(path: Path, key: str, fix: str) -> Iterable[Any]:
    """Return the entries of one variable of a MATLAB file."""
    from scipy.io import loadmat

    _present(path, fix)
    try:
        return np.atleast_1d(loadmat(str(path), squeeze_me=True)[key])
    except Exception as error:  # what scipy raises depends on where the file is cut off or altered
        raise DamagedFile(path, f"it has no readable {key!r} ({error})", fix) from error


def _pairs(path: Path, fix: str) -> list[tuple[str, str]]:
    """Return the lines of a text file, each as its first word and the rest."""
    _present(path, fix)
    lines = path.read_text("utf-8").splitlines()
    pairs = [tuple(line.strip().split(" ", 1)) for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise DamagedFile(path, "a line has no second word", fix)
    return pairs  # type: ignore[return-value]


def _present(path: Path, fix: str) -> None:
    if not path.is_file():
        raise MissingFile(f"{path} is missing. Fix: {fix}")


def _again(name: str, folder: str) -> str:
    """Return how to bring an unpacked set back."""
    return f"delete {_downloads() / folder} if it is there, then run {_command(name)}"


def _unlabelled(name: str, images: Tensor, word: str) -> ImageSet:
    return ImageSet(name, images, torch.zeros(len(images), dtype=torch.int64), (word,), *HALVES)


def _packed(
    name: str, archive: zipfile.ZipFile, files: Sequence[str], size: int = GAN_SIZE, shorter: int | None = None
) -> Tensor:
    """Read photographs from an open archive."""
    fix = f"delete {archive.filename}, then run {_command(name)}"
    return _photographs(
        Path(str(archive.filename)), files, size, fix, lambda file: io.BytesIO(archive.read(file)), shorter
    )


def _count(folder: Path, found: int, expected: int, fix: str) -> None:
    if found != expected:
        raise DamagedFile(folder, f"expected {expected} images, found {found}", fix)


def _photographs(
    place: Path,
    files: Sequence[str],
    size: int,
    fix: str,
    read: Callable[[str], IO[bytes]] | None = None,
    shorter: int | None = None,
) -> Tensor:
    """Read photographs of any size: shorter side `shorter`, centre crop of `size`.

    Args:
        place: The folder, archive or database that holds them.
        files: Their names in it.
        size: Height and width of the result.
        fix: Ends the message when one cannot be decoded.
        read: Opens one by its name; without it, `place` is a folder.
        shorter: The shorter side before the crop; `size` if left out.

    Returns:
        uint8, (N, 3, size, size). It is filled in place: 2.5 GB are not to be held twice.
    """
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def put(index: int) -> None:
        path = place / files[index]
        try:
            with Image.open(read(files[index]) if read else path) as image:
                colour = image.convert("RGB")
        except OSError as error:
            raise DamagedFile(path, f"it cannot be decoded ({error})", fix) from error
        square = transforms.center_crop(transforms.resize(colour, shorter or size), size)
        images[index] = transforms.pil_to_tensor(square)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(put, range(len(files))):
            pass
    return images


def _cifar(name: str, source: type[datasets.CIFAR10], split: str, download: bool) -> ImageSet:
    _check_split(split)
    folder = _downloads() / source.base_folder
    listed = source.train_list + source.test_list + [[source.meta["filename"], source.meta["md5"]]]
    files = [(folder / file, digest) for file, digest in listed]
    read = _open(name, source, files, folder.parent, download, train=split == "train")
    images = _tensor(read.data.transpose(0, 3, 1, 2))
    return ImageSet(name, images, torch.tensor(read.targets), tuple(read.classes), *CIFAR_STATISTICS)


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))


def _downloads() -> Path:
    return home.path("downloads")


def _command(name: str) -> str:
    loaded = any(loader.__name__ == name for loader in LOADERS)
    call = f"load('{name}', download=True)" if loaded else f"vision.{name}(download=True)"
    return f'python -c "from reuselib import data; data.{call}"'


def _open(
    name: str, source: Callable[..., Any], files: list[tuple[Path, str]], root: Path, download: bool, **options: Any
) -> Any:
    """Open a torchvision data set below `root`, having said which file is missing or damaged."""
    if download:
        _fetch(name, lambda: source(str(root), download=True, **options))
    _check(name, files, root)
    return source(str(root), download=False, **options)


def _fetch(name: str, download: Callable[[], object]) -> None:
    """Run one of torchvision's downloads.

    Raises:
        ReuseError: If it fails, for example without a network.
    """
    try:
        download()
    except Exception as error:  # urllib's, torchvision's and gdown's errors have no narrower base in common
        reason = " ".join(str(error).split())
        raise ReuseError(
            f"{name} could not be fetched ({reason}). Fix: connect to the network and run {_command(name)}, "
            f"or bring the files from elsewhere to {_downloads()}"
        ) from error


def _check(name: str, files: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Compare files with their published MD5.

    Raises:
        MissingFile: If one is not there.
        DamagedFile: If one has another hash.
    """
    for path, expected in files:
        if not path.is_file():
            raise MissingFile(f"{path} is missing. Fix: {_command(name)}")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != expected:
            fix = f"delete {path} and what was unpacked from it below {folder}, then run {_command(name)}"
            raise DamagedFile(path, f"expected md5 {expected}, found {found}", fix)


def _check_split(split: str, name: str = "", splits: tuple[str, ...] = SPLITS) -> None:
    if split not in splits:
        raise unknown(f"split of {name}" if name else "split", split, splits)


def _shipped(name: str) -> Path:
    """Return a verified Fashion-MNIST archive; a damaged one is refused, never silently replaced."""
    relative = f"FashionMNIST/raw/{name}"
    path = home.path(relative)
    if not path.is_file():
        path = home.shipped(relative)
    in_clone = path.is_relative_to(home.CLONE / "data")
    fix = f"git checkout -- data/{relative}" if in_clone else f"delete {path} and load again"
    return home.verify(path, FASHION_MNIST_SHA256[name], fix)


def _decompress(archives: list[Path]) -> Path:
    """Decompress verified archives beside themselves, or into the user's cache where that cannot be written.

    Returns:
        The folder that holds the decompressed files.
    """
    folder = archives[0].parent
    stale = [archive for archive in archives if not _is_content(folder / archive.stem, archive)]
    if stale and not os.access(folder, os.W_OK):
        import pooch

        folder = Path(pooch.os_cache("reuselib")).joinpath(*folder.parts[-2:])
        stale = [archive for archive in archives if not _is_content(folder / archive.stem, archive)]
    for archive in stale:
        home.write_atomic(folder / archive.stem, gzip.decompress(archive.read_bytes()))
    return folder


def _is_content(path: Path, archive: Path) -> bool:
    """Return whether a file has the CRC-32 and the size that the end of its verified gzip archive states."""
    if not path.is_file():
        return False
    with open(archive, "rb") as file:
        file.seek(-8, os.SEEK_END)
        expected = file.read()
    content = path.read_bytes()
    return struct.pack("<II", zlib.crc32(content), len(content)) == expected


def _read_mnist(source: type[datasets.MNIST], raw: Path, name: str, split: str, normalisation: Statistics) -> ImageSet:
    """Read idx files with torchvision's class `source`; `raw` ends in <class name>/raw."""
    old = raw.parent / "processed"
    if old.exists():
        raise ReuseError(f"{old} (of an old torchvision) would be read unverified. Fix: move it elsewhere")
    read = source(str(raw.parent.parent), train=split == "train", download=False)
    classes = DIGITS if source is datasets.MNIST else tuple(source.classes)
    return ImageSet(name, read.data.unsqueeze(1), read.targets, classes, *normalisation)


LOADERS = (
    fashion_mnist,
    mnist,
    svhn,
    stl10,
    cifar10,
    cifar100,
    caltech101,
    tiny_imagenet,
    imagenet,
    celeba,
    lsun_church,
    ffhq,
    stanford_dogs,
    cub200,
    stanford_cars,
    fgvc_aircraft,
)
