"""Tiny archives in the true on-disk format of each image set, served to torchvision's own downloads.

    contents = archives.publish("cifar10", monkeypatch, tmp_path)     # and REUSELIB_DATA is tmp_path / "data"
    images = data.load("cifar10", "train", download=True)             # fetched, unpacked, verified, read

Addresses, counts and hashes are patched: a tiny archive cannot have the published hash. So is torchvision's fetching of
one address, which wants headers that a file:// address has not.
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
import threading
import types
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlretrieve

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets
from torchvision.datasets import caltech, utils, voc

from reuselib.data import files, photographs
from reuselib.data.attributes import BENCHMARKS

Part = tuple[np.ndarray, np.ndarray]
Contents = dict[str, Part]
Members = dict[str, bytes]
# In the order of their numbers, which is not that of their ids.
IMAGENET_CLASSES = {
    "n02084071": "dog, domestic dog, Canis familiaris",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
}
CALTECH_CATEGORIES = {"airplanes": 14, "ant": 5, "wild_cat": 3}
CELEBA_ATTRIBUTES = tuple(f"Attribute_{number}" for number in range(39)) + ("Young",)
FINE_GRAINED = {
    "stanford_dogs": ("n02105641-Old_English_sheepdog", "n02085620-Chihuahua", "n02086240-Shih-Tzu"),
    "cub200": ("002.Laysan_Albatross", "001.Black_footed_Albatross", "200.Common_Yellowthroat"),
    "stanford_cars": ("Volvo 240 Sedan 1993", "AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    "fgvc_aircraft": ("Boeing 717", "707-320", "A300B4"),
}
GBU_CLASSES = {
    "AWA2": ("antelope", "grizzly+bear", "killer+whale", "beaver", "dalmatian", "persian+cat"),
    "CUB": tuple(f"00{n}.{bird}" for n, bird in enumerate("Gadwall Mallard Fulmar Auklet Ovenbird Ani".split(), 1)),
    "SUN": ("abbey", "access_road", "airlock", "airplane_cabin", "airport_terminal", "alley"),
    "APY": ("aeroplane", "bicycle", "bird", "donkey", "monkey", "goat"),
}


def publish(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, train: int = 40, test: int = 20) -> Contents:
    """Make the archive of one set below `folder` and let its loader find it there.

    Args:
        name: Of a set that is not shipped, or celeba_attributes.
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
    (folder / "data").mkdir(exist_ok=True)
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, path, *_: urlretrieve(url, path))
    counts = {"train": train, "test": test}
    if name in FINE_GRAINED:
        return _fine_grained(name, monkeypatch, server, counts)
    if name in BROUGHT:
        return _brought(name, monkeypatch, counts)
    return globals()[f"_publish_{name}"](monkeypatch, server, counts)


# ---- files


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar(members: Members, mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def cells(texts: Sequence[str]) -> np.ndarray:
    found = np.empty((len(texts), 1), dtype=object)
    found[:, 0] = texts
    return found


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write(folder: Path, members: Members) -> None:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def served(server: Path, name: str, content: bytes) -> tuple[str, str]:
    """Write a file to be fetched; return its address and its MD5."""
    (server / name).write_bytes(content)
    return (server / name).as_uri(), md5(content)


def shots(
    count: int, size: tuple[int, int], form: str, seed: int, shorter: int = 64, side: int = 64
) -> tuple[list[bytes], np.ndarray]:
    """Return encoded random photographs, the first one grey, and what they are as uint8 (count, 3, side, side)."""
    draw = np.random.default_rng(seed)
    contents, squares = [], []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (7, 9) if number == 0 else (7, 9, 3), np.uint8))
        contents.append(encoded(coarse.resize(size, Image.Resampling.BICUBIC), form))
        squares.append(square(Image.open(io.BytesIO(contents[-1])), shorter, side))
    return contents, np.stack(squares)


def square(image: Image.Image, shorter: int, side: int) -> np.ndarray:
    """Return the centre of an image whose shorter side was made `shorter` long, (3, side, side)."""
    width, height = image.size
    size = (shorter, int(shorter * height / width)) if width < height else (int(shorter * width / height), shorter)
    small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = round((small.width - side) / 2), round((small.height - side) / 2)
    return np.asarray(small.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


class Server(BaseHTTPRequestHandler):
    """Gives files of `folder`, or behaves as `mood` says: busy, or giving a page, an altered file or a part of it."""

    folder = Path()
    mood = "well"

    def do_GET(self) -> None:
        file = self.folder / self.path.strip("/")
        if self.mood == "busy" or not file.is_file():
            return self.send_error(503)
        content = file.read_bytes()
        altered = bytes([content[0] ^ 1]) + content[1:]
        sent = {"altered": altered, "page": b"<html>Too many users</html>"}.get(self.mood, content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[:-5] if self.mood == "cut" else sent)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a folder over HTTP; gives the address."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(Server, "folder", folder)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


# ---- arrays


def _arrays(counts: dict[str, int], shape: tuple[int, int, int], classes: int = 10) -> Contents:
    contents = {}
    for seed, (split, count) in enumerate(counts.items()):
        images = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
        contents[split] = images, np.arange(count, dtype=np.int64) * 7 % classes
    return contents


def _publish_mnist(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    contents, resources = _arrays(counts, (1, 28, 28)), []
    for (images, labels), stem in zip(contents.values(), ("train", "t10k"), strict=True):
        header = struct.pack(">IIII", 0x00000803, len(images), 28, 28)
        for name, content in (
            (f"{stem}-images-idx3-ubyte.gz", header + images.tobytes()),
            (f"{stem}-labels-idx1-ubyte.gz", struct.pack(">II", 0x00000801, len(labels)) + bytes(labels.tolist())),
        ):
            resources.append((name, served(server, name, gzip.compress(content))[1]))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.as_uri()}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return contents


def _publish_svhn(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    contents, listed = _arrays(counts, (3, 32, 32)), {}
    for split, (images, labels) in contents.items():
        name, labels = f"{split}_32x32.mat", np.where(labels == 0, 10, labels).astype(np.uint8).reshape(-1, 1)
        url, digest = served(server, name, mat(X=images.transpose(2, 3, 1, 0), y=labels))
        listed[split] = [url, name, digest]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return contents


def _publish_stl10(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    contents = _arrays(counts, (3, 96, 96))
    members = {"unlabeled_X.bin": bytes(3 * 96 * 96), "fold_indices.txt": b""}
    members["class_names.txt"] = b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    for split, (images, labels) in contents.items():
        members[f"{split}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()  # column by column
        members[f"{split}_y.bin"] = bytes((labels + 1).tolist())
    _serve_tar(monkeypatch, server, datasets.STL10, {f"stl10_binary/{name}": c for name, c in members.items()})
    for part in ("train_list", "test_list"):
        listed = [[name, md5(members[name])] for name, _ in getattr(datasets.STL10, part)]
        monkeypatch.setattr(datasets.STL10, part, listed)
    return contents


def _serve_tar(monkeypatch: pytest.MonkeyPatch, server: Path, source: Any, members: Members) -> None:
    url, digest = served(server, source.filename, tar(members, "w:gz"))
    monkeypatch.setattr(source, "url", url)
    monkeypatch.setattr(source, "tgz_md5", digest)


def _publish_cifar10(
    monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int], source: Any = datasets.CIFAR10
) -> Contents:
    classes, key = (100, "fine_labels") if source is datasets.CIFAR100 else (10, "labels")
    contents = _arrays(counts, (3, 32, 32), classes)
    names = [f"class {index}" for index in range(classes)]
    members = {source.meta["filename"]: pickle.dumps({source.meta["key"]: names}, 2)}
    for part, listed in zip(contents.values(), (source.train_list, source.test_list), strict=True):
        images, labels = (np.array_split(each, len(listed)) for each in part)
        for (file, _), some, their in zip(listed, images, labels, strict=True):
            batch = {"batch_label": file, "data": some.reshape(len(some), -1), key: their.tolist()}
            members[file] = pickle.dumps(batch, 2)
    _serve_tar(monkeypatch, server, source, {f"{source.base_folder}/{n}": c for n, c in members.items()})
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(source, part, [[file, md5(members[file])] for file, _ in getattr(source, part)])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(members[source.meta["filename"]])})
    return contents


_publish_cifar100 = _publish_cifar100_dfad = partial(_publish_cifar10, source=datasets.CIFAR100)


# ---- photographs with classes


def _publish_caltech101(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    draw, members = np.random.default_rng(0), {}
    for category, count in (CALTECH_CATEGORIES | {"BACKGROUND_Google": 2}).items():
        for number in range(1, count + 1):
            size = tuple(draw.integers(100, 300, 2))
            pixels = draw.integers(0, 256, size if number == 1 else (*size, 3), np.uint8)  # a few are grey
            name = f"101_ObjectCategories/{category}/image_{number:04d}.jpg"
            members[name] = encoded(Image.fromarray(pixels), "JPEG")
    packed = zipped({"caltech-101/101_ObjectCategories.tar.gz": tar(members, "w:gz")})
    address, digest = served(server, "caltech-101.zip", packed)

    # The address and the hash stand inside torchvision's method: only the function that it calls can be led.
    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        utils.download_and_extract_archive(address, download_root, filename=filename, md5=digest)

    monkeypatch.setattr(caltech, "download_and_extract_archive", fetch)
    monkeypatch.setitem(photographs.COUNTS, "caltech101", {"train and test": sum(CALTECH_CATEGORIES.values())})
    return {}


def _publish_tiny_imagenet(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    base, ids = "tiny-imagenet-200", [f"n{1_000_000 + 37 * k:08d}" for k in range(200)]
    words = "".join(f"{wnid}\tclass {label}, also called {label}\n" for label, wnid in enumerate(ids))
    members = {f"{base}/wnids.txt": "\n".join(reversed(ids)).encode(), f"{base}/words.txt": words.encode()}
    contents, notes = {}, ""
    for seed, (split, count) in enumerate(counts.items()):
        encodings, squares = shots(count, (64, 64), "JPEG", seed)
        labels = np.sort(np.arange(count, dtype=np.int64) * 7 % 200)
        contents[split] = squares, labels
        for number, (content, label) in enumerate(zip(encodings, labels, strict=True)):
            wnid = ids[label]
            if split == "train":
                members[f"{base}/train/{wnid}/{wnid}_boxes.txt"] = b""
                members[f"{base}/train/{wnid}/images/{wnid}_{number:03d}.JPEG"] = content
            else:
                members[f"{base}/val/images/val_{number}.JPEG"] = content
                notes += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    members[f"{base}/val/val_annotations.txt"] = notes.encode()
    monkeypatch.setitem(photographs.URLS, "tiny_imagenet", served(server, f"{base}.zip", zipped(members)))
    return contents


def _publish_imagenet(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """ILSVRC-2012 cannot be fetched by a program: its three archives are put where they must be brought."""
    ids = sorted(IMAGENET_CLASSES)
    pictures = {
        split: shots(count, (300 + 40 * seed, 280), "JPEG", seed, shorter=256, side=224)
        for seed, (split, count) in enumerate(counts.items())
    }
    labels = {"train": np.arange(counts["train"]) * len(ids) // counts["train"], "test": np.arange(counts["test"]) % 4}
    classes: dict[str, Members] = {wnid: {} for wnid in ids}
    for number, (content, label) in enumerate(zip(pictures["train"][0], labels["train"], strict=True)):
        classes[ids[label]][f"{ids[label]}_{1000 + number}.JPEG"] = content
    packed = {
        "devkit": tar(_imagenet_devkit(labels["test"]), "w:gz"),
        "train": tar({f"{wnid}.tar": tar(members) for wnid, members in classes.items()}),
        "val": tar({f"ILSVRC2012_val_{n:08d}.JPEG": content for n, content in enumerate(pictures["test"][0], 1)}),
    }
    for part, (name, _) in datasets.imagenet.ARCHIVE_META.items():
        write(files.downloads("imagenet"), {name: packed[part]})
        monkeypatch.setitem(datasets.imagenet.ARCHIVE_META, part, (name, md5(packed[part])))
    monkeypatch.setitem(photographs.COUNTS, "imagenet", {"train": counts["train"], "val": counts["test"]})
    order = np.argsort(labels["test"], kind="stable")  # torchvision sorts the test images into a folder for each class
    test = pictures["test"][1][order], labels["test"][order]
    return {"train": (pictures["train"][1], labels["train"]), "test": test}


def _imagenet_devkit(test: np.ndarray) -> Members:
    """Return the files of the development kit: its synsets, the last of which has children, and the test labels."""
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images".split()
    numbers = {wnid: number for number, wnid in enumerate(IMAGENET_CLASSES, 1)}
    rows: list[tuple] = [
        (number, wnid, IMAGENET_CLASSES[wnid], "a gloss", 0, np.zeros(0), 0, 9) for wnid, number in numbers.items()
    ]
    rows.append((len(rows) + 1, "n00001740", "entity", "what there is", 2, np.array([1, 2]), 1, 0))
    synsets = np.array(rows, [(field, object) for field in fields]).reshape(-1, 1)
    truth = "".join(f"{numbers[sorted(IMAGENET_CLASSES)[label]]}\n" for label in test)
    members = {"meta.mat": mat(synsets=synsets), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    return {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in members.items()}


def _fine_grained(name: str, monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """Classes are listed in another order than that of their names."""
    classes, contents, listed = FINE_GRAINED[name], {}, {}
    for seed, (split, count) in enumerate(counts.items()):
        encodings, squares = shots(count, (300, 260) if seed else (250, 400), "JPEG", seed, shorter=256, side=224)
        names = [classes[number * 7 % len(classes)] for number in range(count)]
        contents[split] = squares, np.array([sorted(classes).index(label) for label in names], np.int64)
        listed[split] = list(zip(names, encodings, strict=True))
    monkeypatch.setitem(photographs.COUNTS, name, counts)
    {"stanford_dogs": _dogs, "cub200": _cub, "stanford_cars": _cars, "fgvc_aircraft": _aircraft}[name](
        monkeypatch, server, listed
    )
    return contents


Listed = dict[str, list[tuple[str, bytes]]]


def _dogs(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    images, lists = {}, {}
    for split, pictures in listed.items():
        names = [f"{breed}/{breed.split('-')[0]}_{split}{number}.jpg" for number, (breed, _) in enumerate(pictures)]
        images |= {f"Images/{name}": content for name, (_, content) in zip(names, pictures, strict=True)}
        lists[f"{split}_list.mat"] = mat(file_list=cells(names), labels=np.ones((len(names), 1)))
    monkeypatch.setitem(photographs.URLS, "stanford_dogs", served(server, "images.tar", tar(images)))
    monkeypatch.setitem(photographs.URLS, "stanford_dogs lists", served(server, "lists.tar", tar(lists)))


def _cub(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    members, images, parts = {"attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n"}, "", ""
    both = [(split, *picture) for split in ("test", "train") for picture in listed[split]]
    for number, (split, kind, content) in enumerate(both, 1):
        name = f"{kind}/{kind[4:]}_{number:04d}_{90000 + number}.jpg"
        members[f"CUB_200_2011/images/{name}"] = content
        images += f"{number} {name}\n"
        parts += f"{number} {int(split == 'train')}\n"
    members |= {"CUB_200_2011/images.txt": images.encode(), "CUB_200_2011/train_test_split.txt": parts.encode()}
    monkeypatch.setitem(photographs.URLS, "cub200", served(server, "CUB_200_2011.tgz", tar(members, "w:gz")))


def _cars(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    """Stanford Cars can no longer be fetched: it is put where it must be brought."""
    classes = FINE_GRAINED["stanford_cars"]
    members = {"devkit/cars_meta.mat": mat(class_names=np.array([classes], dtype=object))}
    kinds = [(key, object) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        notes = np.empty((1, len(listed[split])), kinds)
        for number, (model, content) in enumerate(listed[split]):
            name = f"{number + 1:05d}.jpg"
            members[f"cars_{split}/{name}"] = content
            notes[0, number] = (39, 116, 569, 375, np.uint8(classes.index(model) + 1), name)
        members[path] = mat(annotations=notes)
    write(files.downloads("stanford_cars"), members)


def _aircraft(monkeypatch: pytest.MonkeyPatch, server: Path, listed: Listed) -> None:
    base, members = "fgvc-aircraft-2013b/data", {}
    for part, (split, pictures) in enumerate(listed.items()):
        lines = ""
        for number, (variant, content) in enumerate(pictures):
            identity = f"{part + 1}{number:06d}"
            members[f"{base}/images/{identity}.jpg"] = content
            lines += f"{identity} {variant}\n"
        members[f"{base}/images_variant_{'trainval' if split == 'train' else 'test'}.txt"] = lines.encode()
    packed = served(server, "fgvc-aircraft-2013b.tar.gz", tar(members, "w:gz"))
    monkeypatch.setitem(photographs.URLS, "fgvc_aircraft", packed)


# ---- photographs of one class


def _unlabelled(monkeypatch: pytest.MonkeyPatch, name: str, squares: np.ndarray) -> Contents:
    monkeypatch.setitem(photographs.COUNTS, name, {"train": len(squares)})
    return {"train": (squares, np.zeros(len(squares), np.int64))}


def _publish_celeba(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    contents, squares = shots(counts["train"], (178, 218), "JPEG", 0)
    _serve_drive(monkeypatch, server, contents, {})
    return _unlabelled(monkeypatch, "celeba", squares)


def _serve_drive(
    monkeypatch: pytest.MonkeyPatch, server: Path, contents: Sequence[bytes], texts: dict[str, str]
) -> None:
    """torchvision leaves the fetching from that drive to gdown, which is not needed for anything else."""
    members = {f"img_align_celeba/{number:06d}.jpg": content for number, content in enumerate(contents, 1)}
    held = {"img_align_celeba.zip": zipped({"img_align_celeba/": b""} | members)}
    held |= {name: text.encode() for name, text in texts.items()}
    digests = {name: served(server, name, content)[1] for name, content in held.items()}
    listed = [(file, digests.get(file, digest), file) for _, digest, file in datasets.CelebA.file_list]
    monkeypatch.setattr(datasets.CelebA, "file_list", listed)
    drive = types.ModuleType("gdown")
    drive.download = lambda id, output, **_: shutil.copy(server / id, output)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gdown", drive)


def _publish_celeba_attributes(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """The faces of the splits lie in turn in the archive, as they do not in the published one."""
    counts = {"train": counts["train"], "valid": 5, "test": counts["test"]}
    parts = [part for part, count in counts.items() for _ in range(count)]
    np.random.default_rng(1).shuffle(parts)
    contents, squares = shots(len(parts), (178, 218), "JPEG", 0, shorter=73, side=64)
    signs = np.random.default_rng(2).choice([-1, 1], (len(parts), 40))
    names = [f"{number:06d}.jpg" for number in range(1, len(parts) + 1)]
    rows = "".join(f"{name} {' '.join(f'{sign:2d}' for sign in row)}\n" for name, row in zip(names, signs, strict=True))
    numbers = [list(counts).index(part) for part in parts]
    texts = {
        "list_attr_celeba.txt": f"{len(parts)}\n{' '.join(CELEBA_ATTRIBUTES)} \n{rows}",
        "list_eval_partition.txt": "".join(f"{n} {number}\n" for n, number in zip(names, numbers, strict=True)),
    }
    _serve_drive(monkeypatch, server, contents, texts)
    chosen = {part: np.array([own == part for own in parts]) for part in counts}
    return {part: (squares[mask], (signs[mask] + 1) // 2) for part, mask in chosen.items()}


def _publish_lsun_church(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
    name, count, half = "church_outdoor_train_lmdb", counts["train"], counts["train"] // 2
    jpeg, one = shots(half, (256, 200), "JPEG", 0)
    webp, two = shots(count - half, (200, 256), "WEBP", 1)
    keys = [hashlib.sha1(bytes([number])).hexdigest() for number in range(count)]
    with lmdb.open(str(server / name), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for key, content in zip(keys, jpeg + webp, strict=True):
            transaction.put(key.encode(), content)
    packed = zipped({f"{name}/{file.name}": file.read_bytes() for file in (server / name).iterdir()})
    url, _ = served(server, f"{name}.zip", packed)
    monkeypatch.setitem(photographs.URLS, "lsun_church", (url, hashlib.sha256(packed).hexdigest()))
    return _unlabelled(monkeypatch, "lsun_church", np.concatenate([one, two])[np.argsort(keys)])


# No program can fetch these: where they must be brought to, the size and form of the pictures, how they are named.
BROUGHT = {
    "ffhq": ("ffhq/thumbnails128x128", (128, 128), "PNG", "00000/{:05d}.png"),
    "cityscapes": ("cityscapes/leftImg8bit/train", (200, 100), "PNG", "zurich/zurich_{:06d}_000019_leftImg8bit.png"),
    "sunrgbd": ("SUNRGBD/SUNRGBD-train_images", (73, 53), "JPEG", "img-{:06d}.jpg"),
}


def _brought(name: str, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]) -> Contents:
    folder, size, form, named = BROUGHT[name]
    contents, squares = shots(counts["train"], size, form, 0)
    write(files.downloads(folder), {named.format(number): content for number, content in enumerate(contents)})
    return _unlabelled(monkeypatch, name, squares)


def _publish_voc2012(monkeypatch: pytest.MonkeyPatch, server: Path, counts: dict[str, int]) -> Contents:
    """The archive that torchvision fetches; of its photographs only some belong to the segmentation task."""
    contents, squares = shots(counts["train"] + 2, (37, 50), "JPEG", 0)
    base, names = "VOCdevkit/VOC2012", [f"2007_{number:06d}" for number in range(len(contents))]
    members = {f"{base}/JPEGImages/{name}.jpg": content for name, content in zip(names, contents, strict=True)}
    mask = encoded(Image.new("L", (37, 50)), "PNG")
    members |= {f"{base}/SegmentationClass/{name}.png": mask for name in names[:-2]}
    members[f"{base}/ImageSets/Segmentation/train.txt"] = ("\n".join(names[:-2]) + "\n").encode()
    url, digest = served(server, "VOCtrainval_11-May-2012.tar", tar(members))
    entry = voc.DATASET_YEAR_DICT["2012"] | {"url": url, "md5": digest}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", entry)
    return _unlabelled(monkeypatch, "voc2012", squares[:-2])


# ---- the benchmarks of zero-shot learning


@dataclass
class Benchmark:
    """What was written of one of Xian's benchmarks: numbers as they are read, from 0."""

    features: np.ndarray  # (N, 2048)
    squares: np.ndarray  # (N, 3, 64, 64)
    labels: np.ndarray
    original_att: np.ndarray  # (classes, m)
    parts: dict[str, dict[str, np.ndarray]]  # split -> part -> positions
    unseen: dict[str, list[int]]


def bring_benchmark(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, per_class: int = 5) -> Benchmark:
    """Put a tiny benchmark of Xian et al. where it must be brought, with its photographs, and REUSELIB_DATA there.

    Six classes, two of them unseen, other ones in either split. Images come in no order of their classes, and the parts
    in no order of the images.
    """
    (folder / "data").mkdir(exist_ok=True)
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    draw, classes = np.random.default_rng(len(name)), GBU_CLASSES[name]
    labels = draw.permutation(np.repeat(np.arange(6), per_class))
    count = 8
    original = np.round(draw.uniform(0, 100 if name in ("AWA2", "CUB") else 1, (6, count)), 4)
    original[1, 3] = -1 if name == "AWA2" else 0  # undefined
    features = draw.random((len(labels), 2048))
    listed, squares = _gbu_photographs(name, [classes[label] for label in labels])
    unseen = {"ps": [1, 4], "ss": [0, 5]}
    parts = {split: _gbu_parts(draw, labels, hidden, split) for split, hidden in unseen.items()}
    numbers = (np.uint16 if name == "SUN" else np.uint8)(labels + 1).reshape(-1, 1)
    members = {f"xlsa17/data/{name}/res101.mat": mat(features=features.T, image_files=cells(listed), labels=numbers)}
    for split, place in {"ps": "xlsa17/data", "ss": "standard_split"}.items():
        held = {f"{part}_loc": np.uint16(places + 1).reshape(-1, 1) for part, places in parts[split].items()}
        held |= {"allclasses_names": cells(classes), "original_att": original.T}
        members[f"{place}/{name}/att_splits.mat"] = mat(**held)
    write(files.downloads(), members)
    tested = (2 * per_class, 2 * per_class)
    tiny = replace(BENCHMARKS[name], images=len(labels), classes=6, unseen=2, attributes=count, tested=tested)
    monkeypatch.setitem(BENCHMARKS, name, tiny)
    return Benchmark(features, squares, labels, original, parts, unseen)


def _gbu_parts(draw: np.random.Generator, labels: np.ndarray, hidden: list[int], split: str) -> dict[str, np.ndarray]:
    """The standard split holds out no images of seen classes."""
    place = draw.permutation(len(labels))
    out = np.isin(labels[place], hidden)
    seen, count = place[~out], int(0.2 * (~out).sum())
    if split == "ss":
        return {"trainval": seen, "test_unseen": place[out]}
    return {"trainval": seen[count:], "test_seen": seen[:count], "test_unseen": place[out]}


def _gbu_photographs(name: str, classes: list[str]) -> tuple[list[str], np.ndarray]:
    """Write photographs; return how the photographs are listed, and what they are."""
    contents, squares = shots(len(classes), (90, 72), "JPEG", 7, shorter=73)
    listed = [
        f"{label[0]}/{label}/{label}_{10001 + number}.jpg" if name == "SUN" else f"{label}/x_{10001 + number}.jpg"
        for number, label in enumerate(classes)
    ]
    if folder := BENCHMARKS[name].folder:
        write(files.downloads(folder), dict(zip(listed, contents, strict=True)))
    prefix = {"AWA2": "/x/images/AwA2//JPEGImages/", "CUB": "/x/CUB_200_2011/images/", "SUN": "/x/SUN/images/"}
    return [prefix.get(name, "/x/") + file for file in listed], squares
