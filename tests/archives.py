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
import shutil
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.request import urlretrieve

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets
from torchvision.datasets import caltech, utils

from reuselib.data import vision
from reuselib.data.attributes import BENCHMARKS

Part = tuple[np.ndarray, np.ndarray]
Contents = dict[str, Part]
# In the order of their numbers, which is not that of their ids.
IMAGENET_CLASSES = {
    "n02084071": "dog, domestic dog, Canis familiaris",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
}
CALTECH_CATEGORIES = {"airplanes": 14, "ant": 5, "wild_cat": 3}


def publish(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, train: int = 40, test: int = 20) -> Contents:
    """Make the archive of one set below `folder` and let torchvision's class find it there.

    Args:
        name: mnist, svhn, stl10, cifar10, cifar100, caltech101, tiny_imagenet, imagenet, celeba, lsun_church, ffhq, one
            of `FINE_GRAINED`, or celeba_attributes.
        monkeypatch: Of the test; it undoes everything.
        folder: An empty folder, usually `tmp_path`.
        train: Number of training images, a multiple of 5; Caltech101 has 22 images in all.
        test: Number of test images, where there is such a split.

    Returns:
        What was written: "train" and "test", each uint8 (N, C, H, W) and int64 (N,). Of Caltech101, nothing; of other
        photographs, what their files decode to at 64x64, or at 224x224 of ILSVRC-2012 and the fine-grained sets, in the
        order of the file names. Of celeba_attributes also "valid", at 64x64, with int64 (N, 40).
    """
    server = folder / "server"
    server.mkdir(exist_ok=True)
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, path, *_: urlretrieve(url, path))
    if name == "caltech101":
        _publish_caltech(monkeypatch, server)
        return {}
    if name == "tiny_imagenet":
        return _publish_tiny_imagenet(monkeypatch, server, {"train": train, "test": test})
    if name == "imagenet":
        return _bring_imagenet(monkeypatch, {"train": train, "test": test})
    if name in ONE_CLASS:
        return ONE_CLASS[name](monkeypatch, server, train)
    if name in FINE_GRAINED:
        return _publish_fine_grained(name, monkeypatch, server, {"train": train, "test": test})
    if name == "celeba_attributes":
        return _publish_celeba_attributes(monkeypatch, server, {"train": train, "valid": 5, "test": test})
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


def _tar(members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
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
            (f"{stem}-labels-idx1-ubyte.gz", struct.pack(">II", 0x00000801, len(labels)) + bytes(labels.tolist())),
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


def _serve_tar(monkeypatch: pytest.MonkeyPatch, server: Path, source: type, members: dict[str, bytes]) -> None:
    packed = _tar(members, "w:gz")
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
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", _tar(photographs, "w:gz"))
    # The address and the hash stand inside torchvision's method: only the function that it calls can be led.
    fetch = partial(_fetch_instead, path, _md5(path.read_bytes()))
    monkeypatch.setattr(caltech, "download_and_extract_archive", fetch)
    monkeypatch.setattr(vision, "CALTECH_IMAGES", sum(CALTECH_CATEGORIES.values()))


def _fetch_instead(path: Path, digest: str, url: str, download_root: str, filename: str, md5: str) -> None:
    utils.download_and_extract_archive(path.as_uri(), download_root, filename=filename, md5=digest)


def _photographs(
    count: int, size: tuple[int, int], form: str, seed: int, shorter: int = 64, side: int = 64
) -> tuple[list[bytes], np.ndarray]:
    """Return encoded random photographs, the first one grey, and what they are as uint8 (count, 3, side, side)."""
    draw = np.random.default_rng(seed)
    files, squares = [], []
    for number in range(count):
        coarse = draw.integers(0, 256, (7, 9) if number == 0 else (7, 9, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, form)
        files.append(buffer.getvalue())
        squares.append(_square(Image.open(buffer).convert("RGB"), shorter, side))
    return files, np.stack(squares)


def _square(image: Image.Image, shorter: int, side: int) -> np.ndarray:
    """Return the centre of an image whose shorter side was made `shorter` long, (3, side, side)."""
    width, height = image.size
    size = (shorter, int(shorter * height / width)) if width < height else (int(shorter * width / height), shorter)
    small = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((small.width - side) / 2), round((small.height - side) / 2)
    return np.asarray(small.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _zip(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return _md5(path.read_bytes())


def _publish_tiny_imagenet(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    base, ids = "tiny-imagenet-200", [f"n{1_000_000 + 37 * k:08d}" for k in range(200)]
    words = "".join(f"{wnid}\tclass {label}, also called {label}\n" for label, wnid in enumerate(ids))
    members = {f"{base}/wnids.txt": "\n".join(reversed(ids)).encode(), f"{base}/words.txt": words.encode()}
    contents, notes = {}, ""
    for seed, (split, count) in enumerate(counts.items()):
        files, squares = _photographs(count, (64, 64), "JPEG", seed)
        labels = np.sort(np.arange(count, dtype=np.int64) * 7 % 200)
        contents[split] = squares, labels
        for number, (content, label) in enumerate(zip(files, labels, strict=True)):
            wnid = ids[label]
            if split == "train":
                members[f"{base}/train/{wnid}/{wnid}_boxes.txt"] = b""
                members[f"{base}/train/{wnid}/images/{wnid}_{number:03d}.JPEG"] = content
            else:
                members[f"{base}/val/images/val_{number}.JPEG"] = content
                notes += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    members[f"{base}/val/val_annotations.txt"] = notes.encode()
    path = server / f"{base}.zip"
    monkeypatch.setattr(vision, "TINY_IMAGENET_MD5", _zip(path, members))
    monkeypatch.setattr(vision, "TINY_IMAGENET_URL", path.as_uri())
    return contents


def _bring_imagenet(monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]) -> Contents:
    """ILSVRC-2012 cannot be fetched by a program: its three archives are put where they must be brought."""
    folder = vision._downloads() / "imagenet"
    folder.mkdir(parents=True)
    ids = sorted(IMAGENET_CLASSES)
    photographs = {
        split: _photographs(count, (300 + 40 * seed, 280), "JPEG", seed, shorter=256, side=224)
        for seed, (split, count) in enumerate(counts.items())
    }
    labels = {"train": np.arange(counts["train"]) * len(ids) // counts["train"], "test": np.arange(counts["test"]) % 4}
    classes: dict[str, dict[str, bytes]] = {wnid: {} for wnid in ids}
    for number, (content, label) in enumerate(zip(photographs["train"][0], labels["train"], strict=True)):
        classes[ids[label]][f"{ids[label]}_{1000 + number}.JPEG"] = content
    validation = {f"ILSVRC2012_val_{n:08d}.JPEG": content for n, content in enumerate(photographs["test"][0], 1)}
    packed = {
        "devkit": _tar(_imagenet_devkit(labels["test"]), "w:gz"),
        "train": _tar({f"{wnid}.tar": _tar(files) for wnid, files in classes.items()}),
        "val": _tar(validation),
    }
    for part, (name, _) in datasets.imagenet.ARCHIVE_META.items():
        (folder / name).write_bytes(packed[part])
        monkeypatch.setitem(datasets.imagenet.ARCHIVE_META, part, (name, _md5(packed[part])))
    monkeypatch.setattr(vision, "IMAGENET_IMAGES", {"train": counts["train"], "val": counts["test"]})
    order = np.argsort(labels["test"], kind="stable")  # torchvision sorts the test images into a folder for each class
    test = photographs["test"][1][order], labels["test"][order]
    return {"train": (photographs["train"][1], labels["train"]), "test": test}


def _imagenet_devkit(test: np.ndarray) -> dict[str, bytes]:
    """Return the files of the development kit: its synsets, the last of which has children, and the test labels."""
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images".split()
    rows = [
        (number, wnid, IMAGENET_CLASSES[wnid], "a gloss", 0, np.zeros(0), 0, 9)
        for number, wnid in enumerate(IMAGENET_CLASSES, 1)
    ]
    rows.append((len(rows) + 1, "n00001740", "entity", "what there is", 2, np.array([1, 2]), 1, 0))
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": np.array(rows, [(field, object) for field in fields]).reshape(-1, 1)})
    numbers = {wnid: number for number, wnid in enumerate(IMAGENET_CLASSES, 1)}
    truth = "".join(f"{numbers[sorted(IMAGENET_CLASSES)[label]]}\n" for label in test)
    files = {"meta.mat": buffer.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    return {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in files.items()}


def _publish_celeba(monkeypatch: pytest.MonkeyPatch, server: Path, count: int) -> Contents:
    files, squares = _photographs(count, (178, 218), "JPEG", 0)
    members = {f"img_align_celeba/{number:06d}.jpg": content for number, content in enumerate(files, 1)}
    path = server / "img_align_celeba.zip"
    digest = _zip(path, {"img_align_celeba/": b""} | members)
    others = [entry for entry in datasets.CelebA.file_list if entry[2] != path.name]
    monkeypatch.setattr(datasets.CelebA, "file_list", [*others, ("an id", digest, path.name)])
    # torchvision leaves the fetching from that drive to gdown, which is not needed for anything else.
    drive = types.ModuleType("gdown")
    drive.download = lambda id, output, **_: shutil.copy(path, output)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gdown", drive)
    return {"train": (squares, np.zeros(count, np.int64))}


def _publish_lsun_church(monkeypatch: pytest.MonkeyPatch, server: Path, count: int) -> Contents:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
    name = "church_outdoor_train_lmdb"
    half = count // 2
    jpeg, one = _photographs(half, (256, 200), "JPEG", 0)
    webp, two = _photographs(count - half, (200, 256), "WEBP", 1)
    with lmdb.open(str(server / name), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for number, content in enumerate(jpeg + webp):
            transaction.put(hashlib.sha1(bytes([number])).hexdigest().encode(), content)
    order = sorted(range(count), key=lambda number: hashlib.sha1(bytes([number])).hexdigest())
    path = server / f"{name}.zip"
    _zip(path, {f"{name}/{file.name}": file.read_bytes() for file in (server / name).iterdir()})
    monkeypatch.setattr(vision, "LSUN_CHURCH_URL", path.as_uri())
    monkeypatch.setattr(vision, "LSUN_CHURCH_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(vision, "LSUN_CHURCH_IMAGES", count)
    return {"train": (np.concatenate([one, two])[order], np.zeros(count, np.int64))}


def _bring_ffhq(monkeypatch: pytest.MonkeyPatch, server: Path, count: int) -> Contents:
    """FFHQ cannot be fetched by a program: it is put where it must be brought."""
    folder = vision._downloads() / "ffhq" / "thumbnails128x128" / "00000"
    folder.mkdir(parents=True)
    files, squares = _photographs(count, (128, 128), "PNG", 0)
    for number, content in enumerate(files):
        (folder / f"{number:05d}.png").write_bytes(content)
    monkeypatch.setattr(vision, "FFHQ_IMAGES", count)
    return {"train": (squares, np.zeros(count, np.int64))}


def _publish_celeba_attributes(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """The faces of the splits lie in turn in the archive, as they do not in the published one."""
    parts = [part for part, count in counts.items() for _ in range(count)]
    np.random.default_rng(1).shuffle(parts)
    files, squares = _photographs(len(parts), (178, 218), "JPEG", 0, shorter=73, side=64)
    signs = np.random.default_rng(2).choice([-1, 1], (len(parts), 40))
    names = [f"{number:06d}.jpg" for number in range(1, len(parts) + 1)]
    rows = "".join(f"{name} {' '.join(f'{sign:2d}' for sign in row)}\n" for name, row in zip(names, signs, strict=True))
    numbers = [list(counts).index(part) for part in parts]
    texts = {
        "list_attr_celeba.txt": f"{len(parts)}\n{' '.join(CELEBA_ATTRIBUTES)} \n{rows}",
        "list_eval_partition.txt": "".join(f"{n} {number}\n" for n, number in zip(names, numbers, strict=True)),
    }
    members = {f"img_align_celeba/{name}": content for name, content in zip(names, files, strict=True)}
    digests = {"img_align_celeba.zip": _zip(server / "img_align_celeba.zip", members)}
    for name, text in texts.items():
        (server / name).write_text(text)
        digests[name] = _md5(text.encode())
    listed = [(file, digests.get(file, digest), file) for _, digest, file in datasets.CelebA.file_list]
    monkeypatch.setattr(datasets.CelebA, "file_list", listed)
    drive = types.ModuleType("gdown")
    drive.download = lambda id, output, **_: shutil.copy(server / id, output)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gdown", drive)
    chosen = {part: np.array([own == part for own in parts]) for part in counts}
    return {part: (squares[mask], (signs[mask] + 1) // 2) for part, mask in chosen.items()}


def _publish_fine_grained(name: str, monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """Classes are listed in another order than that of their names."""
    classes, contents, listed = FINE_GRAINED[name], {}, {}
    order = sorted(classes)
    for seed, (split, count) in enumerate(counts.items()):
        files, squares = _photographs(count, (300, 260) if seed else (250, 400), "JPEG", seed, shorter=256, side=224)
        names = [classes[number * 7 % len(classes)] for number in range(count)]
        contents[split] = squares, np.array([order.index(label) for label in names], np.int64)
        listed[split] = list(zip(names, files, strict=True))
    monkeypatch.setitem(vision.FINE_IMAGES, name, tuple(counts.values()))
    {"stanford_dogs": _dogs, "cub200": _cub, "stanford_cars": _cars, "fgvc_aircraft": _aircraft}[name](
        monkeypatch, server, listed
    )
    return contents


Listed = dict[str, list[tuple[str, bytes]]]


def _dogs(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    images, lists = {}, {}
    for split, photographs in listed.items():
        names = []
        for number, (breed, content) in enumerate(photographs):
            names.append(f"{breed}/{breed.split('-')[0]}_{split}{number}.jpg")
            images[f"Images/{names[-1]}"] = content
        cells = np.array([[name] for name in names], dtype=object)
        lists[f"{split}_list.mat"] = _mat({"file_list": cells, "labels": np.ones((len(names), 1))})
    md5 = {"images.tar": _save_tar(server / "images.tar", images), "lists.tar": _save_tar(server / "lists.tar", lists)}
    monkeypatch.setattr(vision, "DOGS_URL", server.as_uri())
    monkeypatch.setattr(vision, "DOGS_MD5", md5)


def _cub(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    members = {"attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n"}
    both = [(split, *photograph) for split in ("test", "train") for photograph in listed[split]]
    images = parts = ""
    for number, (split, kind, content) in enumerate(both, 1):
        name = f"{kind}/{kind[4:]}_{number:04d}_{90000 + number}.jpg"
        members[f"CUB_200_2011/images/{name}"] = content
        images += f"{number} {name}\n"
        parts += f"{number} {int(split == 'train')}\n"
    members |= {"CUB_200_2011/images.txt": images.encode(), "CUB_200_2011/train_test_split.txt": parts.encode()}
    monkeypatch.setattr(vision, "CUB_MD5", _save_tar(server / "CUB_200_2011.tgz", members))
    monkeypatch.setattr(vision, "CUB_URL", (server / "CUB_200_2011.tgz").as_uri())


def _cars(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    """Stanford Cars can no longer be fetched: it is put where it must be brought."""
    folder, classes = vision._downloads() / "stanford_cars", FINE_GRAINED["stanford_cars"]
    (folder / "devkit").mkdir(parents=True)
    (folder / "devkit" / "cars_meta.mat").write_bytes(_mat({"class_names": np.array([classes], dtype=object)}))
    kinds = [(key, object) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        (folder / f"cars_{split}").mkdir()
        notes = np.empty((1, len(listed[split])), kinds)
        for number, (model, content) in enumerate(listed[split]):
            name = f"{number + 1:05d}.jpg"
            (folder / f"cars_{split}" / name).write_bytes(content)
            notes[0, number] = (39, 116, 569, 375, np.uint8(classes.index(model) + 1), name)
        (folder / path).write_bytes(_mat({"annotations": notes}))


def _aircraft(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    base, members = "fgvc-aircraft-2013b/data", {}
    for part, (split, photographs) in enumerate(listed.items()):
        lines = ""
        for number, (variant, content) in enumerate(photographs):
            identity = f"{part + 1}{number:06d}"
            members[f"{base}/images/{identity}.jpg"] = content
            lines += f"{identity} {variant}\n"
        members[f"{base}/images_variant_{'trainval' if split == 'train' else 'test'}.txt"] = lines.encode()
    members[f"{base}/variants.txt"] = "\n".join(FINE_GRAINED["fgvc_aircraft"]).encode()
    monkeypatch.setattr(vision, "AIRCRAFT_MD5", _save_tar(server / "fgvc-aircraft-2013b.tar.gz", members))
    monkeypatch.setattr(vision, "AIRCRAFT_URL", (server / "fgvc-aircraft-2013b.tar.gz").as_uri())


def _mat(variables: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def _save_tar(path: Path, members: dict[str, bytes]) -> str:
    """Write a tar archive, compressed unless its name ends in .tar, and return its MD5."""
    path.write_bytes(_tar(members, "w" if path.suffix == ".tar" else "w:gz"))
    return _md5(path.read_bytes())


@dataclass
class Benchmark:
    """What was written of one of Xian's benchmarks: numbers as they are read, from 0."""

    features: np.ndarray  # (N, 2048)
    squares: np.ndarray  # (N, 3, 64, 64)
    labels: np.ndarray
    original_att: np.ndarray  # (classes, m)
    att: np.ndarray
    parts: dict[str, dict[str, np.ndarray]]  # split -> part -> positions
    unseen: dict[str, list[int]]
    names: tuple[str, ...]  # of the attributes


def bring_benchmark(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, per_class: int = 5) -> Benchmark:
    """Put a tiny benchmark of Xian et al. where it must be brought, with its photographs, and REUSELIB_DATA there.

    Six classes, two of them unseen, other ones in either split. Images come in no order of their classes, and the parts
    in no order of the images.
    """
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    draw, classes = np.random.default_rng(len(name)), GBU_CLASSES[name]
    labels = draw.permutation(np.repeat(np.arange(6), per_class))
    names = tuple(f"attribute_{letter}" for letter in "abcdefgh")
    original = np.round(draw.uniform(0, 100 if name in ("AWA2", "CUB") else 1, (6, len(names))), 4)
    original[1, 3] = -1 if name == "AWA2" else 0  # undefined
    features, files, squares = draw.random((len(labels), 2048)), *_gbu_photographs(name, labels, names)
    unseen = {"ps": [1, 4], "ss": [0, 5]}
    parts = {split: _gbu_parts(draw, labels, hidden, split) for split, hidden in unseen.items()}
    att = original / np.linalg.norm(original, axis=1, keepdims=True)
    xlsa = vision._downloads() / "xlsa17" / "data" / name
    xlsa.mkdir(parents=True)
    kind = np.uint16 if name == "SUN" else np.uint8
    listed = {"features": features.T, "image_files": _cells(files), "labels": kind(labels + 1).reshape(-1, 1)}
    (xlsa / "res101.mat").write_bytes(_mat(listed))
    for split, path in {"ps": xlsa, "ss": vision._downloads() / "standard_split" / name}.items():
        path.mkdir(parents=True, exist_ok=True)
        held = {f"{part}_loc": np.uint16(place + 1).reshape(-1, 1) for part, place in parts[split].items()}
        # As in some of the published files: they hold test images of seen classes.
        both = np.concatenate([parts[split]["trainval"], parts[split].get("test_seen", labels[:0])])
        halves = enumerate(("train_loc", "val_loc"))
        held |= {key: np.uint16(both[start::2] + 1).reshape(-1, 1) for start, key in halves}
        held |= {"allclasses_names": _cells(classes), "att": att.T, "original_att": original.T}
        (path / "att_splits.mat").write_bytes(_mat(held))
    tested = (2 * per_class, 2 * per_class)
    tiny = replace(BENCHMARKS[name], images=len(labels), classes=6, unseen=2, attributes=len(names), tested=tested)
    monkeypatch.setitem(BENCHMARKS, name, tiny)
    return Benchmark(features, squares, labels, original, att, parts, unseen, names)


def _gbu_parts(draw: np.random.Generator, labels: np.ndarray, hidden: list[int], split: str) -> dict[str, np.ndarray]:
    """The standard split holds out no images of seen classes."""
    place = draw.permutation(len(labels))
    out = np.isin(labels[place], hidden)
    seen, count = place[~out], int(0.2 * (~out).sum())
    if split == "ss":
        return {"trainval": seen, "test_unseen": place[out]}
    return {"trainval": seen[count:], "test_seen": seen[:count], "test_unseen": place[out]}


def _cells(texts: Sequence[str]) -> np.ndarray:
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    return cells


def _gbu_photographs(name: str, labels: np.ndarray, names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Write photographs and the names of attributes; return how the photographs are listed, and what they are."""
    downloads = vision._downloads()
    contents, squares = _photographs(len(labels), (90, 72), "JPEG", 7, shorter=73)
    classes = [GBU_CLASSES[name][label] for label in labels]
    if name == "APY":
        return _apy_photographs(downloads / "aPY", contents, classes, names)
    prefix, folder, notes = {
        "AWA2": (
            "/x/images/Animals_with_Attributes2//JPEGImages/",
            "Animals_with_Attributes2/JPEGImages",
            "Animals_with_Attributes2/predicates.txt",
        ),
        "CUB": ("/x/CUB_200_2011/CUB_200_2011/images/", "CUB_200_2011/images", "attributes.txt"),
        "SUN": ("/x/data/SUN/images/", "SUN/images", "SUN/SUNAttributeDB/attributes.mat"),
    }[name]
    files = []
    for number, (content, label) in enumerate(zip(contents, classes, strict=True)):
        place = f"{label[0]}/{label}" if name == "SUN" else label
        files.append(f"{place}/{label.split('.')[-1]}_{10001 + number}.jpg")
        path = downloads / folder / files[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = downloads / notes
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "SUN":
        path.write_bytes(_mat({"attributes": _cells(names)}))
    else:
        tab = "\t" if name == "AWA2" else " "
        path.write_text("".join(f"{number:5d}{tab}{word}\n" for number, word in enumerate(names, 1)))
    return [prefix + file for file in files], squares


def _apy_photographs(
    folder: Path, contents: list[bytes], classes: list[str], names: tuple[str, ...]
) -> tuple[list[str], np.ndarray]:
    """Every third object shares the photograph of the one before; the last third is Yahoo's. Boxes reach too far."""
    lists: dict[str, str] = {"apascal_train.txt": "", "apascal_test.txt": "", "ayahoo_test.txt": ""}
    files, squares = [], []
    for number, label in enumerate(classes):
        photograph = number - (number % 3 == 2)
        yahoo = photograph >= 2 * len(classes) // 3
        file = f"{label}_{photograph}.jpg" if yahoo else f"2008_{photograph:06d}.jpg"
        file = files[-1].rsplit("/", 1)[1] if photograph < number else file
        place = folder / ("ayahoo_test_images" if yahoo else "VOCdevkit/VOC2008/JPEGImages") / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents[photograph])
        box = (3 + number, 2, 70 + number, 40 + number)
        with Image.open(place) as image:
            edges = (box[0] - 1, box[1] - 1, min(box[2], image.width), min(box[3], image.height))
            squares.append(_square(image.convert("RGB").crop(edges), 73, 64))
        kind = "ayahoo_test.txt" if yahoo else list(lists)[number >= len(classes) // 3]
        lists[kind] += f"{file} {label} {' '.join(map(str, box))} {' '.join('01'[n % 2] for n in range(len(names)))}\n"
        prefix = "/x/data/aPY/ayahoo_test_images/" if yahoo else "/x/data/VOC2008//JPEGImages/"
        files.append(prefix + file)
    (folder / "attribute_data").mkdir()
    for file, text in lists.items():
        (folder / "attribute_data" / file).write_text(text)
    (folder / "attribute_data" / "attribute_names.txt").write_text("\n".join(names) + "\n")
    return files, np.stack(squares)


CELEBA_ATTRIBUTES = tuple(f"Attribute_{number}" for number in range(39)) + ("Young",)
FINE_GRAINED = {
    "stanford_dogs": ("n02105641-Old_English_sheepdog", "n02085620-Chihuahua", "n02086240-Shih-Tzu"),
    "cub200": ("002.Laysan_Albatross", "001.Black_footed_Albatross", "200.Common_Yellowthroat"),
    "stanford_cars": ("Volvo 240 Sedan 1993", "AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    "fgvc_aircraft": ("Boeing 717", "707-320", "A300B4"),
}
GBU_CLASSES = {
    "AWA2": ("antelope", "grizzly+bear", "killer+whale", "beaver", "dalmatian", "persian+cat"),
    "CUB": (
        "001.Black_footed_Albatross",
        "002.Laysan_Albatross",
        "003.Sooty_Albatross",
        "004.Groove_billed_Ani",
        "005.Crested_Auklet",
        "006.Least_Auklet",
    ),
    "SUN": ("abbey", "access_road", "airlock", "airplane_cabin", "airport_terminal", "alley"),
    "APY": ("aeroplane", "bicycle", "bird", "donkey", "monkey", "goat"),
}
ONE_CLASS: dict[str, Callable[[pytest.MonkeyPatch, Path, int], Contents]] = {
    "celeba": _publish_celeba,
    "lsun_church": _publish_lsun_church,
    "ffhq": _bring_ffhq,
}
PUBLISHERS: dict[str, Callable[[pytest.MonkeyPatch, Path, Contents], None]] = {
    "mnist": _publish_mnist,
    "svhn": _publish_svhn,
    "stl10": _publish_stl10,
    "cifar10": partial(_publish_cifar, datasets.CIFAR10),
    "cifar100": partial(_publish_cifar, datasets.CIFAR100),
}
