"""The papers' sets of photographs, which are cut to one size when they are read.

They are fetched by `download=True` into `downloads/` of the data folder, except FFHQ, Stanford Cars, ILSVRC-2012,
Cityscapes and SUN RGB-D, which must be brought there. Archives are checked against their published hashes; where there
is no hash for what is read, the images are counted.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import utils

from reuselib import home
from reuselib.data import files
from reuselib.data.files import SPLITS, Change
from reuselib.data.image_set import HALVES, IMAGENET_STATISTICS, ImageSet, draw_per_class, one_class
from reuselib.errors import DamagedFile, ReuseError

Listed = dict[str, list[tuple[str, str]]]

SHORTER, SQUARE = 256, 224  # the shorter side of a photograph, and the square that is cut out of its centre
GAN_SIZE = 64
COUNTS = {  # images where no hash tells that all are there
    "caltech101": {"train and test": 8_677},  # without BACKGROUND_Google
    "cityscapes": {"train": 2_975},
    "cub200": {"train": 5_994, "test": 5_794},
    "ffhq": {"train": 70_000},
    "fgvc_aircraft": {"train": 6_667, "test": 3_333},
    "imagenet": {"train": 1_281_167, "val": 50_000},
    "lsun_church": {"train": 126_227},
    "stanford_cars": {"train": 8_144, "test": 8_041},
    "stanford_dogs": {"train": 12_000, "test": 8_580},
    "sunrgbd": {"train": 5_285},
    "voc2012": {"train": 1_464},
}
STANFORD, CALTECH = "http://vision.stanford.edu/aditya86/ImageNetDogs/", "https://data.caltech.edu/records/"
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/"
LSUN = "91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a"
URLS = {  # address and MD5, of LSUN's archive SHA-256
    "cub200": (f"{CALTECH}65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    "fgvc_aircraft": (f"{OXFORD}fgvc-aircraft-2013b.tar.gz", "d4acdd33327262359767eeaa97a4f732"),
    "lsun_church": ("http://dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip", LSUN),
    "stanford_dogs": (f"{STANFORD}images.tar", "1bb1f2a596ae7057f99d7d75860002ef"),
    "stanford_dogs lists": (f"{STANFORD}lists.tar", "edbb9f16854ec66506b5f09b583e0656"),
    "tiny_imagenet": ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
}

# ---- photographs with classes


def caltech101(split: str = "train", download: bool = False) -> ImageSet:
    """Load Caltech101 without its background class: colour, shorter side 128, centre crop; as in `cifar10`.

    Per class, `max(int(0.2 * n), 2)` images are the test set, drawn with one `Random(1)` over sorted classes
    and sorted file names, so that the split is the same on every file system.
    """
    files.check_split(split)
    if download:
        files.fetch("caltech101", lambda: datasets.Caltech101(str(files.downloads()), download=True))
    folder = files.present(files.downloads("caltech101", "101_ObjectCategories"), files.command("caltech101"))
    train, test = caltech_split(folder)
    fix = files.fetch_again("caltech101", folder)
    files.count(folder, len(train) + len(test), COUNTS["caltech101"]["train and test"], fix)
    paths, labels = zip(*(train if split == "train" else test), strict=True)
    classes = tuple(category.name for category in _categories(folder))
    images = files.pictures(folder, paths, files.square(128), fix)
    return ImageSet("caltech101", images, torch.tensor(labels), classes, *HALVES)


def caltech_split(folder: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Return the training and the test files of a 101_ObjectCategories folder, each with its label."""
    draw = random.Random(1)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, category in enumerate(_categories(folder)):
        found = sorted(category.glob("*.jpg"))
        held_out = set(draw.sample(found, min(max(int(0.2 * len(found)), 2), len(found))))
        for file in found:
            (test if file in held_out else train).append((file, label))
    return train, test


def _categories(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "BACKGROUND_Google")


def tiny_imagenet(split: str = "train", download: bool = False) -> ImageSet:
    """Load Tiny-ImageNet: 100,000 / 10,000 coloured photographs, 64x64, 200 classes; as in `cifar10`.

    "test" is its validation set: its own test set has no labels. The archive stays packed; the images of a split take
    1.2 GB of memory. Mean and std are 0.5.
    """
    files.check_split(split)
    name, base, (url, md5) = "tiny_imagenet", "tiny-imagenet-200", URLS["tiny_imagenet"]
    path = files.downloads(f"{base}.zip")
    if download:
        files.fetch(name, lambda: utils.download_url(url, path.parent, path.name, md5))
    files.check(name, [(path, md5)], path.parent)
    with zipfile.ZipFile(path) as archive:
        text = {key: archive.read(f"{base}/{key}.txt").decode() for key in ("wnids", "words", "val/val_annotations")}
        inside = sorted(archive.namelist())
    ids = sorted(text["wnids"].split())
    words = dict(line.split("\t") for line in text["words"].splitlines())
    chosen = {name: name.split("/")[2] for name in inside if name.startswith(f"{base}/train/") and name[-5:] == ".JPEG"}
    if split == "test":
        notes = [line.split() for line in text["val/val_annotations"].splitlines()]
        chosen = {f"{base}/val/images/{note[0]}": note[1] for note in notes}
    images = packed(name, path, list(chosen), files.square(GAN_SIZE))
    labels = torch.tensor([ids.index(wnid) for wnid in chosen.values()])
    return ImageSet(name, images, labels, tuple(words[wnid] for wnid in ids), *HALVES)


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
    files.check_split(split)
    if split == "train":
        raise ReuseError(
            f"the {COUNTS['imagenet']['train']:,} training images of imagenet would take 193 GB of memory. "
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
    folder = files.downloads("imagenet")
    archives = {name: datasets.imagenet.ARCHIVE_META[name][0] for name in ("devkit", part)}
    there = {"devkit": folder / datasets.imagenet.META_FILE, part: folder / part}
    address = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
    needed = f"get {' and '.join(archives.values())} from {address} and put them into {folder}"
    fix = f"torchvision cannot fetch ILSVRC-2012: {needed}"
    for name, archive in archives.items():
        if not there[name].exists():
            files.present(folder / archive, fix)
    fix = f"delete {there['devkit']} and {there[part]}, see that both archives are whole, and load again; {fix}"
    try:
        listed = datasets.ImageNet(str(folder), split=part)
    except (RuntimeError, OSError, EOFError, KeyError, UnpicklingError) as error:
        raise DamagedFile(folder, " ".join(str(error).split()), fix) from error
    files.count(folder / part, len(listed.samples), COUNTS["imagenet"][part], fix)
    return listed


def _read_imagenet(listed: datasets.ImageNet, index: Tensor) -> ImageSet:
    """Read the photographs at some positions of the list."""
    names = [listed.samples[position][0] for position in index.tolist()]
    fix = f"bring {listed.split_folder} again, or delete it to have it unpacked again from its archive"
    images = files.pictures(Path(listed.split_folder), names, files.square(SQUARE, SHORTER), fix)
    classes = tuple(", ".join(words) for words in listed.classes)
    return ImageSet("imagenet", images, torch.tensor(listed.targets)[index], classes, *IMAGENET_STATISTICS)


def stanford_dogs(split: str = "train", download: bool = False) -> ImageSet:
    """Load Stanford Dogs: 12,000 / 8,580 photographs of 120 breeds, shorter side 256, centre 224x224; as in `cifar10`.

    A class is named as its folder is ("n02085620-Chihuahua"), and classes are sorted by that name. Mean and std are
    those of ImageNet. The images of both splits take 3.1 GB of memory.
    """
    folder = files.downloads("stanford_dogs")
    fix = files.fetch_again("stanford_dogs", folder)
    lists = {part: folder / f"{part}_list.mat" for part in SPLITS}
    if download and not all(path.is_file() for path in lists.values()):
        for archive in ("stanford_dogs", "stanford_dogs lists"):
            _unpack("stanford_dogs", folder, archive)
    names = {part: files.matlab(path, ["file_list"], fix, squeeze=True)["file_list"] for part, path in lists.items()}
    listed = {part: [(f"Images/{name}", str(name).split("/")[0]) for name in names[part]] for part in SPLITS}
    return _fine_grained("stanford_dogs", folder, listed, split, fix)


def cub200(split: str = "train", download: bool = False) -> ImageSet:
    """Load CUB-200-2011: 5,994 / 5,794 photographs of 200 kinds of birds; as in `stanford_dogs`.

    A class is named as its folder is ("001.Black_footed_Albatross"). The images of both splits take 1.8 GB of memory.
    """
    folder = files.downloads("CUB_200_2011")
    fix = files.fetch_again("cub200", folder)
    if download and not folder.is_dir():
        _unpack("cub200", folder.parent)
    training = dict(_lines(folder / "train_test_split.txt", fix))
    listed: Listed = {"train": [], "test": []}
    for number, name in _lines(folder / "images.txt", fix):
        part = "train" if training.get(number) == "1" else "test"
        listed[part].append((f"images/{name}", name.split("/")[0]))
    return _fine_grained("cub200", folder, listed, split, fix)


def stanford_cars(split: str = "train", download: bool = False) -> ImageSet:
    """Load Stanford Cars: 8,144 / 8,041 photographs of 196 models of cars; as in `stanford_dogs`.

    The files lie as torchvision's class has them. The images of both splits take 2.4 GB of memory.
    """
    folder = files.downloads("stanford_cars")
    fix = (
        f"bring cars_train/, cars_test/, devkit/ (with cars_train_annos.mat and cars_meta.mat) and "
        f"cars_test_annos_withlabels.mat to {folder}: they are no longer published where they were"
    )
    lists = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    classes = files.matlab(folder / "devkit" / "cars_meta.mat", ["class_names"], fix, squeeze=True)["class_names"]
    listed = {}
    for part, path in lists.items():
        notes = np.atleast_1d(files.matlab(path, ["annotations"], fix, squeeze=True)["annotations"])
        listed[part] = [(f"cars_{part}/{note['fname']}", str(classes[int(note["class"]) - 1])) for note in notes]
    return _fine_grained("stanford_cars", folder, listed, split, fix)


def fgvc_aircraft(split: str = "train", download: bool = False) -> ImageSet:
    """Load FGVC-Aircraft: 6,667 / 3,333 photographs of 100 variants of aeroplanes; as in `stanford_dogs`.

    "train" is the published training and validation set together. The line of text below each photograph stays. The
    images of both splits take 1.5 GB of memory.
    """
    folder = files.downloads("fgvc-aircraft-2013b")
    fix = files.fetch_again("fgvc_aircraft", folder)
    if download and not folder.is_dir():
        _unpack("fgvc_aircraft", folder.parent)
    lists = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}
    listed = {
        part: [(f"images/{number}.jpg", variant) for number, variant in _lines(folder / "data" / file, fix)]
        for part, file in lists.items()
    }
    return _fine_grained("fgvc_aircraft", folder / "data", listed, split, fix)


def _fine_grained(name: str, folder: Path, listed: Listed, split: str, fix: str) -> ImageSet:
    """Read one split of photographs that are listed with the names of their classes, which become sorted."""
    files.check_split(split)
    for part in SPLITS:
        files.count(folder, len(listed[part]), COUNTS[name][part], fix)
    classes = sorted({label for photographs in listed.values() for _, label in photographs})
    paths, labels = zip(*listed[split], strict=True)
    images = files.pictures(folder, paths, files.square(SQUARE, SHORTER), fix)
    numbers = torch.tensor([classes.index(label) for label in labels])
    return ImageSet(name, images, numbers, tuple(classes), *IMAGENET_STATISTICS)


def _unpack(name: str, folder: Path, archive: str | None = None) -> None:
    """Fetch an archive, compare it with its published MD5, and unpack it; the archive is not kept."""
    url, md5 = URLS[archive or name]
    unpack = partial(utils.download_and_extract_archive, url, str(folder), md5=md5, remove_finished=True)
    files.fetch(name, unpack)


def _lines(path: Path, fix: str) -> list[tuple[str, str]]:
    """Return the lines of a text file, each as its first word and the rest."""
    text = files.present(path, fix).read_text("utf-8")
    pairs = [line.strip().partition(" ")[::2] for line in text.splitlines() if line.strip()]
    if not all(rest for _, rest in pairs):
        raise DamagedFile(path, "a line has no second word", fix)
    return pairs


# ---- photographs of one class


def celeba(split: str = "train", download: bool = False) -> ImageSet:
    """Load CelebA: 202,599 aligned faces as one class, shorter side 64, centre crop; as in `cifar10`.

    All images are training images, as the GAN literature has it, so there is no split "test". The archive stays
    packed; the images take 2.5 GB of memory, and reading them takes minutes. Mean and std are 0.5. Its download,
    torchvision's own, needs the package gdown.
    """
    files.check_split(split, "celeba", ("train",))
    (path,) = celeba_files("celeba", ("img_align_celeba.zip",), download)
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
    return one_class("celeba", packed("celeba", path, names, files.square(GAN_SIZE)), "face")


def celeba_files(name: str, wanted: Sequence[str], download: bool) -> list[Path]:
    """Return verified files of CelebA, which torchvision fetches with the package gdown."""
    root = files.downloads(datasets.CelebA.base_folder)
    published = {file: (drive_id, md5) for drive_id, md5, file in datasets.CelebA.file_list if file in wanted}
    for file, (drive_id, md5) in published.items() if download else ():
        files.fetch(name, partial(utils.download_file_from_google_drive, drive_id, root, file, md5))
    files.check(name, [(root / file, md5) for file, (_, md5) in published.items()], root)
    return [root / file for file in wanted]


def packed(name: str, path: Path, names: Sequence[str], change: Change) -> Tensor:
    """Read photographs of a zip archive; see `files.pictures`."""
    fix = files.fetch_again(name, path)
    with zipfile.ZipFile(path) as archive:
        return files.pictures(path, names, change, fix, lambda file: io.BytesIO(archive.read(file)))


def lsun_church(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training set of LSUN's outdoor churches: 126,227 photographs as one class; as in `celeba`.

    The images take 1.6 GB of memory, the unpacked database 2.5 GB of disk. It is read with the package lmdb, not
    with torchvision's class, which leaves a pickle in the working directory and trusts the one that it finds there.

    Raises:
        ReuseError: Also if lmdb is not installed.
    """
    files.check_split(split, "lsun_church", ("train",))
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ReuseError("lsun_church is an LMDB database, and lmdb is not installed. Fix: pip install lmdb") from error
    folder = files.downloads("lsun", "church_outdoor_train_lmdb")
    if download and not (folder / "data.mdb").is_file():
        (url, digest), archive = URLS["lsun_church"], folder.with_suffix(".zip")
        files.fetch("lsun_church", lambda: utils.download_url(url, archive.parent, archive.name))
        home.verify(archive, digest, files.fetch_again("lsun_church", archive))
        utils.extract_archive(str(archive), str(archive.parent), remove_finished=True)
    files.present(folder / "data.mdb", files.command("lsun_church"))
    fix = files.fetch_again("lsun_church", folder)
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as database:
            with database.begin() as transaction:
                keys = [key.decode() for key in transaction.cursor().iternext(values=False)]
            files.count(folder, len(keys), COUNTS["lsun_church"]["train"], fix)

            def opened(key: str) -> IO[bytes]:
                with database.begin() as transaction:
                    return io.BytesIO(transaction.get(key.encode()) or b"")

            images = files.pictures(folder, keys, files.square(GAN_SIZE), fix, opened)
    except lmdb.Error as error:
        raise DamagedFile(folder, f"it is no LMDB database ({error})", fix) from error
    return one_class("lsun_church", images, "outdoor church")


def ffhq(split: str = "train", download: bool = False) -> ImageSet:
    """Load FFHQ: 70,000 faces as one class, from the PNG files below `downloads/ffhq/`; as in `celeba`.

    They may be of any size: those of thumbnails128x128 are enough, and are read much faster than the large ones. The
    images take 0.9 GB of memory.
    """
    fix = "bring thumbnails128x128 of github.com/NVlabs/ffhq-dataset, 70000 PNG files"
    return _brought("ffhq", split, files.downloads("ffhq"), "**/*.png", "face", files.square(GAN_SIZE), fix)


def cityscapes(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of Cityscapes: 2,975 street scenes as one class, 256x512, without their masks.

    They serve as data related to CamVid's. They lie as published, in
    `downloads/cityscapes/leftImg8bit/train/<city>/*.png`, and take 1.2 GB of memory. Mean and std are 0.5.

    Args:
        split: "train".
        download: Accepted as by the other sets; this one needs a registration.

    Raises:
        UnknownName: If there is no such split.
        MissingFile: If the files are not there.
        DamagedFile: If some are missing or cannot be decoded.
    """
    folder = files.downloads("cityscapes", "leftImg8bit", "train")
    fix = "unpack leftImg8bit_trainvaltest.zip of www.cityscapes-dataset.com, and bring leftImg8bit/train"
    return _brought("cityscapes", split, folder, "*/*_leftImg8bit.png", "street", files.shrunk(SHORTER), fix)


def sunrgbd(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of SUN RGB-D: 5,285 photographs of rooms as one class, 256x256; as in `cityscapes`.

    They serve as data related to NYUv2's, which are among them in part. They lie in
    `downloads/SUNRGBD/SUNRGBD-train_images/*.jpg` and come in several sizes, hence the crop; 1.0 GB of memory.
    """
    folder = files.downloads("SUNRGBD", "SUNRGBD-train_images")
    fix = "unpack SUNRGBD-train_images.tgz of github.com/ankurhanda/sunrgbd-meta-data, and bring it"
    return _brought("sunrgbd", split, folder, "*.jpg", "room", files.square(SHORTER), fix)


def _brought(name: str, split: str, folder: Path, pattern: str, word: str, change: Change, fix: str) -> ImageSet:
    """Read the photographs of a folder that no program can fetch."""
    files.check_split(split, name, ("train",))
    fix = f"{fix} to {folder}"
    found = files.listed(folder, pattern, COUNTS[name]["train"], fix)
    return one_class(name, files.pictures(folder, found, change, fix), word)


def voc2012(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of VOC 2012's segmentation: 1,464 photographs as one class, 256x256; as in `cityscapes`.

    They serve as data unrelated to streets and rooms, and take 0.3 GB of memory.

    Args:
        split: "train".
        download: Whether to fetch the archive when it is not there.
    """
    files.check_split(split, "voc2012", ("train",))
    source = partial(datasets.VOCSegmentation, str(files.downloads()), year="2012", image_set="train")
    if download:
        files.fetch("voc2012", lambda: source(download=True))
    folder = files.present(files.downloads("VOCdevkit", "VOC2012"), files.command("voc2012"))
    fix = files.fetch_again("voc2012", folder)
    names = source().images
    files.count(folder, len(names), COUNTS["voc2012"]["train"], fix)
    return one_class("voc2012", files.pictures(folder, names, files.square(SHORTER), fix), "photograph")


LOADERS = (
    *(caltech101, tiny_imagenet, imagenet, stanford_dogs, cub200, stanford_cars, fgvc_aircraft),
    *(celeba, lsun_church, ffhq, cityscapes, sunrgbd, voc2012),
)
"""Each takes split and whether to download."""
