"""The zoo: cards, hashes, loading, training, and pieces that studies make.

Flipped bits of shipped cards and weights are tried with all other files, in `report/test_damage`.
"""

from __future__ import annotations

import csv
import json
import math
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
from zeroshot_toys import assert_refused

from reuselib import data, home, nets, run
from reuselib.data.image_set import IMAGENET_STATISTICS, one_class
from reuselib.errors import BadValue, DamagedFile, MissingFile, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised, segmentation_scores
from reuselib.nets.zoo import RECIPES, Piece, Published, Recipe

SHIPPED = sorted({path.split("/")[1] for path in home.registry() if path.count("/") == 2 and "zoo/" in path})
CARD = {"name", "parameters", "architecture", "arguments", "dataset", "size", "image", "mean", "std", "classes"}
CARD |= {"test_accuracy", "recipe", "seconds", "versions", "sha256"}
TINY = Recipe("digits", None, "conv3", {"width": 2, "batch_norm": True}, 9, 2, options={"batch": 8, "flip": True})
SEGMENTER = Recipe("quarters", None, "small_segmenter", {"width": 4}, 10, options={"batch": 16, "flip": True})
RESNET18 = Published("imagenet", None, "resnet18_imagenet", {}, "resnet18", "IMAGENET1K_V1")


def quarters(split: str) -> data.SegmentationSet:
    """Grey images of two tones and their masks; the split decides the seed."""
    with run.seeded(len(split)):
        masks = torch.randint(2, (30, 2, 2)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        pixels = torch.randint(60, (30, 1, 8, 8)) + 150 * masks.unsqueeze(1)
    images = one_class("quarters", pixels.byte(), "image", ((0.3,), (0.3,)))
    return data.SegmentationSet(images, masks, ("dark", "bright"))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data room of this test, and recipes for it."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    for name, recipe in {"tiny": TINY, "segmenter": SEGMENTER, "resnet18": RESNET18}.items():
        monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setitem(data.segmentation.SETS, "quarters", quarters)
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
        few = images.take(min(500, len(images)), seed=0)
        score = run.accuracy if not segments(name) else lambda *both: segmentation_scores(*both)["pixel_accuracy"]
        assert score(network, few) == pytest.approx(card["test_accuracy"], abs=0.035), name
    assert torch.equal(torch.get_rng_state(), before)


LEARNED = {"cifar10-wrn40-2": (50_000, 200, (120, 150, 180)), "camvid-deeplabv3": (367, 200, (100,))}
"""Images, epochs, and the epochs at which the rate falls."""


def test_every_recipe_builds_its_network_and_the_papers_teachers_learn_as_long_as_in_the_papers() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.dataset in (data.segmentation.SETS if segments(name) else data.SETS)
        network, side = zoo.load(name, "meta"), recipe.size or 32
        assert network(torch.randn(2, network.channels, side, side, device="meta")).shape[0] == 2
        if isinstance(recipe, Recipe):
            assert recipe.decays is None or all(0 < update < recipe.iterations for update in recipe.decays)
            assert zoo.images(name, "train", "meta").shape[0] == network.channels
    for name, (images, epochs, decays) in LEARNED.items():
        recipe = RECIPES[name]
        share = images / recipe.options["batch"]
        updates = math.ceil(share) if segments(name) else math.floor(share)
        assert recipe.iterations == epochs * updates and recipe.options["weight_decay"] == 5e-4
        assert recipe.decays == (decays and tuple(epoch * updates for epoch in decays))


# --- what is not as it should be --------------------------------------------------------------------------------------


def test_unknown_and_missing_networks_say_what_to_do(room: Path) -> None:
    elsewhere = partial(zoo.load, device="meta"), partial(zoo.images, split="test", device="meta")
    asked = (zoo.load, zoo.card, zoo.verify, zoo.train, *elsewhere)
    known, piece = "'fashion16-conv'. Did you mean 'fashion16-conv3'", Piece("digits8-conv3")
    assert_refused(
        *((UnknownName, known, partial(function, "fashion16-conv")) for function in asked),
        *((BadValue, "cannot be the name of a piece", partial(Piece, name)) for name in ("", "../../evil", "/evil")),
        (ShapeMismatch, "digits8-conv3 is of another architecture", partial(piece.load, nets.conv3(3))),
        (ReuseError, "digits8-conv3 comes with the book.*load the one", partial(zoo.train, "digits8-conv3")),
    )
    for file in ("card.json", "weights.safetensors"):
        missing = f"{file} is missing. Fix: reuselib zoo train tiny"
        assert_refused(*((MissingFile, missing, partial(function, "tiny")) for function in (zoo.load, zoo.verify)))
        (train_tiny() / "weights.safetensors").unlink()


def test_what_was_altered_or_cut_off_is_refused(room: Path) -> None:
    words = {"weights.safetensors": "expected sha256", "card.json": "digest is not|not valid JSON", "log.csv": ""}
    for file, reason in words.items():
        path = train_tiny() / file
        whole = path.read_bytes()
        flipped = [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in range(9, len(whole), 97)]
        for content in (*flipped, whole[: len(whole) // 2], b""):
            path.write_bytes(content)
            with pytest.raises(DamagedFile, match=f"{file} is damaged: .*({reason}).*Fix: delete .*zoo train tiny"):
                zoo.load("tiny", "cpu")
        path.write_bytes(whole)
        zoo.load("tiny", "cpu")


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(room: Path) -> None:
    network, piece = nets.conv3(2), Piece("broken")
    piece.save(network, recipe={})
    torch.nn.init.constant_(network.head.bias, math.nan)
    weights = piece.folder / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), weights)
    (piece.folder / "card.json").write_bytes(zoo._sealed(piece.card() | {"sha256": home.sha256(weights)}))
    with pytest.raises(NonFinite, match=r"head.bias of broken holds NaN.*delete .*zoo train broken"):
        piece.load(nets.conv3(2))
    with pytest.raises(NonFinite, match="head.bias of other holds NaN"):
        Piece("other").save(network, recipe={})
    assert not Piece("other").has()


# --- training ---------------------------------------------------------------------------------------------------------


def test_interrupted_training_goes_on_to_the_same_bits(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry is none of our business"))
    assert sorted(path.name for path in train_tiny().iterdir()) == ["card.json", "log.csv", "weights.safetensors"]
    card, log, network = zoo.card("tiny"), log_of("tiny"), zoo.load("tiny", "cpu")
    assert set(card) >= CARD and card["recipe"]["iterations"] == 9 and "tiny" in zoo.names()
    assert run.accuracy(network, zoo.images("tiny", "test", "cpu")) == pytest.approx(card["test_accuracy"], abs=1e-3)
    assert list(log[0]) == ["iteration", "loss", "test_accuracy"] and log[-1]["iteration"] == "9"
    shutil.rmtree(Piece("tiny").folder)
    exploding = players.rigged(Supervised.step, at=5)
    with monkeypatch.context() as patched, pytest.raises(players.Explosion):
        patched.setattr(Supervised, "step", lambda self: exploding(self))
        train_tiny()
    assert [path.name for path in Piece("tiny").folder.iterdir()] == ["training.pt"] and not Piece("tiny").has()
    with monkeypatch.context() as patched, pytest.raises(ReuseError, match=r"training.pt was made with other settings"):
        patched.setitem(RECIPES, "tiny", replace(TINY, warmup=3))
        train_tiny()
    train_tiny()
    assert zoo.card("tiny")["sha256"] == card["sha256"]


def test_a_segmentation_network_is_trained_as_its_seed_decides_also_with_dropout(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_dropout(**arguments: object) -> torch.nn.Module:
        network = nets.small_segmenter(**arguments)
        network.decoder.append(torch.nn.Dropout(0.5))
        return network

    monkeypatch.setitem(nets.MODELS, "small_segmenter", with_dropout)
    hashes = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # the global state must not matter, nor change
        before = torch.get_rng_state()
        hashes.append((facts := zoo.train("segmenter", progress=False))["sha256"])
        assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1] and facts == zoo.card("segmenter") and set(facts) >= CARD
    assert facts["image"] == [1, 8, 8] and facts["classes"] == ["dark", "bright"]
    network, images = zoo.load("segmenter", "cpu"), zoo.images("segmenter", "test", "cpu")
    assert not network.training and torch.equal(images.masks, quarters("test").masks)
    scores, logged = segmentation_scores(network, images), float(log_of("segmenter")[-1]["test_mean_iou"])
    assert scores["pixel_accuracy"] == pytest.approx(facts["test_accuracy"], abs=1e-4)
    assert scores["mean_iou"] == pytest.approx(facts["test_mean_iou"], abs=1e-4) == pytest.approx(logged, abs=2e-4)


# --- torchvision's networks -------------------------------------------------------------------------------------------


def test_a_segmentation_network_starts_from_published_weights(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = nets.small_segmenter(4, classes=2, channels=1).encoder.state_dict()
    monkeypatch.setattr(nets.pretrained, "torchvision_weights", lambda source, **_: {"resnet50": published}[source])
    recipe = replace(SEGMENTER, iterations=1, options={"batch": 2, "lr": 0.0}, encoder="resnet50")
    monkeypatch.setitem(RECIPES, "segmenter", recipe)
    zoo.train("segmenter", progress=False)
    assert torch.equal(zoo.load("segmenter", "cpu").encoder[0].weight, published["0.weight"])


def serve(state: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's downloads give this state."""
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, *_, **__: torch.save(state, path))


def test_published_weights_are_converted(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torchvision.resnet18().eval()
    # As in the files of the first years, without the counters of the batch norms, and in an order of their own.
    old = {key: value for key, value in reversed(original.state_dict().items()) if "num_batches" not in key}
    serve(old, monkeypatch)
    before = torch.get_rng_state()
    facts = zoo.train("resnet18", progress=False)
    assert torch.equal(torch.get_rng_state(), before) and facts == zoo.card("resnet18") and set(facts) >= CARD
    assert sorted(path.name for path in Piece("resnet18").folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert facts["test_accuracy"] == 0.6976 and facts["image"] == [3, 224, 224] and facts["classes"][0] == "tench"
    assert facts["recipe"]["weights"] == "IMAGENET1K_V1" and facts["origin"].startswith("https://download.pytorch.org/")
    assert (tuple(facts["mean"]), tuple(facts["std"])) == IMAGENET_STATISTICS
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(zoo.load("resnet18", "cpu")(images), original(images))


class Intruder:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("it was unpickled",)


def test_published_weights_that_cannot_be_had(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unconnected(*_: object, **__: object) -> None:
        raise URLError("no network")

    train = partial(zoo.train, "resnet18", progress=False)
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
    assert not Piece("resnet18").folder.exists()


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
