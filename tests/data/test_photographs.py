"""Sets of photographs: what their files decode to is what is read; what is missing, half there or damaged is said."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

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

WORDS = {
    "celeba": "face",
    "lsun_church": "outdoor church",
    "ffhq": "face",
    "cityscapes": "street",
    "sunrgbd": "room",
    "voc2012": "photograph",
}
BROUGHT = ("ffhq", "stanford_cars", "cityscapes", "sunrgbd")
HASHED = {"tiny_imagenet": "tiny-imagenet-200.zip", "celeba": "img_align_celeba.zip"}
LISTS = {
    "stanford_dogs": "test_list.mat",
    "cub200": "images.txt",
    "stanford_cars": "cars_train_annos.mat",
    "fgvc_aircraft": "images_variant_test.txt",
}


def downloads(tmp_path: Path) -> Path:
    return tmp_path / "data" / "downloads"


@pytest.mark.parametrize("name", ["tiny_imagenet", *WORDS, *archives.FINE_GRAINED])
def test_true_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "SHORTER", 64 if name in WORDS else 256)
    contents = archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    fine = name in archives.FINE_GRAINED
    for split, (images, labels) in contents.items():
        if name not in BROUGHT:
            with pytest.raises(MissingFile, match=rf"is missing.*data\.load\('{name}', download=True\)"):
                shutil.rmtree(downloads(tmp_path), ignore_errors=True)
                data.load(name, split)
        loaded = data.load(name, split, download=True)
        pixels = loaded.images[..., 32:96] if name == "cityscapes" else loaded.images
        assert np.array_equal(pixels.numpy(), images) and np.array_equal(loaded.labels.numpy(), labels)
        assert (loaded.mean, loaded.std) == (IMAGENET_STATISTICS if fine else HALVES)
        again = data.load(name, split, download=True)
        assert torch.equal(again.images, loaded.images)
    shutil.rmtree(tmp_path / "server")
    assert torch.equal(data.load(name, split, download=True).images, loaded.images), "it is fetched once"
    if name in WORDS:
        assert loaded.classes == (WORDS[name],)
        with pytest.raises(UnknownName, match=rf"unknown split of {name} 'test'.*Known: train\."):
            data.load(name, "test")
    elif fine:
        assert loaded.classes == tuple(sorted(archives.FINE_GRAINED[name]))
        left = [path.name for path in downloads(tmp_path).rglob("*") if path.suffix in (".tar", ".tgz", ".gz")]
        assert not left, "unpacked archives are not kept"
    else:
        assert loaded.classes[3] == "class 3, also called 3" and len(loaded.classes) == 200
    if name not in BROUGHT:
        shutil.rmtree(downloads(tmp_path))
        with pytest.raises(ReuseError, match=f"{name} could not be fetched.*connect to the network"):
            data.load(name, download=True)


@pytest.mark.parametrize("name", [*sorted(set(WORDS) - set(HASHED) - {"lsun_church"}), *archives.FINE_GRAINED])
def test_half_there_or_damaged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    with pytest.raises(MissingFile, match=r"is missing. Fix: (bring|unpack|delete|python) .*downloads|download=True"):
        data.load(name, download=name in BROUGHT)
    archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    data.load(name, download=True)
    fix = "Fix: .*bring" if name in BROUGHT else rf"Fix: delete .* run .*data\.load\('{name}'"
    found = [path for path in downloads(tmp_path).rglob("*") if path.suffix in (".jpg", ".png")]
    for path in found:
        if "Class" not in str(path):
            os.truncate(path, 60)
    with pytest.raises(DamagedFile, match=rf"\.(jpg|png) is damaged: it cannot be decoded.*{fix}"):
        data.load(name)
    monkeypatch.setitem(photographs.COUNTS, name, {"train": 11, "test": 5})
    with pytest.raises(DamagedFile, match=f"expected 11 images, found 10.*{fix}"):
        data.load(name)
    if name in LISTS:
        (path,) = downloads(tmp_path).rglob(LISTS[name])
        path.write_bytes(b"1\n" if path.suffix == ".txt" else path.read_bytes()[:150])
        reason = "(a line has no second word|it cannot be read|it holds no)"
        with pytest.raises(DamagedFile, match=rf"{path.name} is damaged: {reason}.*{fix}"):
            data.load(name)
        path.unlink()
        with pytest.raises(MissingFile, match=f"{path.name} is missing. {fix}"):
            data.load(name)


@pytest.mark.parametrize("name", HASHED)
def test_altered_archives_that_stay_packed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path, train=5, test=5)
    data.load(name, download=True)
    (path,) = downloads(tmp_path).rglob(HASHED[name])
    flip_bit(path, 8 * 99)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: expected md5 .* found .*download=True"):
        data.load(name)


@pytest.mark.parametrize("name", ["stanford_dogs", "cub200", "fgvc_aircraft"])
def test_download_that_arrives_altered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    flip_bit(max((tmp_path / "server").iterdir(), key=lambda path: path.stat().st_size), 8 * 99)
    with pytest.raises(ReuseError, match="corrupted"):
        data.load(name, download=True)


def test_caltech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("caltech101", monkeypatch, tmp_path)
    train, test = (data.load("caltech101", split, download=True) for split in ("train", "test"))
    assert train.classes == tuple(sorted(archives.CALTECH_CATEGORIES))
    assert test.labels.bincount().tolist() == [2, 2, 2] and train.labels.bincount().tolist() == [12, 3, 1]
    assert train.shape == (3, 128, 128) and train.mean == train.std == (0.5,) * 3
    split, again = (photographs.caltech_split(downloads(tmp_path) / "caltech101/101_ObjectCategories") for _ in "ab")
    path, label = split[0][5]
    with Image.open(path) as image:
        assert np.array_equal(train.images[5], archives.square(image, 128, 128)) and train.labels[5] == label
    os.truncate(path, 500)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: it cannot be decoded"):
        data.load("caltech101")
    path.unlink()
    with pytest.raises(DamagedFile, match="expected 22 images, found 21"):
        data.load("caltech101")
    assert split == again


def test_caltech_takes_a_fifth_of_large_classes(tmp_path: Path) -> None:
    for category, count in {"b": 31, "a": 12, "c": 2, "BACKGROUND_Google": 9}.items():
        archives.write(tmp_path / category, {f"image_{number:04d}.jpg": b"" for number in range(count)})
    (tmp_path / "a" / "Thumbs.db").touch()
    train, test = photographs.caltech_split(tmp_path)
    assert [sum(label == k for _, label in test) for k in range(3)] == [2, 6, 2]
    assert [sum(label == k for _, label in train) for k in range(3)] == [10, 25, 0] and not set(train) & set(test)


def test_packages_that_only_one_set_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("celeba", monkeypatch, tmp_path, train=5)

    def refuse(**_: object) -> None:
        raise Exception("too many users have viewed this file")  # gdown's own error derives from Exception alone

    monkeypatch.setattr(sys.modules["gdown"], "download", refuse)
    with pytest.raises(
        ReuseError,
        match="celeba could not be fetched .too many users.*too often today: run python.*tomorrow, or bring the files",
    ):
        data.load("celeba", download=True)
    monkeypatch.setattr(sys.modules["gdown"], "download", lambda output, **_: Path(output).write_text("<html>"))
    with pytest.raises(ReuseError, match="or is a page in its place: run python.*again, or bring the files"):
        data.load("celeba", download=True)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ReuseError, match="celeba could not be fetched.*pip install gdown"):
        data.load("celeba", download=True)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ReuseError, match="lmdb is not installed. Fix: pip install lmdb"):
        data.load("lsun_church", download=True)


def test_lsun_half_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("lsun_church", monkeypatch, tmp_path, train=10)
    archive = tmp_path / "server" / "church_outdoor_train_lmdb.zip"
    flip_bit(archive, 8 * 500)
    with pytest.raises(DamagedFile, match="expected sha256 .* found .*Fix: delete .*download=True") as caught:
        data.load("lsun_church", download=True)
    flip_bit(archive, 8 * 500)
    caught.value.path.unlink()
    data.load("lsun_church", download=True)
    monkeypatch.setitem(photographs.COUNTS, "lsun_church", {"train": 41})
    with pytest.raises(DamagedFile, match="expected 41 images, found 10.*download=True"):
        data.load("lsun_church")
    (database,) = downloads(tmp_path).rglob("data.mdb")
    os.truncate(database, 100)
    with pytest.raises(DamagedFile, match="it is no LMDB database.*download=True"):
        data.load("lsun_church")


# ---- ILSVRC-2012


def test_imagenet_in_its_true_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = archives.publish("imagenet", monkeypatch, tmp_path, train=4, test=6)["test"]
    loaded = data.load("imagenet", "test")
    assert torch.equal(loaded.images, torch.from_numpy(images)) and loaded.shape == (3, 224, 224)
    assert torch.equal(loaded.labels, torch.from_numpy(labels)) and loaded.labels.tolist() == [0, 0, 1, 1, 2, 3]
    # In the order of the ids, the order of torchvision's published weights.
    assert loaded.classes == ("tench, Tinca tinca", "crane", "dog, domestic dog, Canis familiaris", "crane")
    assert (loaded.mean, loaded.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for archive in (downloads(tmp_path) / "imagenet").glob("*.tar*"):
        archive.unlink()
    assert torch.equal(data.load("imagenet", "test").images, loaded.images), "it is unpacked once"
    monkeypatch.undo()
    with pytest.raises(ReuseError, match=r"1,281,167 training images .*193 GB.*data\.load_few\('imagenet'"):
        data.load("imagenet", "train")
    with pytest.raises(UnknownName, match="unknown split"):
        data.load("imagenet", "val")


def test_imagenet_reads_only_the_few_that_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = archives.publish("imagenet", monkeypatch, tmp_path, train=24, test=1)["train"]
    few = data.load_few("imagenet", 2, seed=1)
    whole = replace(few, images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    assert torch.equal(few.images, whole.per_class(2, seed=1).images) and few.labels.tolist() == [0, 1, 2, 3] * 2
    assert data.load_few("imagenet", 1, seed=1, size=32, channels=1).shape == (1, 32, 32)
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, open=Image.open: (opened.append(path), open(path))[1])
    data.load_few("imagenet", 2, seed=1)
    assert len(set(opened)) == 8
    with pytest.raises(ReuseError, match="cannot draw 7 images of each class: ask for 1 to 6"):
        data.load_few("imagenet", 7, seed=1)


@pytest.mark.parametrize("part", ["devkit", "train", "val"])
def test_imagenet_must_be_brought_whole(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("imagenet", monkeypatch, tmp_path, train=4, test=1)
    folder, name = downloads(tmp_path) / "imagenet", datasets.imagenet.ARCHIVE_META[part][0]

    def load() -> None:
        data.load_few("imagenet", 1, seed=0) if part == "train" else data.load("imagenet", "test", download=True)

    flip_bit(folder / name, 8 * 99)
    with pytest.raises(DamagedFile, match=f"{name} is not present .* or is corrupted.*Fix: delete .*load again"):
        load()
    (folder / name).unlink()
    expected = rf"{name} is missing\. Fix: torchvision cannot fetch .*devkit_t12.* from https://image-net\.org"
    with pytest.raises(MissingFile, match=f"{expected}.* into {folder}"):
        load()


def test_imagenet_half_unpacked_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("imagenet", monkeypatch, tmp_path, train=8, test=1)
    folder = downloads(tmp_path) / "imagenet"
    (folder / "train").mkdir()
    with pytest.raises(DamagedFile, match="Couldn't find any class folder.*Fix: delete"):
        data.load_few("imagenet", 1, seed=0)
    (folder / "train").rmdir()
    data.load_few("imagenet", 2, seed=0)
    photograph = sorted((folder / "train").rglob("*.JPEG"))[3]
    os.truncate(photograph, 100)
    with pytest.raises(DamagedFile, match=f"{photograph.name} is damaged: it cannot be decoded.*train again"):
        data.load_few("imagenet", 2, seed=0)
    photograph.unlink()
    with pytest.raises(DamagedFile, match="train is damaged: expected 8 images, found 7"):
        data.load_few("imagenet", 2, seed=0)
    os.truncate(folder / "meta.bin", 60)
    with pytest.raises(DamagedFile, match=r"Fix: delete .*meta\.bin"):
        data.load_few("imagenet", 2, seed=0)


# ---- CelebA's attributes


def test_celeba_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish("celeba_attributes", monkeypatch, tmp_path, train=6, test=4)
    with pytest.raises(MissingFile, match=r"multi_label\.celeba_attributes\(download=True\)"):
        multi_label.celeba_attributes()
    for split, (images, targets) in contents.items():
        loaded = multi_label.celeba_attributes(split, 64, download=True)
        assert np.array_equal(loaded.images.images, images) and np.array_equal(loaded.targets, targets)
        assert list(loaded.tasks) == list(archives.CELEBA_ATTRIBUTES) and set(loaded.classes.values()) == {2}
        assert (loaded.mean, loaded.std) == IMAGENET_STATISTICS
    assert multi_label.celeba_attributes("valid").shape == (3, 224, 224)
    (path,) = downloads(tmp_path).rglob("list_attr_celeba.txt")
    flip_bit(path, 8 * 9)
    with pytest.raises(DamagedFile, match="list_attr_celeba.txt is damaged: expected md5"):
        multi_label.celeba_attributes("valid", 64)
    with pytest.raises(UnknownName, match="split of celeba_attributes 'val'. Did you mean 'valid'"):
        multi_label.celeba_attributes("val")
