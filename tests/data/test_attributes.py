"""Sets for zero-shot learning: the split and its checks, digits and clothes, the published benchmarks."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from reuselib import data
from reuselib.data import ImageSet, ZeroShotSet, attributes, fetching
from reuselib.data.attributes import PARTS, human
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import DamagedFile, MissingFile, ReuseError, ShapeMismatch, UnknownName

gbu_files = import_module("reuselib.data.attributes.gbu")


def little(**changes: object) -> ZeroShotSet:
    """Forty images, ten of each of four classes in turn; the last class is unseen, the third is left aside."""
    labels = torch.arange(40) % 4
    place = torch.arange(40)
    pixels = place.byte().view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    features[:, 4] = 3.0
    parts = {
        "name": "little",
        "labels": labels,
        "attributes": torch.arange(12.0).view(4, 3) / 12,
        "seen": torch.tensor([0, 1]),
        "unseen": torch.tensor([3]),
        "train": place[(labels < 2) & (place < 30)],
        "test_seen": place[(labels < 2) & (place >= 30)],
        "test_unseen": place[labels == 3],
        "classes": tuple("abcd"),
        "attribute_names": ("x", "y", "z"),
        "features": features,
        "images": ImageSet("little", pixels, labels, tuple("abcd"), (0.5,), (0.5,)),
    }
    return ZeroShotSet(**(parts | changes))


# ---- the set


def test_parts_are_those_of_the_split() -> None:
    found = little()
    held = "40 features of 5 and images of (1, 2, 2), 2 seen and 1 unseen classes, 3 attributes, cpu"
    assert repr(found) == f"ZeroShotSet('little', {held})"
    for name in PARTS:
        features, labels = found.part(name)
        images = found.part_images(name)
        index = getattr(found, name)
        assert torch.equal(features, found.features[index]) and torch.equal(labels, found.labels[index])
        assert torch.equal(images.images[:, 0, 0, 0].long(), index) and torch.equal(images.labels, labels)
    assert set(found.part("train")[1].tolist()) == {0, 1} and set(found.part("test_unseen")[1].tolist()) == {3}


def test_standardised_by_training_images_alone() -> None:
    changed = little().features.clone()
    changed[little().test_unseen] = 100.0
    found, again = little().standardised(), little(features=changed).standardised()
    train, _ = found.part("train")
    assert torch.allclose(train[:, :4].mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(train[:, :4].std(0, correction=0), torch.ones(4), atol=1e-6)
    assert (found.features[:, 4] == 0).all(), "what never varies becomes 0, not NaN"
    assert torch.equal(again.part("train")[0], train)


def test_some_attributes_and_other_features_also_elsewhere() -> None:
    found = little().only([2, 0])
    assert found.attribute_names == ("z", "x") and torch.equal(found.attributes, little().attributes[:, [2, 0]])
    assert little().with_features(torch.zeros(40, 7)).part("train")[0].shape[1] == 7
    bare = little(features=None)
    with pytest.raises(ReuseError, match="little has images but no features.*with_features"):
        bare.standardised()
    with pytest.raises(ReuseError, match="little has features but no images"):
        little(images=None).part_images("train")
    for call in (bare.part, bare.part_images):
        with pytest.raises(UnknownName, match="part 'tain'. Did you mean 'train'"):
            call("tain")
    there = little().to("meta")
    assert there.device.type == "meta" and there.part("train")[0].shape == (16, 5) and there.images.images.is_meta
    assert there.standardised().features.is_meta


MISFITS = {
    "one row a class": {"attributes": torch.zeros(3, 4)},
    "attributes must be float": {"attributes": torch.zeros(4, 3).long()},
    "train must be int64 with one dimension": {"train": torch.zeros(2, 2).long()},
    "features must be .40, d.": {"features": torch.zeros(39, 2)},
    "40 labels need as many images": {"images": little().images.subset(slice(39))},
    "train is on meta": {"train": torch.zeros(2, device="meta").long()},
}
NO_SPLITS = {
    "seen of little must hold 0 to 3": {"seen": torch.tensor([0, 4])},
    "test_unseen of little must hold 0 to 39, not -1": {"test_unseen": torch.tensor([3, -1])},
    "train of little holds a number twice": {"train": torch.tensor([0, 0])},
    "unseen of little is empty": {"unseen": torch.zeros(0).long()},
    "seen and unseen of little have 1 in common": {"seen": torch.tensor([0, 1, 3])},
    "train and test_seen of little have 1 in common": {"test_seen": torch.tensor([0, 33])},
    "1 images in train of little are of classes that are not seen": {"train": torch.tensor([0, 1, 3])},
    "1 images in test_unseen of little are of classes that are not unseen": {"test_unseen": torch.tensor([3, 2])},
}


def test_parts_that_do_not_fit_and_what_is_no_split() -> None:
    for kind, cases in ((ShapeMismatch, MISFITS), (ReuseError, NO_SPLITS)):
        for message, changes in cases.items():
            with pytest.raises(kind, match=message):
                little(**changes)
    assert len(little(test_seen=torch.zeros(0).long()).test_seen) == 0


# ---- digits, clothes and photographs


def test_no_two_classes_are_described_alike() -> None:
    digits, clothes = human.DIGIT_ATTRIBUTES, human.FASHION_ATTRIBUTES
    assert [each.shape for each in (digits, clothes, human.CIFAR_ATTRIBUTES)] == [(10, 16), (10, 14), (10, 24)]
    for described in (digits, digits[:, : attributes.SEGMENTS], clothes, human.CIFAR_ATTRIBUTES):
        assert len(described.unique(dim=0)) == 10 and (described.sum(0) >= 1).all()
    assert tuple(human.FASHION_TRAITS) == data.load("fashion_mnist", "test").classes
    for traits, names in ((human.FASHION_TRAITS, human.FASHION_NAMES), (human.CIFAR_TRAITS, human.CIFAR_NAMES)):
        assert set().union(*traits.values()) == set(names)


def test_digits_are_split_without_overlap_and_their_features_are_standardised_pixels_and_relus() -> None:
    found = attributes.digits(4)
    assert len(found) == 1797 and found.images.shape == (1, 8, 8) and found.features.shape == (1797, 64 + 64)
    parts = torch.cat([found.train, found.test_seen, found.test_unseen])
    assert len(parts.unique()) == len(parts) == 1797
    assert len(found.test_unseen) == torch.isin(found.labels, found.unseen).sum()
    for part, split in (("train", "train"), ("test_seen", "test")):
        images = data.load("digits", split)
        kept = ~torch.isin(images.labels, found.unseen)
        assert torch.equal(found.part_images(part).images, images.images[kept])
    train, _ = found.part("train")
    spread = train[:, :64].std(0, correction=0)
    assert torch.allclose(spread[spread > 0], torch.ones(1), atol=1e-4) and train[:, :64].mean(0).abs().max() < 1e-5
    assert (found.features[:, 64:] >= 0).all() and (train[:, 64:] > 0).float().mean(0).min() > 0.01
    assert torch.equal(attributes.random_features(found.images.images, found.train), found.features)


def test_the_first_120_seeds_are_all_choices_of_three_classes() -> None:
    chosen = [tuple(attributes.unseen_places(seed).tolist()) for seed in range(121)]
    assert set(chosen) == set(combinations(range(10), 3)) and chosen[120] == chosen[0]
    assert len({place for three in chosen[:12] for place in three}) == 10


def test_photographs_of_cifar10_have_the_splits_of_the_digits() -> None:
    pixels, labels = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(10).repeat(2)
    part = ImageSet("x", pixels, labels, tuple(human.CIFAR_TRAITS), *IMAGENET_STATISTICS)
    features = torch.arange(40.0).unsqueeze(1)
    found = attributes.cifar10((part, part), features, 7)
    assert torch.equal(found.unseen, attributes.unseen_places(7)) and torch.equal(found.features, features)
    assert found.train.tolist() == [n for n in range(20) if n % 10 not in found.unseen]
    assert found.test_seen.tolist() == [n for n in range(20, 40) if n % 10 not in found.unseen]


def test_fashion_is_split_by_class_and_by_training_and_test_images() -> None:
    found = attributes.fashion(per_class=20)
    assert [found.classes[label] for label in found.unseen] == ["Dress", "Shirt", "Ankle boot"]
    assert (len(found.train), len(found.test_seen), len(found.test_unseen)) == (140, 140, 60)
    assert found.images.shape == (1, 16, 16) and found.features.shape == (340, 256 + 64)
    for unseen, message in (
        (("dress",), "class of Fashion-MNIST 'dress'. Did you mean 'Dress'"),
        ((), "0 of 10 classes cannot be unseen"),
    ):
        with pytest.raises(ReuseError, match=message):
            attributes.fashion(unseen, 2)


# ---- the published benchmarks

XLSA = "data/downloads/xlsa17/data/CUB"


@pytest.mark.parametrize(
    ("name", "split"), [("AWA2", "ps"), ("CUB", "ss"), ("SUN", "ps"), ("APY", "ps"), ("APY", "ss")]
)
def test_true_layout(name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = archives.bring_benchmark(name, monkeypatch, tmp_path)
    found = attributes.gbu(name, split)
    assert found.name == f"{name.lower()}_{split}" and found.features.is_contiguous()
    assert torch.equal(found.features, torch.from_numpy(written.features).float())
    assert found.labels.tolist() == written.labels.tolist() and found.classes == archives.GBU_CLASSES[name]
    assert torch.equal(found.attributes, torch.from_numpy(written.original_att).float())
    assert torch.equal(attributes.gbu_attributes(name), found.attributes)
    assert found.attribute_names[7] == "attribute 8" and found.unseen.tolist() == written.unseen[split]
    assert found.seen.tolist() == [label for label in range(6) if label not in written.unseen[split]]
    for part, place in {"train": "trainval", "test_seen": "test_seen", "test_unseen": "test_unseen"}.items():
        expected = written.parts[split].get(place, np.zeros(0, int))
        assert getattr(found, part).tolist() == expected.tolist(), part
    assert len(found.test_seen) == (4 if split == "ps" else 0)
    if name == "APY":
        return
    pictures = attributes.gbu_images(name, split, size=64)
    assert torch.equal(pictures.images.images, torch.from_numpy(written.squares)) and pictures.features is None
    assert torch.equal(pictures.images.labels, found.labels)
    assert (pictures.images.mean, pictures.images.std) == IMAGENET_STATISTICS
    assert all(torch.equal(getattr(pictures, part), getattr(found, part)) for part in PARTS)


def test_missing_files_and_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.bring_benchmark("CUB", monkeypatch, tmp_path)
    fix = r"Fix: run .*fetch_gbu\('CUB', 'ss'\)\", or bring xlsa17\.zip and standard_split.zip of .* to .*downloads"
    for file in ("data/downloads/standard_split/CUB/att_splits.mat", f"{XLSA}/att_splits.mat", f"{XLSA}/res101.mat"):
        path = tmp_path / file
        path.unlink()
        with pytest.raises(MissingFile, match=f"{re.escape(str(path))} is missing. {fix}"):
            attributes.gbu("CUB", "ss")
    with pytest.raises(UnknownName, match="unknown benchmark 'AWA'. Did you mean 'AWA"):
        attributes.gbu("AWA")
    with pytest.raises(UnknownName, match="unknown split 'sp'"):
        attributes.gbu("CUB", "sp")
    with pytest.raises(UnknownName, match="benchmark with photographs 'APY'.*Known: AWA2, CUB, SUN"):
        attributes.gbu_images("APY")


def change(path: Path, **variables: np.ndarray | None) -> None:
    """Write a MATLAB file again with other variables; one that is None is left out."""
    held = {name: value for name, value in loadmat(path).items() if not name.startswith("__")} | variables
    savemat(path, {name: value for name, value in held.items() if value is not None})


DAMAGES = {
    "it holds no features": ("res101.mat", {"features": None}),
    r"features must be \(2048, 30\), not \(30, 2048\)": ("res101.mat", {"features": np.zeros((30, 2048))}),
    "features must be finite": ("res101.mat", {"features": np.full((2048, 30), np.nan)}),
    "expected 30 images, found 29": ("res101.mat", {"labels": np.ones((29, 1))}),
    "labels must be 1 to 6, not 0 to 1": ("res101.mat", {"labels": np.repeat([[0], [1]], 15, 0)}),
    r"original_att must be \(8, 6\), not \(6, 8\)": ("att_splits.mat", {"original_att": np.zeros((6, 8))}),
    "expected 2 unseen classes, found": ("att_splits.mat", {"test_unseen_loc": np.arange(1, 31)}),
    "expected 30 images in its parts, found 14": ("att_splits.mat", {"trainval_loc": np.zeros((0, 1))}),
}


def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = archives.bring_benchmark("CUB", monkeypatch, tmp_path)
    parts = written.parts["ps"]
    train = np.concatenate([parts["test_seen"][:1], parts["trainval"][1:]])
    mixed = {"train and test_seen of cub_ps have 1 in common": ("att_splits.mat", {"trainval_loc": train[:, None] + 1})}
    for message, (file, variables) in (DAMAGES | mixed).items():
        path = tmp_path / XLSA / file
        whole = path.read_bytes()
        change(path, **variables)
        with pytest.raises(DamagedFile, match=rf"{file} is damaged: {message}.*Fix: run .*, or bring xlsa17\.zip"):
            attributes.gbu("CUB")
        path.write_bytes(whole)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server in the place of the benchmarks' own."""
    with archives.serving(tmp_path / "server", monkeypatch) as address:
        monkeypatch.setattr(gbu_files, "ADDRESS", address)
        yield


def packed(folder: Path, top: str, changed: bytes = b"") -> bytes:
    """A folder of the downloads as the archive that it came from, and no longer there; with one more file."""
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / top).rglob("*.mat")}
    shutil.rmtree(folder / top)
    return archives.zipped(members | {"README.txt": changed})


def test_a_benchmark_is_fetched_and_compared_with_its_first_fetch(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives.bring_benchmark("CUB", monkeypatch, tmp_path)
    expected, folder = attributes.gbu("CUB").features, tmp_path / "data/downloads"
    (folder / "standard_split/CUB/att_splits.mat").unlink()
    whole, there = packed(folder, "xlsa17"), archives.Server.folder / "xlsa17.zip"
    for mood, sent, message in (
        ("page", whole, "xlsa17.zip is damaged: it was cut off, or is a page .*Fix: delete .*xlsa17.zip"),
        ("busy", whole, "xlsa17.zip could not be fetched .*503.*Fix: .*fetch_gbu"),
        ("cut", whole, "xlsa17.zip could not be fetched .*Fix: .*fetch_gbu"),
        ("well", whole[:-500], "xlsa17.zip is damaged: it was cut off"),
    ):
        monkeypatch.setattr(archives.Server, "mood", mood)
        there.write_bytes(sent)
        with pytest.raises(ReuseError, match=message):
            attributes.fetch_gbu("CUB")
        assert not (folder / "xlsa17/data/CUB/res101.mat").exists()
        (folder / "xlsa17.zip").unlink(missing_ok=True)
    there.write_bytes(whole)
    fetching.fetch("cub")
    said, kept = capsys.readouterr().out, (folder / gbu_files.KEPT).read_text()
    assert torch.equal(attributes.gbu("CUB").features, expected) and fetching.at_hand("cub")
    assert hashlib.sha256(whole).hexdigest() in kept and "no hash is published" in said and kept.count("\n") == 3
    (folder / "xlsa17/data/CUB/res101.mat").write_bytes(b"altered")
    with pytest.raises(DamagedFile, match=r"res101\.mat is damaged: expected sha256"):
        attributes.gbu("CUB")
    for path in (folder / "xlsa17/data/CUB/res101.mat", folder / "xlsa17.zip"):
        path.unlink()
    attributes.fetch_gbu("CUB")
    assert (folder / gbu_files.KEPT).read_text() == kept
    (folder / "xlsa17.zip").unlink()
    there.write_bytes(packed(folder, "xlsa17", b"another edition"))
    with pytest.raises(DamagedFile, match=r"xlsa17\.zip is damaged: expected sha256 .*Fix: delete"):
        attributes.fetch_gbu("CUB")


def test_photographs_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.bring_benchmark("SUN", monkeypatch, tmp_path)
    photograph = sorted((tmp_path / "data/downloads/SUN/images").rglob("*.jpg"))[4]
    photograph.unlink()
    with pytest.raises(MissingFile, match=f"{photograph.name} is missing. Fix: bring SUNAttributeDB_Images.tar.gz"):
        attributes.gbu_images("SUN", size=8)
    path = tmp_path / "data/downloads/xlsa17/data/SUN/res101.mat"
    listed = loadmat(path)["image_files"]
    change(path, image_files=listed[:-1])
    with pytest.raises(DamagedFile, match="expected 30 names of photographs, found 29"):
        attributes.gbu_images("SUN")
    listed[0, 0] = np.array(["elsewhere.jpg"])
    change(path, image_files=listed)
    with pytest.raises(DamagedFile, match="'elsewhere.jpg' is none of its photographs"):
        attributes.gbu_images("SUN")
