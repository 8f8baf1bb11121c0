"""The zoo: cards, hashes, loading, training, and pieces that studies make."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from urllib.error import URLError

import players
import pytest
import safetensors.torch
import torch
from torchvision import models as torchvision

from reuselib import data, home, nets, run
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import BadValue, DamagedFile, MissingFile, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised, segmentation_scores
from reuselib.nets.zoo import RECIPES, Piece, Published, Recipe

SHIPPED = sorted({path.split("/")[1] for path in home.registry() if path.count("/") == 2 and "zoo/" in path})
CARD = {"name", "parameters", "architecture", "arguments", "dataset", "size", "image", "mean", "std", "classes"}
CARD |= {"test_accuracy", "recipe", "seconds", "versions", "sha256"}
TINY = Recipe("digits", None, "conv3", {"width": 2, "batch_norm": True}, 9, 2, options={"batch": 8, "flip": True})


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data room of this test, and a recipe for it."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    return tmp_path


def segments(name: str) -> bool:
    """Whether a network decides for every pixel."""
    return RECIPES[name].dataset in data.segmentation.SETS


def train_tiny() -> Path:
    zoo.train("tiny", progress=False, report_every=2, save_every=0)
    return Piece("tiny").folder


def log_of(name: str) -> list[dict[str, str]]:
    with open(Piece(name).folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- the book's networks ----------------------------------------------------------------------------------------------


FETCHED = {"mnist32-lenet5": "MNIST"} | dict.fromkeys(
    ("cifar10-jpeg-resnet20", "cifar10-jpeg-resnet56"), "CIFAR10-JPEG"
)
"""Networks whose images do not come with the repository, and the folder in which those would lie."""


def test_cards_logs_recipes_networks_and_images_agree() -> None:
    assert len(SHIPPED) >= 11 and {*SHIPPED, *RECIPES} <= {*zoo.names()}
    before = torch.get_rng_state()
    for name in SHIPPED:
        card, recipe = zoo.card(name), RECIPES[name]
        assert set(card) >= CARD and card["name"] == name
        assert json.dumps(asdict(Recipe(**card["recipe"]))) == json.dumps(asdict(recipe))
        assert home.sha256(Piece(name).folder / "weights.safetensors") == card["sha256"]
        network = zoo.load(name, "cpu")
        head = network.head
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        assert network.card == card and nets.parameter_count(network) == card["parameters"]
        assert (head.out_channels if segments(name) else head.out_features) == len(card["classes"])
        lines = log_of(name)
        assert list(lines[0]) == ["iteration", "loss", "test_accuracy", *["test_mean_iou"][: segments(name)]]
        assert int(lines[-1]["iteration"]) == recipe.iterations
        assert float(lines[-1]["test_accuracy"]) == pytest.approx(card["test_accuracy"], abs=1e-4)
        if name in FETCHED and not data.files.downloads(FETCHED[name]).is_dir():
            continue
        images = zoo.images(name, "test", "cpu")
        assert list(images.shape) == card["image"] and list(images.classes) == card["classes"]
        assert (list(images.mean), list(images.std)) == (card["mean"], card["std"])
        few = images.take(min(1000, len(images)), seed=0)
        score = run.accuracy if not segments(name) else lambda *both: segmentation_scores(*both)["pixel_accuracy"]
        assert score(network, few) == pytest.approx(card["test_accuracy"], abs=0.035), name
    assert torch.equal(torch.get_rng_state(), before)


def test_every_recipe_builds_its_network() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.dataset in (data.segmentation.SETS if segments(name) else data.SETS)
        network, side = zoo.load(name, "meta"), recipe.size or 32
        assert network(torch.randn(2, network.channels, side, side, device="meta")).shape[0] == 2
        if isinstance(recipe, Recipe):
            assert recipe.decays is None or all(0 < update < recipe.iterations for update in recipe.decays)
            assert zoo.images(name, "train", "meta").shape[0] == network.channels


@pytest.mark.parametrize(
    ("name", "images", "epochs", "decays"),
    [
        ("cifar10-wrn40-2", 50_000, 200, (120, 150, 180)),
        ("tiny-imagenet-resnet34", 100_000, 200, (120, 150, 180)),
        ("cifar10-vgg16", 50_000, 200, None),
        ("cifar10-vgg16-short", 50_000, 30, None),
        ("camvid-deeplabv3", 367, 200, (100,)),
        ("nyuv2-deeplabv3", 795, 200, (100,)),
    ],
)
def test_the_papers_teachers_learn_as_long_as_in_the_papers(name: str, images: int, epochs: int, decays: tuple) -> None:
    recipe = RECIPES[name]
    updates = math.ceil(images / recipe.options["batch"]) if "deeplab" in name else images // recipe.options["batch"]
    assert recipe.iterations == epochs * updates and recipe.options["weight_decay"] == 5e-4
    assert recipe.decays == (decays and tuple(epoch * updates for epoch in decays))


# --- what is not as it should be --------------------------------------------------------------------------------------


def test_unknown_and_missing_networks_say_what_to_do(room: Path) -> None:
    for function in (zoo.load, zoo.card, zoo.verify, zoo.train):
        with pytest.raises(UnknownName, match="'fashion16-conv'. Did you mean 'fashion16-conv3'"):
            function("fashion16-conv")
    for function in (partial(zoo.load, device="meta"), partial(zoo.images, split="test", device="meta")):
        with pytest.raises(UnknownName, match="Did you mean 'fashion16-conv3'"):
            function("fashion16-conv")
    for name in ("", "../../evil", "/evil"):
        with pytest.raises(BadValue, match="cannot be the name of a piece"):
            Piece(name)
    with pytest.raises(ShapeMismatch, match="digits8-conv3 is of another architecture"):
        Piece("digits8-conv3").load(nets.conv3(3))
    for function in (zoo.load, zoo.card, zoo.verify):
        with pytest.raises(MissingFile, match=r"tiny.card\.json is missing. Fix: reuselib zoo train tiny"):
            function("tiny")
    (train_tiny() / "weights.safetensors").unlink()
    for function in (zoo.load, zoo.verify):
        with pytest.raises(MissingFile, match=r"weights\.safetensors is missing. Fix: reuselib zoo train tiny"):
            function("tiny")
    with pytest.raises(ReuseError, match=r"digits8-conv3 comes with the book.*load the one that is there"):
        zoo.train("digits8-conv3")


def test_one_flipped_bit_is_refused(room: Path) -> None:
    assert zoo.verify("digits8-conv3") == home.CLONE / "data/zoo/digits8-conv3/weights.safetensors"
    shutil.copytree(home.CLONE / "data/zoo/digits8-conv3", room / "zoo/digits8-conv3")
    shipped = [room / "zoo/digits8-conv3" / file for file in ("weights.safetensors", "card.json")]
    own = [train_tiny() / file for file in ("weights.safetensors", "card.json", "log.csv")]
    for file in (*shipped, *own):
        expected, original, name = home.sha256(file), file.read_bytes(), file.parent.name
        for position in random.Random(0).sample(range(8 * len(original)), 60):
            content = bytearray(original)
            content[position // 8] ^= 1 << position % 8
            file.write_bytes(content)
            with pytest.raises(DamagedFile) as caught:
                zoo.load(name, "cpu")
            parts = (str(file), *([] if file == own[1] else [expected, home.sha256(file)]))
            assert all(part in str(caught.value) for part in parts)
        file.write_bytes(original)
        zoo.load(name, "cpu")


def test_what_was_cut_off_is_refused(room: Path) -> None:
    for file, words in (("weights.safetensors", "expected sha256"), ("card.json", "not valid JSON")):
        path = train_tiny() / file
        whole = path.read_bytes()
        for share in (0, 0.5, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(DamagedFile, match=f"{words}.*Fix: delete .*tiny, then reuselib zoo train tiny"):
                zoo.load("tiny", "cpu")


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(room: Path) -> None:
    network, piece = nets.conv3(2), Piece("broken")
    torch.nn.init.constant_(network.head.bias, math.nan)
    with pytest.raises(NonFinite, match="head.bias of broken holds NaN"):
        piece.save(network, recipe={})
    assert not piece.has()
    piece.save(nets.conv3(2), recipe={})
    weights = piece.folder / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), weights)
    card = piece.card() | {"sha256": home.sha256(weights)}
    (piece.folder / "card.json").write_bytes(zoo._sealed(card))
    with pytest.raises(NonFinite, match=r"head.bias of broken holds NaN.*delete .*zoo train broken"):
        piece.load(nets.conv3(2))


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_writes_card_log_and_weights(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry is none of our business"))
    assert sorted(path.name for path in train_tiny().iterdir()) == ["card.json", "log.csv", "weights.safetensors"]
    card, log, network = zoo.card("tiny"), log_of("tiny"), zoo.load("tiny", "cpu")
    assert set(card) >= CARD and card["recipe"]["iterations"] == 9 and "tiny" in zoo.names()
    assert run.accuracy(network, zoo.images("tiny", "test", "cpu")) == pytest.approx(card["test_accuracy"], abs=1e-3)
    assert list(log[0]) == ["iteration", "loss", "test_accuracy"] and log[-1]["iteration"] == "9"


def test_interrupted_training_goes_on_to_the_same_bits(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (train_tiny() / "weights.safetensors").read_bytes()
    shutil.rmtree(Piece("tiny").folder)
    exploding, step = players.rigged(Supervised.step, at=5), Supervised.step
    monkeypatch.setattr(Supervised, "step", lambda self: exploding(self))
    with pytest.raises(players.Explosion):
        train_tiny()
    monkeypatch.setattr(Supervised, "step", step)
    assert [path.name for path in Piece("tiny").folder.iterdir()] == ["training.pt"] and not Piece("tiny").has()
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, warmup=3))
    with pytest.raises(ReuseError, match=r"training.pt was made with other settings"):
        train_tiny()
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    assert (train_tiny() / "weights.safetensors").read_bytes() == whole


def quarters(split: str) -> data.SegmentationSet:
    """Grey images of two tones and their masks; the split decides the seed."""
    with run.seeded(len(split)):
        masks = torch.randint(2, (30, 2, 2)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        pixels = torch.randint(60, (30, 1, 8, 8)) + 150 * masks.unsqueeze(1)
    return data.segmentation.from_masks("quarters", pixels.byte(), masks, ("dark", "bright"), (0.3,), (0.3,))


@pytest.fixture
def tiny_segmenter(room: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    recipe = Recipe("quarters", None, "small_segmenter", {"width": 4}, 100, options={"batch": 16, "flip": True})
    monkeypatch.setitem(RECIPES, "tiny-segmenter", recipe)
    monkeypatch.setitem(data.segmentation.SETS, "quarters", quarters)
    return "tiny-segmenter"


def test_a_segmentation_network_is_trained_and_loaded(tiny_segmenter: str) -> None:
    facts, log = zoo.train(tiny_segmenter, progress=False), log_of(tiny_segmenter)
    assert facts == zoo.card(tiny_segmenter) and set(facts) >= CARD
    assert facts["image"] == [1, 8, 8] and facts["classes"] == ["dark", "bright"]
    network, images = zoo.load(tiny_segmenter, "cpu"), zoo.images(tiny_segmenter, "test", "cpu")
    assert not network.training and torch.equal(images.masks, quarters("test").masks)
    scores = segmentation_scores(network, images)
    assert scores["pixel_accuracy"] == pytest.approx(facts["test_accuracy"], abs=1e-4) and scores["mean_iou"] > 0.55
    for found in (facts["test_mean_iou"], float(log[-1]["test_mean_iou"])):
        assert scores["mean_iou"] == pytest.approx(found, abs=1e-4)


def test_a_seed_decides_a_network_with_dropout(tiny_segmenter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_dropout(**arguments: object) -> torch.nn.Module:
        network = nets.small_segmenter(**arguments)
        network.decoder.append(torch.nn.Dropout(0.5))
        return network

    monkeypatch.setitem(nets.MODELS, "small_segmenter", with_dropout)
    hashes = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # the global state must not matter, nor change
        before = torch.get_rng_state()
        hashes.append(zoo.train(tiny_segmenter, progress=False)["sha256"])
        assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1]


# --- torchvision's networks -------------------------------------------------------------------------------------------


def serve(state: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's downloads give this state."""
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, *_, **__: torch.save(state, path))


def test_a_deeplab_teacher_starts_from_imagenet(tiny_segmenter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_colour(split: str) -> data.SegmentationSet:
        few = quarters(split).subset(slice(2))
        return replace(few, images=few.images.with_channels(3))

    published = torchvision.resnet50()
    serve(published.state_dict(), monkeypatch)
    monkeypatch.setitem(data.segmentation.SETS, "quarters", in_colour)
    recipe = replace(RECIPES["camvid-deeplabv3"], dataset="quarters", iterations=1, options={"batch": 2, "lr": 0.0})
    monkeypatch.setitem(RECIPES, tiny_segmenter, recipe)
    zoo.train(tiny_segmenter, progress=False)
    encoder = zoo.load(tiny_segmenter, "cpu").encoder
    assert torch.equal(encoder.conv1.weight, published.conv1.weight)
    assert torch.equal(encoder.layer4[2].conv3.weight, published.layer4[2].conv3.weight)


@pytest.fixture
def resnet18(room: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A recipe of torchvision's ResNet-18, whose download gives random weights."""
    network = torchvision.resnet18().eval()
    # As in the files of the first years, without the counters of the batch norms, and in an order of their own.
    serve({key: v for key, v in reversed(network.state_dict().items()) if "num_batches" not in key}, monkeypatch)
    recipe = Published("imagenet", None, "resnet18_imagenet", {}, "resnet18", "IMAGENET1K_V1")
    monkeypatch.setitem(RECIPES, "imagenet-resnet18", recipe)
    return network


def test_published_weights_are_converted(resnet18: torch.nn.Module) -> None:
    name, before = "imagenet-resnet18", torch.get_rng_state()
    facts = zoo.train(name, progress=False)
    assert torch.equal(torch.get_rng_state(), before) and facts == zoo.card(name) and set(facts) >= CARD
    assert sorted(path.name for path in Piece(name).folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert facts["test_accuracy"] == 0.6976 and facts["image"] == [3, 224, 224] and facts["classes"][0] == "tench"
    assert facts["recipe"]["weights"] == "IMAGENET1K_V1" and facts["origin"].startswith("https://download.pytorch.org/")
    assert (tuple(facts["mean"]), tuple(facts["std"])) == IMAGENET_STATISTICS
    network, images = zoo.load(name, "cpu"), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images), resnet18(images))


class Intruder:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("it was unpickled",)


def test_published_weights_that_cannot_be_had(
    resnet18: torch.nn.Module, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unconnected(*_: object, **__: object) -> None:
        raise URLError("no network")

    train = partial(zoo.train, "imagenet-resnet18", progress=False)
    serve({"conv1.weight": Intruder()}, monkeypatch)
    with pytest.raises(ReuseError, match=r"resnet18-f37072fd\.pth could not be fetched.*bring the file"):
        train()
    path = room / "downloads/torchvision/resnet18-f37072fd.pth"
    path.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", unconnected)
    with pytest.raises(ReuseError, match=r"could not be fetched.*no network.*Connect to the network"):
        train()
    path.write_bytes(b"something else")
    with pytest.raises(DamagedFile, match=r"f37072fd\.pth is damaged: expected sha256 f37072fd.*delete it"):
        train()
    assert not Piece("imagenet-resnet18").folder.exists()


# --- pieces that studies make -----------------------------------------------------------------------------------------

LOSSES = {"losses": torch.arange(6.0).reshape(2, 3)}


def test_a_study_keeps_networks_and_tables(room: Path) -> None:
    piece, recipe = Piece("study-0/depth", fix="reuselib run study"), {"updates": 5, "widths": (1, 2)}
    with pytest.raises(MissingFile, match=r"card\.json is missing. Fix: reuselib run study"):
        piece.card()
    network = nets.conv3(width=2)
    card = piece.save(network, run.History([{"iteration": 5, "loss": 0.1234567}]), recipe=recipe, passed=True)
    assert piece.has() and piece.card() == card and card["name"] == "study-0/depth" and card["passed"] is True
    assert card["recipe"] == {"updates": 5, "widths": [1, 2]} and card["parameters"] == nets.parameter_count(network)
    assert log_of("study-0/depth") == [{"iteration": "5", "loss": "0.12346"}]
    loaded = piece.load(nets.conv3(width=2), recipe)
    assert not list(players.differences(players.state(loaded), players.state(network))) and loaded.card == card
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ReuseError, match="another recipe. Delete it, then reuselib run study"):
        piece.load(network, recipe | {"updates": 6})
    with pytest.raises(ReuseError, match="made by a study"):
        zoo.load("study-0/depth")
    table = Piece("study-0/transfers")
    table.save(LOSSES, recipe=recipe)
    assert torch.equal(table.tensors(recipe)["losses"], LOSSES["losses"]) and zoo.verify(table.name)
    passing = Piece("passing/table", kept=False)  # for this process alone
    passing.save(LOSSES, recipe={})
    assert passing.has() and passing.tensors() and not list(room.glob("zoo/passing"))


def test_pieces_of_the_clone_serve_other_data_rooms(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece, clone = Piece("study-0/depth"), room / "clone"
    piece.save(nets.conv3(width=2), recipe={})
    there = clone / "data/zoo/study-0/depth"
    shutil.move(piece.folder, there)
    assert not piece.has()
    listed = {f"zoo/study-0/depth/{file.name}": home.sha256(file) for file in there.iterdir()}
    monkeypatch.setattr(home, "registry", lambda: listed)
    monkeypatch.setattr(home, "CLONE", clone)
    monkeypatch.setattr(home, "in_clone", lambda: True)
    assert piece.has() and piece.tensors()
    (there / "card.json").write_text("{}")
    with pytest.raises(DamagedFile, match="git checkout"):
        piece.card()
