"""Sets of photographs: what their files decode to is what is read; what is missing, half there or damaged is said."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import archives
import numpy as np
import pytest
import torch
from archives import flip_bit
from PIL import Image
from torchvision import datasets

from reuselib import data
from reuselib.data import multi_label, photographs
from reuselib.data.image_set import HALVES, IMAGENET_STATISTICS
from reuselib.errors import DamagedFile, MissingFile, ReuseError, UnknownName

WORDS = {"celeba": "face", "lsun_church": "outdoor church", "ffhq": "face", "cityscapes": "street", "sunrgbd": "room"}
WORDS |= {"voc2012": "photograph"}
BROUGHT = ("ffhq", "stanford_cars", "cityscapes", "sunrgbd", "imagenet")
FOLDERS = (*sorted(set(WORDS) - {"celeba", "lsun_church"}), *archives.FINE_GRAINED, "caltech101", "imagenet")
"""Sets whose photographs lie in folders, each a file of its own."""
HASHED = {"tiny_imagenet": "tiny-imagenet-200.zip", "celeba": "img_align_celeba.zip", "stanford_dogs": "images.tar"}
LISTS = {"stanford_dogs": "test_list.mat", "cub200": "images.txt", "stanford_cars": "cars_train_annos.mat"}


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., archives.Contents]:
    """Make the archive of a set and let its loader find it."""
    return partial(archives.publish, monkeypatch=monkeypatch, folder=tmp_path)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "data" / "downloads"


@pytest.mark.parametrize("name", ["tiny_imagenet", *WORDS, *archives.FINE_GRAINED])
def test_true_layout(
    name: str, publish: Callable, tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "SHORTER", 64 if name in WORDS else 256)
    contents, fine = publish(name, train=10, test=5), name in archives.FINE_GRAINED
    if name not in BROUGHT:
        with pytest.raises(MissingFile, match=rf"is missing.*data\.load\('{name}', download=True\)"):
            data.load(name)
    for split, (images, labels) in contents.items():
        loaded = data.load(name, split, download=True)
        pixels = loaded.images[..., 32:96] if name == "cityscapes" else loaded.images
        assert np.array_equal(pixels.numpy(), images) and np.array_equal(loaded.labels.numpy(), labels)
        assert (loaded.mean, loaded.std) == (IMAGENET_STATISTICS if fine else HALVES)
    shutil.rmtree(tmp_path / "server")
    assert torch.equal(data.load(name, split, download=True).images, loaded.images), "it is fetched once"
    if name in WORDS:
        assert loaded.classes == (WORDS[name],)
        with pytest.raises(UnknownName, match=rf"unknown split of {name} 'test'.*Known: train\."):
            data.load(name, "test")
    elif fine:
        assert loaded.classes == tuple(sorted(archives.FINE_GRAINED[name]))
        assert not [path for path in downloads.rglob("*") if path.suffix in (".tar", ".tgz", ".gz")]
    else:
        assert loaded.classes[3] == "class 3, also called 3" and len(loaded.classes) == 200
    if name not in BROUGHT:
        shutil.rmtree(downloads)
        with pytest.raises(ReuseError, match=f"{name} could not be fetched.*connect to the network"):
            data.load(name, download=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_half_there_or_damaged(
    name: str, publish: Callable, tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = partial(data.load, name, "test" if name == "imagenet" else "train")
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    with pytest.raises(
        MissingFile, match=r"is missing. Fix: (bring|unpack|delete|python|torchvision) .*downloads|load"
    ):
        load(download=name in BROUGHT)
    publish(name, train=10, test=5)
    load(download=True)
    fix = "Fix: .*(bring|load again)" if name in BROUGHT else rf"Fix: delete .* run .*data\.load\('{name}'"
    for path in downloads.rglob("*"):
        if path.suffix.lower() in (".jpg", ".png", ".jpeg") and "Class" not in str(path):
            os.truncate(path, 60)
    with pytest.raises(DamagedFile, match=rf"\.(jpg|png|JPEG) is damaged: it cannot be decoded.*{fix}"):
        load()
    counts = {part: count + 1 for part, count in photographs.COUNTS[name].items()}
    monkeypatch.setitem(photographs.COUNTS, name, counts)
    with pytest.raises(DamagedFile, match=rf"expected \d+ images, found \d+.*{fix}"):
        load()
    if name in LISTS:
        (path,) = downloads.rglob(LISTS[name])
        path.write_bytes(b"1\n" if path.suffix == ".txt" else path.read_bytes()[:150])
        reason = "(a line has no second word|it cannot be read|it holds no)"
        with pytest.raises(DamagedFile, match=rf"{path.name} is damaged: {reason}.*{fix}"):
            load()


@pytest.mark.parametrize("name", HASHED)
def test_altered_archives(name: str, publish: Callable, tmp_path: Path, downloads: Path) -> None:
    """Those that stay packed are compared at every load, the others when they come."""
    publish(name, train=10, test=5)
    if name == "stanford_dogs":
        flip_bit(tmp_path / "server" / HASHED[name], 8 * 99)
        with pytest.raises(ReuseError, match="corrupted"):
            data.load(name, download=True)
        return
    data.load(name, download=True)
    (path,) = downloads.rglob(HASHED[name])
    flip_bit(path, 8 * 99)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: expected md5 .* found .*download=True"):
        data.load(name)


def test_caltech_takes_two_or_a_fifth_of_each_class_for_testing(
    publish: Callable, tmp_path: Path, downloads: Path
) -> None:
    publish("caltech101")
    train, test = (data.load("caltech101", split, download=True) for split in ("train", "test"))
    assert train.classes == tuple(sorted(archives.CALTECH_CATEGORIES))
    assert test.labels.bincount().tolist() == [2, 2, 2] and train.labels.bincount().tolist() == [12, 3, 1]
    assert train.shape == (3, 128, 128) and train.mean == train.std == (0.5,) * 3
    path, label = photographs.caltech_split(downloads / "caltech101/101_ObjectCategories")[0][5]
    with Image.open(path) as image:
        assert np.array_equal(train.images[5], archives.square(image, 128, 128)) and train.labels[5] == label
    for category, count in {"b": 31, "a": 12, "c": 2, "BACKGROUND_Google": 9}.items():
        archives.write(tmp_path / "more" / category, {f"image_{number:04d}.jpg": b"" for number in range(count)})
    (tmp_path / "more" / "a" / "Thumbs.db").touch()
    train, test = photographs.caltech_split(tmp_path / "more")
    assert [sum(label == k for _, label in test) for k in range(3)] == [2, 6, 2]
    assert [sum(label == k for _, label in train) for k in range(3)] == [10, 25, 0] and not set(train) & set(test)


def test_packages_that_only_one_set_needs(publish: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("celeba", train=5)

    def refuse(**_: object) -> None:
        raise Exception("too many users have viewed this file")  # gdown's own error derives from Exception alone

    page = SimpleNamespace(download=lambda output, **_: Path(output).write_text("<html>"))
    for drive, reason in (
        (SimpleNamespace(download=refuse), ".too many users.*too often today: run python.*tomorrow, or bring"),
        (page, ".*or is a page in its place"),
        (None, ".*pip install gdown"),
    ):
        monkeypatch.setitem(sys.modules, "gdown", drive)
        with pytest.raises(ReuseError, match=f"celeba could not be fetched {reason}"):
            data.load("celeba", download=True)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ReuseError, match="lmdb is not installed. Fix: pip install lmdb"):
        data.load("lsun_church", download=True)


def test_lsun_half_or_damaged(
    publish: Callable, tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("lsun_church", train=10)
    archive = tmp_path / "server" / "church_outdoor_train_lmdb.zip"
    flip_bit(archive, 8 * 500)
    with pytest.raises(DamagedFile, match="expected sha256 .* found .*Fix: delete .*download=True") as caught:
        data.load("lsun_church", download=True)
    flip_bit(archive, 8 * 500)
    caught.value.path.unlink()
    data.load("lsun_church", download=True)
    (database,) = downloads.rglob("data.mdb")
    os.truncate(database, 100)
    with pytest.raises(DamagedFile, match="it is no LMDB database.*download=True"):
        data.load("lsun_church")


def test_imagenet_in_its_true_format(publish: Callable, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = publish("imagenet", train=24, test=6)
    loaded, (images, labels) = data.load("imagenet", "test"), contents["test"]
    assert torch.equal(loaded.images, torch.from_numpy(images)) and loaded.shape == (3, 224, 224)
    assert torch.equal(loaded.labels, torch.from_numpy(labels)) and loaded.labels.tolist() == [0, 0, 1, 1, 2, 3]
    # In the order of the ids, the order of torchvision's published weights.
    assert loaded.classes == ("tench, Tinca tinca", "crane", "dog, domestic dog, Canis familiaris", "crane")
    assert (loaded.mean, loaded.std) == IMAGENET_STATISTICS
    with pytest.raises(ReuseError, match=r"training images .*193 GB.*data\.load_few\('imagenet'"):
        data.load("imagenet", "train")
    few, (images, labels) = data.load_few("imagenet", 2, seed=1), contents["train"]
    whole = replace(few, images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    assert torch.equal(few.images, whole.per_class(2, seed=1).images) and few.labels.tolist() == [0, 1, 2, 3] * 2
    for archive in (downloads / "imagenet").glob("*.tar*"):
        archive.unlink()  # what was unpacked is enough
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path), open_image(path))[1])
    assert data.load_few("imagenet", 2, seed=1, size=32).shape == (3, 32, 32)
    assert len(set(opened)) == 8, "only those that are drawn are read"


@pytest.mark.parametrize("part", ["devkit", "train", "val"])
def test_imagenet_must_be_brought_whole(part: str, publish: Callable, downloads: Path) -> None:
    publish("imagenet", train=4, test=1)
    folder, name = downloads / "imagenet", datasets.imagenet.ARCHIVE_META[part][0]
    load = partial(data.load_few, "imagenet", 1, seed=0) if part == "train" else partial(data.load, "imagenet", "test")
    flip_bit(folder / name, 8 * 99)
    with pytest.raises(DamagedFile, match=f"{name} is not present .* or is corrupted.*Fix: delete .*load again"):
        load()
    (folder / name).unlink()
    expected = rf"{name} is missing\. Fix: torchvision cannot fetch .*devkit_t12.* from https://image-net\.org"
    with pytest.raises(MissingFile, match=f"{expected}.* into {folder}"):
        load()


def test_celeba_attributes(publish: Callable, downloads: Path) -> None:
    contents = publish("celeba_attributes", train=6, test=4)
    with pytest.raises(MissingFile, match=r"multi_label\.celeba_attributes\(download=True\)"):
        multi_label.celeba_attributes()
    for split, (images, targets) in contents.items():
        loaded = multi_label.celeba_attributes(split, 64, download=True)
        assert np.array_equal(loaded.images.images, images) and np.array_equal(loaded.targets, targets)
        assert list(loaded.tasks) == list(archives.CELEBA_ATTRIBUTES) and set(loaded.classes.values()) == {2}
        assert (loaded.mean, loaded.std) == IMAGENET_STATISTICS
    assert multi_label.celeba_attributes("valid").shape == (3, 224, 224)
    (path,) = downloads.rglob("list_attr_celeba.txt")
    flip_bit(path, 8 * 9)
    with pytest.raises(DamagedFile, match="list_attr_celeba.txt is damaged: expected md5"):
        multi_label.celeba_attributes("valid", 64)
