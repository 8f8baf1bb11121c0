"""Image sets that are published as arrays: what is in the archives is what is read, and nothing damaged is."""

from __future__ import annotations

import gzip
import io
import random
import shutil
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from archives import flip_bit
from PIL import Image

from reuselib import data, home
from reuselib.data import files, vision
from reuselib.errors import DamagedFile, MissingFile, ReuseError, UnknownName

RAW = home.CLONE / "data" / "FashionMNIST" / "raw"
# A file of each set in its true format, in which a bit is flipped.
SETS = {
    "mnist": "train-images-idx3-ubyte.gz",
    "svhn": "train_32x32.mat",
    "stl10": "test_X.bin",
    "cifar10": "data_batch_3",
    "cifar100": "meta",
    "cifar100_dfad": "meta",
}


def test_fashion_mnist() -> None:
    train, test = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert train.classes[0] == "T-shirt/top" and len(train.classes) == 10
    content = gzip.decompress((RAW / "t10k-images-idx3-ubyte.gz").read_bytes())
    by_hand = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    assert np.array_equal(test.images.numpy(), by_hand)
    for file in vision.FASHION_MNIST:
        assert f"| `{home.registry()[file]}` |" in (RAW.parent / "README.md").read_text()


def test_one_flipped_bit_anywhere_is_refused_and_loading_writes_nothing(room: Path) -> None:
    copies, draw = [room / file for file in vision.FASHION_MNIST], random.Random(0)
    shutil.copytree(RAW, copies[0].parent, ignore=lambda _, names: [name for name in names if name[-3:] != ".gz"])
    data.load("fashion_mnist", "test")
    assert set(copies[0].parent.iterdir()) == set(copies)
    for path, file in zip(copies, vision.FASHION_MNIST, strict=True):
        for position in draw.sample(range(8 * path.stat().st_size), 2):
            flip_bit(path, position)
            with pytest.raises(DamagedFile) as caught:
                data.load("fashion_mnist", "train")
            message = str(caught.value)
            assert all(part in message for part in (str(path), home.registry()[file], home.sha256(path), "Fix: delete"))
            flip_bit(path, position)


@pytest.mark.parametrize("name", SETS)
def test_true_format_and_what_is_damaged_or_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish(name, monkeypatch, tmp_path)
    with pytest.raises(MissingFile, match=rf"downloads.* is missing.*data\.load\('{name}', download=True\)"):
        data.load(name, "train")
    for split, (images, labels) in contents.items():
        loaded = data.load(name, split, download=True)
        assert np.array_equal(loaded.images.numpy(), images) and np.array_equal(loaded.labels.numpy(), labels)
        assert loaded.images.is_contiguous() and len(loaded.classes) == (100 if "cifar100" in name else 10)
        assert torch.equal(data.load(name, split).images, loaded.images)
    (path,) = (tmp_path / "data" / "downloads").rglob(SETS[name])
    flip_bit(path, 8 * 30)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: expected md5 .* found .*download=True"):
        data.load(name)
    shutil.rmtree(tmp_path / "data/downloads")
    shutil.rmtree(tmp_path / "server")
    with pytest.raises(ReuseError, match=f"{name} could not be fetched.*connect to the network"):
        data.load(name, download=True)
    as_cifar10 = (loaded.mean, loaded.std) == vision.CIFAR_STATISTICS
    assert as_cifar10 == (name in ("cifar10", "cifar100_dfad")), "so does DFAD's code"


def test_mnist_packed_anew_is_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("mnist", monkeypatch, tmp_path)
    loaded = data.load("mnist", download=True)
    path = tmp_path / "data/downloads/MNIST/raw/train-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    monkeypatch.setitem(vision.MNIST_UNPACKED_MD5, path.name, archives.md5(content))
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=7))
    assert torch.equal(data.load("mnist").images, loaded.images)
    for other in (gzip.compress(content[:-1] + b"x"), b"no archive"):
        path.write_bytes(other)
        with pytest.raises(DamagedFile, match=f"{path.name} is damaged: expected md5"):
            data.load("mnist")


def test_cifar10_after_a_jpeg_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFile, match="download=True"):
        monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
        data.load("cifar10-jpeg")
    archives.publish("cifar10", monkeypatch, tmp_path, train=10, test=5)
    command = files.command("cifar10-jpeg")
    exec(command.partition('"')[2].removesuffix('"'))  # the command of the message works: it fetches the originals
    made, original = data.load("cifar10-jpeg", "test"), data.load("cifar10", "test")
    for image, pixels in zip(made.images, original.images, strict=True):
        buffer = io.BytesIO(archives.encoded(Image.fromarray(pixels.permute(1, 2, 0).numpy()), "JPEG"))
        assert (image.int() - torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)).abs().max() <= 4
    assert (made.name, made.std, made.classes) == ("cifar10-jpeg", original.std, original.classes)
    assert torch.equal(made.labels, original.labels)
    assert data.load("cifar10-jpeg", "test").images is made.images  # decoded once
    shots = archives.shots(4, (32, 32), "JPEG", 0)[0][1:]  # the first is grey
    held = {"jpeg": np.frombuffer(b"".join(shots), np.uint8), "offsets": np.cumsum([0, *map(len, shots)])}
    path = files.downloads("CIFAR10-JPEG", "test.npz")
    path.parent.mkdir()
    np.savez(path, **held, labels=np.arange(3, dtype=np.uint8), classes=np.array(original.classes))
    monkeypatch.setitem(vision.CIFAR10_JPEG_SHA256, "test", home.sha256(path))
    read = data.load("cifar10-jpeg", "test")
    assert read.images.shape == (3, 3, 32, 32) and read.labels.tolist() == [0, 1, 2] and read.mean == made.mean
    flip_bit(path, 8 * 300)
    with pytest.raises(DamagedFile, match=r"test.npz is damaged: expected sha256.*delete .*load\('cifar10-jpeg'"):
        data.load("cifar10-jpeg", "test")


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fashion_mnist'"):
        data.load("fashion_minst")
    with pytest.raises(UnknownName, match="Did you mean 'test'"):
        data.load("cifar10", "tests")
