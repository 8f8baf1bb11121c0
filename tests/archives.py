"""Tiny archives in the true on-disk format of each image set, served to torchvision's own downloads.

    contents = archives.publish("cifar10", monkeypatch, tmp_path)     # and REUSELIB_DATA is tmp_path / "data"
    images = data.load("cifar10", "train", download=True)             # fetched, unpacked, verified, read

The addresses and hashes in torchvision's classes are patched: a tiny archive cannot have the published hash.
So is its fetching of one address, which wants headers that a file:// address has not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.request import urlretrieve

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets
from torchvision.datasets import caltech, utils

from reuselib.data import vision

Part = tuple[np.ndarray, np.ndarray]
Contents = dict[str, Part]
CALTECH_CATEGORIES = {"airplanes": 14, "ant": 5, "wild_cat": 3}


def publish(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, train: int = 40, test: int = 20
) -> Contents:
    """Make the archive of one set below `folder` and let torchvision's class find it there.

    Args:
        name: mnist, svhn, stl10, cifar10, cifar100 or caltech101.
        monkeypatch: Of the test; it undoes everything.
        folder: An empty folder, usually `tmp_path`.
        train: Number of training images, a multiple of 5; Caltech101 has 22 images in all.
        test: Number of test images.

    Returns:
        What was written: "train" and "test", each uint8 (N, C, H, W) and int64 (N,). Of Caltech101, nothing.
    """
    server = folder / "server"
    server.mkdir(exist_ok=True)
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, path, *_: urlretrieve(url, path))
    if name == "caltech101":
        _publish_caltech(monkeypatch, server)
        return {}
    channels, size, classes = {"mnist": (1, 28, 10), "stl10": (3, 96, 10), "cifar100": (3, 32, 100)}.get(
        name, (3, 32, 10)
    )
    contents = {
        split: _random_part(count, (channels, size, size), classes, seed)
        for seed, (split, count) in enumerate({"train": train, "test": test}.items())
    }
    PUBLISHERS[name](monkeypatch, server, contents)
    return contents


def _random_part(count: int, shape: tuple[int, int, int], classes: int, seed: int) -> Part:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, *shape), np.uint8), np.arange(count, dtype=np.int64) * 7 % classes


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _publish_mnist(monkeypatch: pytest.MonkeyPatch, server: Path, contents: Contents) -> None:
    resources = []
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = contents[split]
        header = struct.pack(">IIII", 0x00000803, len(images), *images.shape[2:])
        for name, content in (
            (f"{stem}-images-idx3-ubyte.gz", header + images.tobytes()),
            (
                f"{stem}-labels-idx1-ubyte.gz",
                struct.pack(">II", 0x00000801, len(labels)) + bytes(labels.tolist()),
            ),
        ):
            packed = gzip.compress(content)
            (server / name).write_bytes(packed)
            resources.append((name, _md5(packed)))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.as_uri()}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)


def _publish_svhn(monkeypatch: pytest.MonkeyPatch, server: Path, contents: Contents) -> None:
    files = {}
    for split, (images, labels) in contents.items():
        path = server / f"{split}_32x32.mat"
        labels = np.where(labels == 0, 10, labels).astype(np.uint8).reshape(-1, 1)
        scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": labels}, do_compression=True)
        files[split] = [path.as_uri(), path.name, _md5(path.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)


def _publish_stl10(monkeypatch: pytest.MonkeyPatch, server: Path, contents: Contents) -> None:
    files = {"unlabeled_X.bin": bytes(3 * 96 * 96)}
    for split, (images, labels) in contents.items():
        files[f"{split}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()  # column by column
        files[f"{split}_y.bin"] = bytes((labels + 1).tolist())
    digests = {name: [name, _md5(content)] for name, content in files.items()}
    names = {"class_names.txt": "\n".join(vision.STL10_CLASSES).encode(), "fold_indices.txt": b""}
    members = {f"stl10_binary/{name}": content for name, content in (files | names).items()}
    _serve_tar(monkeypatch, server, datasets.STL10, members)
    train = ("train_X.bin", "train_y.bin", "unlabeled_X.bin")
    monkeypatch.setattr(datasets.STL10, "train_list", [digests[name] for name in train])
    monkeypatch.setattr(datasets.STL10, "test_list", [digests[name] for name in ("test_X.bin", "test_y.bin")])


def _serve_tar(
    monkeypatch: pytest.MonkeyPatch, server: Path, source: type, members: dict[str, bytes]
) -> None:
    packed = _tar_gz(members)
    path = server / source.filename
    path.write_bytes(packed)
    monkeypatch.setattr(source, "url", path.as_uri())
    monkeypatch.setattr(source, "tgz_md5", _md5(packed))


def _publish_cifar(
    source: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch, server: Path, contents: Contents
) -> None:
    fine = source is datasets.CIFAR100
    names = [f"class {index}" for index in range(100 if fine else 10)]
    files = {source.meta["filename"]: pickle.dumps({source.meta["key"]: names}, 2)}
    for split, listed in (("train", source.train_list), ("test", source.test_list)):
        images, labels = (np.array_split(part, len(listed)) for part in contents[split])
        for (file, _), some, their in zip(listed, images, labels, strict=True):
            key = "fine_labels" if fine else "labels"
            batch = {"batch_label": file, "data": some.reshape(len(some), -1), key: their.tolist()}
            files[file] = pickle.dumps(batch, 2)
    _serve_tar(monkeypatch, server, source, {f"{source.base_folder}/{n}": c for n, c in files.items()})
    for part in ("train_list", "test_list"):
        listed = [[file, _md5(files[file])] for file, _ in getattr(source, part)]
        monkeypatch.setattr(source, part, listed)
    meta = source.meta | {"md5": _md5(files[source.meta["filename"]])}
    monkeypatch.setattr(source, "meta", meta)


def _publish_caltech(monkeypatch: pytest.MonkeyPatch, server: Path) -> None:
    draw = np.random.default_rng(0)
    photographs = {}
    for category, count in (CALTECH_CATEGORIES | {"BACKGROUND_Google": 2}).items():
        for number in range(1, count + 1):
            size = tuple(draw.integers(100, 300, 2))
            pixels = draw.integers(0, 256, size if number == 1 else (*size, 3), np.uint8)  # a few are grey
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG")
            photographs[f"101_ObjectCategories/{category}/image_{number:04d}.jpg"] = buffer.getvalue()
    path = server / "caltech-101.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", _tar_gz(photographs))
    # The address and the hash stand inside torchvision's method: only the function that it calls can be led.
    fetch = partial(_fetch_instead, path, _md5(path.read_bytes()))
    monkeypatch.setattr(caltech, "download_and_extract_archive", fetch)
    monkeypatch.setattr(vision, "CALTECH_IMAGES", sum(CALTECH_CATEGORIES.values()))


def _fetch_instead(path: Path, digest: str, url: str, download_root: str, filename: str, md5: str) -> None:
    utils.download_and_extract_archive(path.as_uri(), download_root, filename=filename, md5=digest)


PUBLISHERS: dict[str, Callable[[pytest.MonkeyPatch, Path, Contents], None]] = {
    "mnist": _publish_mnist,
    "svhn": _publish_svhn,
    "stl10": _publish_stl10,
    "cifar10": partial(_publish_cifar, datasets.CIFAR10),
    "cifar100": partial(_publish_cifar, datasets.CIFAR100),
}
