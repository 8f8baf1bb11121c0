import multiprocessing
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from reuselib import data, home
from reuselib.data import vision
from reuselib.errors import DamagedFile, MissingFile, ReuseError, UnknownName

RAW = home.CLONE / "data" / "FashionMNIST" / "raw"


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test its own data folder with copies of the four archives."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in vision.FASHION_MNIST_SHA256:
        shutil.copy(RAW / name, raw)
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    return raw


def test_fashion_mnist() -> None:
    train, test = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert train.classes[0] == "T-shirt/top" and len(train.classes) == 10


def test_fresh_copies_give_the_same_images(copies: Path) -> None:
    assert torch.equal(data.load("fashion_mnist", "test").images, _read_by_hand())
    assert sorted(path.name for path in copies.iterdir() if path.suffix != ".gz") == sorted(
        Path(name).stem for name in vision.FASHION_MNIST_SHA256
    )


def _read_by_hand() -> torch.Tensor:
    import gzip

    content = gzip.decompress((RAW / "t10k-images-idx3-ubyte.gz").read_bytes())
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=16).copy()).view(-1, 1, 28, 28)


def flip_bit(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position // 8)
        byte = file.read(1)[0] ^ (1 << position % 8)
        file.seek(position // 8)
        file.write(bytes([byte]))


def test_one_flipped_bit_anywhere_is_refused(copies: Path) -> None:
    draw = random.Random(0)
    trials = {"train-images": 6, "train-labels": 40, "t10k-images": 24, "t10k-labels": 40}
    for stem, count in trials.items():
        name = next(name for name in vision.FASHION_MNIST_SHA256 if name.startswith(stem))
        path = copies / name
        for position in draw.sample(range(8 * path.stat().st_size), count):
            flip_bit(path, position)
            with pytest.raises(DamagedFile) as caught:
                vision._shipped(name)
            message = str(caught.value)
            assert str(path) in message and vision.FASHION_MNIST_SHA256[name] in message
            assert home.sha256(path) in message and "Fix:" in message
            flip_bit(path, position)
        vision._shipped(name)


def test_the_public_loader_refuses_it_too(copies: Path) -> None:
    flip_bit(copies / "t10k-labels-idx1-ubyte.gz", 8 * 2000)
    for split in ("train", "test"):
        with pytest.raises(DamagedFile, match="expected sha256 8d3605d1.*found.*delete"):
            data.load("fashion_mnist", split)


def test_truncated_archive_is_refused(copies: Path) -> None:
    os.truncate(copies / "train-labels-idx1-ubyte.gz", 29_000)
    with pytest.raises(DamagedFile, match="train-labels"):
        data.load("fashion_mnist", "train")


def test_decompressed_file_is_made_again_when_altered(copies: Path) -> None:
    data.load("fashion_mnist", "test")
    flip_bit(copies / "t10k-images-idx3-ubyte", 8 * 5000)
    os.truncate(copies / "t10k-labels-idx1-ubyte", 100)
    again = data.load("fashion_mnist", "test")
    assert torch.equal(again.images, _read_by_hand()) and len(again.labels) == 10_000


def test_folder_that_cannot_be_written(copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    # A root user may write everywhere, whatever the mode of the folder says.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != copies)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    assert torch.equal(data.load("fashion_mnist", "test").images, _read_by_hand())
    assert all(path.suffix == ".gz" for path in copies.iterdir())


def test_old_processed_folder_is_refused(copies: Path) -> None:
    (copies.parent / "processed").mkdir()
    with pytest.raises(ReuseError, match="move it elsewhere"):
        data.load("fashion_mnist", "test")


def _load_and_hash(_: int) -> int:
    torch.set_num_threads(1)
    images = data.load("fashion_mnist", "test")
    return int(images.images.long().sum() + images.labels.sum())


def test_processes_that_start_at_once_see_whole_files(copies: Path) -> None:
    processes = multiprocessing.get_context("fork")
    start = processes.Barrier(3, timeout=60)
    with processes.Pool(3, initializer=start.wait) as pool:
        sums = pool.map(_load_and_hash, range(3), chunksize=1)
    expected = data.load("fashion_mnist", "test")
    assert sums == [int(expected.images.long().sum() + expected.labels.sum())] * 3
    assert not list(copies.glob(".*"))


def test_registry_and_pinned_hashes_agree() -> None:
    for name, digest in vision.FASHION_MNIST_SHA256.items():
        assert home.registry()[f"FashionMNIST/raw/{name}"] == digest
        assert f"| `{digest}` |" in (RAW.parent / "README.md").read_text()


TRUE_FORMATS = ["mnist", "svhn", "stl10", "cifar10", "cifar100"]
ONE_CLASS = {"celeba": "face", "lsun_church": "outdoor church", "ffhq": "face"}


@pytest.mark.parametrize("name", TRUE_FORMATS)
def test_true_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish(name, monkeypatch, tmp_path)
    for split, (images, labels) in contents.items():
        loaded = data.load(name, split, download=True)
        assert torch.equal(loaded.images, torch.from_numpy(images))
        assert torch.equal(loaded.labels, torch.from_numpy(labels))
        assert loaded.images.is_contiguous() and len(loaded.classes) == (100 if name == "cifar100" else 10)
        again = data.load(name, split)
        assert torch.equal(again.images, loaded.images)


def test_normalisation_of_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mnist", "cifar10", "cifar100", "svhn"):
        archives.publish(name, monkeypatch, tmp_path)
    mnist = data.load("mnist", size=32, download=True)
    assert (mnist.mean, mnist.std, mnist.shape) == ((0.1307,), (0.3081,), (1, 32, 32))
    cifar = [data.load(name, download=True) for name in ("cifar10", "cifar100")]
    assert cifar[0].mean == cifar[1].mean == (0.4914, 0.4822, 0.4465)
    assert cifar[0].std == cifar[1].std == (0.2023, 0.1994, 0.2010)
    related = data.load("svhn", size=32, channels=1, download=True).with_statistics_of(mnist)
    assert (related.mean, related.shape) == ((0.1307,), (1, 32, 32))


def test_caltech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("caltech101", monkeypatch, tmp_path)
    train, test = (data.load("caltech101", split, download=True) for split in ("train", "test"))
    assert train.classes == tuple(sorted(archives.CALTECH_CATEGORIES))
    assert test.labels.bincount().tolist() == [2, 2, 2] and train.labels.bincount().tolist() == [12, 3, 1]
    assert train.shape == (3, 128, 128) and train.mean == train.std == (0.5,) * 3
    folder = tmp_path / "data" / "downloads" / "caltech101" / "101_ObjectCategories"
    split = vision.caltech_split(folder)
    assert split == vision.caltech_split(folder)
    path, label = split[0][5]
    with Image.open(path) as image:
        width, height = image.size
        small = image.convert("RGB").resize(
            (128, int(128 * height / width)) if width < height else (int(128 * width / height), 128),
            Image.Resampling.BILINEAR,
        )
    left, top = round((small.width - 128) / 2), round((small.height - 128) / 2)
    expected = np.asarray(small.crop((left, top, left + 128, top + 128))).transpose(2, 0, 1)
    assert np.array_equal(train.images[5], expected) and train.labels[5] == label


def test_caltech_takes_a_fifth_of_large_classes(tmp_path: Path) -> None:
    for category, count in {"b": 31, "a": 12, "c": 2, "BACKGROUND_Google": 9}.items():
        (tmp_path / category).mkdir()
        for number in range(count):
            (tmp_path / category / f"image_{number:04d}.jpg").touch()
    (tmp_path / "a" / "Thumbs.db").touch()
    train, test = vision.caltech_split(tmp_path)
    assert [sum(label == k for _, label in test) for k in range(3)] == [2, 6, 2]
    assert [sum(label == k for _, label in train) for k in range(3)] == [10, 25, 0]
    assert not set(train) & set(test)


def test_caltech_half_unpacked_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("caltech101", monkeypatch, tmp_path)
    data.load("caltech101", download=True)
    photograph = vision.caltech_split(tmp_path / "data/downloads/caltech101/101_ObjectCategories")[0][0][0]
    os.truncate(photograph, 500)
    with pytest.raises(DamagedFile, match=f"{photograph.name} is damaged: it cannot be decoded"):
        data.load("caltech101")
    photograph.unlink()
    with pytest.raises(DamagedFile, match="expected 22 images, found 21"):
        data.load("caltech101")


@pytest.mark.parametrize("name", ["tiny_imagenet", *ONE_CLASS])
def test_photographs_in_their_true_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish(name, monkeypatch, tmp_path)
    for split, (images, labels) in contents.items():
        loaded = data.load(name, split, download=True)
        assert torch.equal(loaded.images, torch.from_numpy(images))
        assert torch.equal(loaded.labels, torch.from_numpy(labels))
        assert loaded.shape == (3, 64, 64) and loaded.mean == loaded.std == (0.5,) * 3
        shutil.rmtree(tmp_path / "server", ignore_errors=True)
        assert torch.equal(data.load(name, split, download=True).images, loaded.images), "it is fetched once"
    if name in ONE_CLASS:
        assert loaded.classes == (ONE_CLASS[name],)
    else:
        assert loaded.classes[3] == "class 3, also called 3" and len(loaded.classes) == 200


@pytest.mark.parametrize("name", ONE_CLASS)
def test_sets_for_generators_have_no_test_split(name: str) -> None:
    with pytest.raises(UnknownName, match=rf"unknown split of {name} 'test'.*Known: train\."):
        data.load(name, "test")


def test_gdown_and_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("celeba", monkeypatch, tmp_path)

    def refuse(**_: object) -> None:
        raise Exception("too many users have viewed this file")  # gdown's own error derives from Exception alone

    monkeypatch.setattr(sys.modules["gdown"], "download", refuse)
    with pytest.raises(ReuseError, match="celeba could not be fetched .too many users.*bring the files"):
        data.load("celeba", download=True)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ReuseError, match="celeba could not be fetched.*pip install gdown"):
        data.load("celeba", download=True)


def test_lmdb_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ReuseError, match="lmdb is not installed. Fix: pip install lmdb"):
        data.load("lsun_church", download=True)


def test_lsun_missing_half_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("lsun_church", monkeypatch, tmp_path)
    with pytest.raises(MissingFile, match=r"data\.mdb is missing.*data\.load\('lsun_church', download=True\)"):
        data.load("lsun_church")
    flip_bit(tmp_path / "server" / "church_outdoor_train_lmdb.zip", 8 * 500)
    with pytest.raises(DamagedFile, match="expected sha256 .* found .*Fix: delete .*download=True") as caught:
        data.load("lsun_church", download=True)
    flip_bit(tmp_path / "server" / "church_outdoor_train_lmdb.zip", 8 * 500)
    caught.value.path.unlink()
    data.load("lsun_church", download=True)
    (database,) = (tmp_path / "data" / "downloads").rglob("data.mdb")
    monkeypatch.setattr(vision, "LSUN_CHURCH_IMAGES", 41)
    with pytest.raises(DamagedFile, match="expected 41 images, found 40.*download=True"):
        data.load("lsun_church")
    os.truncate(database, 100)
    with pytest.raises(DamagedFile, match="it is no LMDB database.*download=True"):
        data.load("lsun_church")


def test_ffhq_missing_half_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "none"))
    with pytest.raises(MissingFile, match=r"ffhq is missing\. Fix: bring thumbnails128x128 of github.com/NVlabs"):
        data.load("ffhq", download=True)
    archives.publish("ffhq", monkeypatch, tmp_path)
    (file,) = (tmp_path / "data" / "downloads").rglob("00007.png")
    os.truncate(file, 50)
    with pytest.raises(DamagedFile, match="00007.png is damaged: it cannot be decoded"):
        data.load("ffhq")
    file.unlink()
    with pytest.raises(DamagedFile, match="expected 40 images, found 39.*bring thumbnails128x128"):
        data.load("ffhq")


def test_imagenet_in_its_true_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = archives.publish("imagenet", monkeypatch, tmp_path, test=6)["test"]
    loaded = data.load("imagenet", "test")
    assert torch.equal(loaded.images, torch.from_numpy(images)) and loaded.shape == (3, 224, 224)
    assert torch.equal(loaded.labels, torch.from_numpy(labels)) and loaded.labels.tolist() == [0, 0, 1, 1, 2, 3]
    # In the order of the ids, the order of torchvision's published weights.
    assert loaded.classes == ("tench, Tinca tinca", "crane", "dog, domestic dog, Canis familiaris", "crane")
    assert (loaded.mean, loaded.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for archive in (tmp_path / "data/downloads/imagenet").glob("*.tar*"):
        archive.unlink()
    assert torch.equal(data.load("imagenet", "test").images, loaded.images), "it is unpacked once"


def test_imagenet_reads_only_the_few_that_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = archives.publish("imagenet", monkeypatch, tmp_path, train=24)["train"]
    few = data.load_few("imagenet", 2, seed=1)
    whole = replace(few, images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    assert torch.equal(few.images, whole.per_class(2, seed=1).images)
    assert few.labels.tolist() == [0, 1, 2, 3] * 2 and few.shape == (3, 224, 224)
    assert torch.equal(data.load_few("imagenet", 3, seed=1).images[:8], few.images)
    assert data.load_few("imagenet", 1, seed=1, size=32, channels=1).shape == (1, 32, 32)
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, open=Image.open: (opened.append(path), open(path))[1])
    data.load_few("imagenet", 2, seed=1)
    assert len(set(opened)) == len(opened) == 8
    with pytest.raises(ReuseError, match="cannot draw 7 images of each class: ask for 1 to 6"):
        data.load_few("imagenet", 7, seed=1)


def test_imagenet_says_how_to_load_some_of_its_training_images() -> None:
    with pytest.raises(ReuseError, match=r"1,281,167 training images .*193 GB.*data\.load_few\('imagenet'"):
        data.load("imagenet", "train")
    with pytest.raises(UnknownName, match="unknown split"):
        data.load("imagenet", "val")


@pytest.mark.parametrize("part", ["devkit", "train", "val"])
def test_imagenet_must_be_brought(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("imagenet", monkeypatch, tmp_path, train=4, test=1)
    folder, name = tmp_path / "data/downloads/imagenet", datasets.imagenet.ARCHIVE_META[part][0]
    (folder / name).unlink()
    expected = rf"{name} is missing\. Fix: torchvision cannot fetch .*devkit_t12.* from https://image-net\.org"
    with pytest.raises(MissingFile, match=f"{expected}.* into {folder}"):
        data.load("imagenet", "test", download=True) if part != "train" else data.load_few("imagenet", 1, seed=0)


@pytest.mark.parametrize("part", ["devkit", "train", "val"])
def test_altered_imagenet_is_refused(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("imagenet", monkeypatch, tmp_path, train=4, test=1)
    name = datasets.imagenet.ARCHIVE_META[part][0]
    flip_bit(tmp_path / "data/downloads/imagenet" / name, 8 * 99)
    with pytest.raises(DamagedFile, match=f"{name} is not present .* or is corrupted.*Fix: delete .*load again"):
        data.load("imagenet", "test") if part != "train" else data.load_few("imagenet", 1, seed=0)


def test_imagenet_half_unpacked_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish("imagenet", monkeypatch, tmp_path, train=8)
    folder = tmp_path / "data/downloads/imagenet"
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


@pytest.mark.parametrize("name", archives.FINE_GRAINED)
def test_fine_grained_sets_in_their_true_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    for split, (images, labels) in contents.items():
        loaded = data.load(name, split, download=True)
        assert torch.equal(loaded.images, torch.from_numpy(images)) and loaded.shape == (3, 224, 224)
        assert torch.equal(loaded.labels, torch.from_numpy(labels))
        assert loaded.classes == tuple(sorted(archives.FINE_GRAINED[name]))
        assert (loaded.mean, loaded.std) == vision.IMAGENET_STATISTICS
        shutil.rmtree(tmp_path / "server", ignore_errors=True)
        assert torch.equal(data.load(name, split, download=True).images, loaded.images), "it is fetched once"
    if name != "stanford_cars":
        assert not [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".tar", ".tgz", ".gz")]


LISTS = {
    "stanford_dogs": "test_list.mat",
    "cub200": "images.txt",
    "stanford_cars": "cars_train_annos.mat",
    "fgvc_aircraft": "images_variant_test.txt",
}


@pytest.mark.parametrize(("name", "file"), LISTS.items())
def test_fine_grained_sets_half_there_or_damaged(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    data.load(name, download=True)
    fix = "Fix: bring cars_train/" if name == "stanford_cars" else rf"Fix: delete .* run .*data\.load\('{name}'"
    photographs = sorted((tmp_path / "data" / "downloads").rglob("*.jpg"))
    for split in ("train", "test"):
        for path in photographs:
            os.truncate(path, 60)
        with pytest.raises(DamagedFile, match=rf"\.jpg is damaged: it cannot be decoded.*{fix}"):
            data.load(name, split)
    monkeypatch.setitem(vision.FINE_IMAGES, name, (11, 5))
    with pytest.raises(DamagedFile, match=f"expected 11 images, found 10.*{fix}"):
        data.load(name)
    (path,) = (tmp_path / "data" / "downloads").rglob(file)
    path.write_bytes(b"1\n" if path.suffix == ".txt" else path.read_bytes()[:150])
    with pytest.raises(DamagedFile, match=rf"{file} is damaged: (a line has no second word|it has no readable).*{fix}"):
        data.load(name)
    path.unlink()
    with pytest.raises(MissingFile, match=f"{file} is missing. {fix}"):
        data.load(name)


@pytest.mark.parametrize("size", [64, None])
def test_attributes_of_celeba(size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives.publish("celeba_attributes", monkeypatch, tmp_path, train=9, test=4)
    assert {split: len(labels) for split, (_, labels) in contents.items()} == {"train": 9, "valid": 5, "test": 4}
    for split, (images, targets) in contents.items():
        loaded = vision.celeba_attributes(split, size, download=True)
        assert loaded.shape == (3, size or 224, size or 224)
        assert torch.equal(loaded.targets, torch.from_numpy(targets))
        assert tuple(loaded.tasks) == archives.CELEBA_ATTRIBUTES and set(loaded.tasks.values()) == {("no", "yes")}
        assert size is None or torch.equal(loaded.images.images, torch.from_numpy(images))
        assert (loaded.images.mean, loaded.images.std) == vision.IMAGENET_STATISTICS
        shutil.rmtree(tmp_path / "server", ignore_errors=True)
    with pytest.raises(UnknownName, match="unknown split of celeba_attributes 'val'. Did you mean 'valid'"):
        vision.celeba_attributes("val")


def test_attributes_of_celeba_missing_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = r"from reuselib import data; data\.vision\.celeba_attributes\(download=True\)"
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "data"))
    with pytest.raises(MissingFile, match=f"img_align_celeba.zip is missing. Fix: .*{command}"):
        vision.celeba_attributes()
    archives.publish("celeba_attributes", monkeypatch, tmp_path, train=5, test=5)
    vision.celeba_attributes("test", 8, download=True)
    (path,) = (tmp_path / "data").rglob("list_attr_celeba.txt")
    flip_bit(path, 8 * 900)
    with pytest.raises(DamagedFile, match=f"list_attr_celeba.txt is damaged: expected md5 .* found .*{command}"):
        vision.celeba_attributes("test")
    path.unlink()
    shutil.rmtree(tmp_path / "server")
    with pytest.raises(ReuseError, match="celeba_attributes could not be fetched.*connect to the network"):
        vision.celeba_attributes("test", download=True)


PACKED = {"tiny_imagenet": "tiny-imagenet-200.zip", "celeba": "img_align_celeba.zip"}


@pytest.mark.parametrize(("name", "file"), PACKED.items())
def test_altered_archive_is_refused(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path)
    data.load(name, download=True)
    (path,) = (tmp_path / "data" / "downloads").rglob(file)
    flip_bit(path, 8 * 700)
    with pytest.raises(DamagedFile, match=f"{file} is damaged: expected md5 .* found .*download=True"):
        data.load(name)


@pytest.mark.parametrize("name", [*TRUE_FORMATS, "caltech101", *PACKED, "stanford_dogs", "cub200", "fgvc_aircraft"])
def test_missing_files_name_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    with pytest.raises(MissingFile, match=rf"downloads.* is missing.*data\.load\('{name}', download=True\)"):
        data.load(name, "train")


@pytest.mark.parametrize("name", TRUE_FORMATS)
def test_altered_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path)
    data.load(name, download=True)
    suffixes = {"mnist": "train-images-idx3-ubyte.gz", "svhn": "train_32x32.mat", "stl10": "test_X.bin"}
    names = suffixes | {"cifar10": "data_batch_3", "cifar100": "meta"}
    (path,) = (tmp_path / "data" / "downloads").rglob(names[name])
    flip_bit(path, 8 * 30)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: expected md5 .* found .*download=True"):
        data.load(name)


@pytest.mark.parametrize(
    "name", [*TRUE_FORMATS, "caltech101", "lsun_church", *PACKED, "stanford_dogs", "cub200", "fgvc_aircraft"]
)
def test_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path)
    shutil.rmtree(tmp_path / "server")
    with pytest.raises(ReuseError, match=f"{name} could not be fetched.*connect to the network"):
        data.load(name, download=True)


ARCHIVES = {
    "cifar10": datasets.CIFAR10.filename,
    "stanford_dogs": "images.tar",
    "cub200": "CUB_200_2011.tgz",
    "fgvc_aircraft": "fgvc-aircraft-2013b.tar.gz",
}


@pytest.mark.parametrize(("name", "file"), ARCHIVES.items())
def test_download_that_arrives_altered(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.publish(name, monkeypatch, tmp_path, train=10, test=5)
    flip_bit(tmp_path / "server" / file, 8 * 99)
    with pytest.raises(ReuseError, match="corrupted"):
        data.load(name, download=True)


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fashion_mnist'"):
        data.load("fashion_minst")
    with pytest.raises(UnknownName, match="Did you mean 'test'"):
        data.load("cifar10", "tests")
    assert {"mnist", "cifar100", "digits", "printed_digits", "textures", *archives.FINE_GRAINED} <= set(data.SETS)
