"""Trained networks: cards, hashes, loading, training."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from urllib.error import URLError

import players
import pytest
import torch

from reuselib import data, home, nets, run
from reuselib.errors import DamagedFile, MissingFile, ReuseError, UnknownName
from reuselib.nets import zoo
from reuselib.nets.supervised import segmentation_scores

SHIPPED = sorted({path.split("/")[1] for path in home.registry() if path.startswith("zoo/")})
CARD = {
    "name": str,
    "architecture": str,
    "arguments": dict,
    "parameters": int,
    "dataset": str,
    "size": int | None,
    "image": list,
    "mean": list,
    "std": list,
    "classes": list,
    "test_accuracy": float,
    "recipe": dict,
    "seconds": float,
    "versions": dict,
    "sha256": str,
}
TINY = zoo.Recipe(
    "digits", None, "conv3", {"width": 2, "batch_norm": True}, 9, warmup=2, options={"batch": 8, "flip": True}
)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data room of this test, and a recipe for it."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setitem(zoo.RECIPES, "tiny", TINY)
    return tmp_path


def segments(name: str) -> bool:
    """Whether a network decides for every pixel."""
    return isinstance(zoo.RECIPES[name], zoo.SegmentationRecipe)


def train_tiny() -> Path:
    zoo.train("tiny", progress=False, round_size=2)
    return zoo.folder("tiny")


def test_the_books_teachers_are_shipped() -> None:
    assert {"fashion16-conv3", "fashion28-resnet", "fashion32-lenet5", "digits8-conv3"} <= set(SHIPPED)
    assert {"fashion16-resnet", "shapes16-conv4", "shapes16-judge", "fashion16-vgg", "symbols16-vgg"} <= set(SHIPPED)
    assert set(SHIPPED) <= set(zoo.names()) and set(zoo.RECIPES) <= set(zoo.names())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_is_complete_and_matches_recipe_network_and_images(name: str) -> None:
    card = zoo.card(name)
    assert {key: kind for key, kind in CARD.items() if not isinstance(card.get(key), kind)} == {}
    assert card["name"] == name
    kind = type(zoo.RECIPES[name])
    assert json.dumps(asdict(kind(**card["recipe"]))) == json.dumps(asdict(zoo.RECIPES[name]))
    assert home.sha256(zoo.folder(name) / "weights.safetensors") == card["sha256"]
    network, images = zoo.load(name, "cpu"), zoo.images(name, "test", "cpu")
    assert network.card == card and nets.parameter_count(network) == card["parameters"]
    assert list(images.shape) == card["image"] and list(images.classes) == card["classes"]
    assert (list(images.mean), list(images.std)) == (card["mean"], card["std"])
    head = network.head
    assert (head.out_channels if segments(name) else head.out_features) == len(card["classes"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_log_ends_with_the_cards_accuracy(name: str) -> None:
    with open(zoo.folder(name) / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["iteration", "loss", "test_accuracy", *(["test_mean_iou"] if segments(name) else [])]
    assert int(lines[-1]["iteration"]) == zoo.RECIPES[name].iterations
    assert float(lines[-1]["test_accuracy"]) == pytest.approx(zoo.card(name)["test_accuracy"], abs=1e-4)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_measured_accuracy_is_the_cards(name: str) -> None:
    images = zoo.images(name, "test", "cpu")
    images = images.take(min(2000, len(images)), seed=0)
    score = run.accuracy if not segments(name) else lambda *both: segmentation_scores(*both)["pixel_accuracy"]
    assert score(zoo.load(name, "cpu"), images) == pytest.approx(zoo.card(name)["test_accuracy"], abs=0.03)


def test_the_resnet_is_a_good_teacher() -> None:
    assert zoo.card("fashion28-resnet")["test_accuracy"] >= 0.93


def test_the_judge_of_the_shapes_knows_every_cell_and_is_not_the_teacher() -> None:
    teacher, judge = zoo.card("shapes16-conv4"), zoo.card("shapes16-judge")
    assert teacher["test_accuracy"] >= 0.98 and judge["test_accuracy"] >= 0.98
    assert len(teacher["classes"]) == 4 and len(judge["classes"]) == 32
    assert teacher["recipe"]["seed"] != judge["recipe"]["seed"]
    assert (teacher["mean"], teacher["std"]) == (judge["mean"], judge["std"])


def test_the_teachers_to_be_grafted_are_good_and_plain() -> None:
    accuracies = {name: zoo.card(name)["test_accuracy"] for name in ("symbols16-vgg", "fashion16-vgg")}
    assert 0.96 <= accuracies["symbols16-vgg"] <= 0.98 and 0.9 <= accuracies["fashion16-vgg"] <= 0.92
    for name in accuracies:
        kinds = [type(module) for module in zoo.load(name, "cpu").modules()]
        assert kinds.count(torch.nn.Conv2d) == 8 and torch.nn.Dropout not in kinds
        assert kinds.count(torch.nn.BatchNorm1d) == 1 and torch.nn.BatchNorm2d not in kinds


@pytest.mark.parametrize("name", sorted(zoo.RECIPES))
def test_a_recipe_builds_its_network(name: str) -> None:
    recipe = zoo.RECIPES[name]
    assert recipe.dataset in (data.segmentation.SETS if segments(name) else data.SETS)
    with torch.device("meta"):
        network = nets.build(recipe.architecture, **recipe.arguments)
        assert network(torch.randn(2, network.channels, recipe.size or 32, recipe.size or 32)).shape[0] == 2
    if isinstance(recipe, zoo.Recipe):
        assert recipe.decays is None or all(0 < update < recipe.iterations for update in recipe.decays)


@pytest.mark.parametrize("name", ["cifar10-wrn40-2", "cifar100-vgg11", "tiny-imagenet-resnet34"])
def test_papers_teachers_see_200_epochs_and_three_decays(name: str) -> None:
    recipe = zoo.RECIPES[name]
    images = 100_000 if recipe.dataset == "tiny_imagenet" else 50_000
    epochs = recipe.iterations * recipe.options["batch"] / images
    assert epochs == pytest.approx(200, rel=0.01)
    assert [round(200 * update / recipe.iterations) for update in recipe.decays] == [120, 150, 180]
    assert recipe.options["weight_decay"] == 5e-4 and recipe.schedule()(recipe.iterations) == pytest.approx(1e-3)


@pytest.mark.parametrize(("dataset", "lr"), [("camvid", 0.1), ("nyuv2", 0.05)])
def test_deeplab_teachers_have_the_papers_recipe(dataset: str, lr: float) -> None:
    recipe, images = zoo.RECIPES[f"{dataset}-deeplabv3"], {"camvid": 367, "nyuv2": 795}[dataset]
    assert recipe.iterations == 200 * math.ceil(images / 16) and recipe.decays == (recipe.iterations // 2,)
    assert (recipe.architecture, recipe.encoder) == ("deeplabv3_resnet50", "resnet50")
    expected = {"batch": 16, "lr": lr, "weight_decay": 5e-4, "window": 128, "flip": True, "focal": 2.0}
    assert recipe.options == expected


def quarters(split: str) -> data.SegmentationSet:
    """Grey images of two tones and their masks; the split decides the seed."""
    with run.seeded(len(split)):
        masks = torch.randint(2, (30, 2, 2)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        pixels = torch.randint(60, (30, 1, 8, 8)) + 150 * masks.unsqueeze(1)
    return data.segmentation.from_masks("quarters", pixels.byte(), masks, ("dark", "bright"), (0.3,), (0.3,))


@pytest.fixture
def tiny_segmenter(room: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    recipe = zoo.SegmentationRecipe(
        "quarters", None, "small_segmenter", {"width": 4}, 100, options={"batch": 16, "lr": 0.1, "flip": True}
    )
    monkeypatch.setitem(zoo.RECIPES, "tiny-segmenter", recipe)
    monkeypatch.setitem(data.segmentation.SETS, "quarters", quarters)
    return "tiny-segmenter"


def test_a_segmentation_network_is_trained_and_loaded(tiny_segmenter: str) -> None:
    facts = zoo.train(tiny_segmenter, progress=False, round_size=4)
    assert facts == zoo.card(tiny_segmenter) and facts["recipe"]["encoder"] is None
    assert {key: kind for key, kind in CARD.items() if not isinstance(facts.get(key), kind)} == {}
    assert facts["image"] == [1, 8, 8] and facts["classes"] == ["dark", "bright"]
    network, images = zoo.load(tiny_segmenter, "cpu"), zoo.images(tiny_segmenter, "test", "cpu")
    assert not network.training and torch.equal(images.masks, quarters("test").masks)
    scores = segmentation_scores(network, images)
    assert scores["pixel_accuracy"] == pytest.approx(facts["test_accuracy"], abs=1e-4) and scores["mean_iou"] > 0.55
    assert scores["mean_iou"] == pytest.approx(facts["test_mean_iou"], abs=1e-4)
    with open(zoo.folder(tiny_segmenter) / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["iteration", "loss", "test_accuracy", "test_mean_iou"]
    assert float(lines[-1]["test_mean_iou"]) == pytest.approx(facts["test_mean_iou"], abs=1e-4)


def test_a_seed_decides_a_network_with_dropout(
    tiny_segmenter: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
        hashes.append(zoo.train(tiny_segmenter, progress=False)["sha256"])
        assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1]


def test_a_deeplab_teacher_starts_from_imagenet(tiny_segmenter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models as torchvision

    def in_colour(split: str) -> data.SegmentationSet:
        few = quarters(split).subset(slice(2))
        return replace(few, images=few.images.with_channels(3))

    published = torchvision.resnet50()
    state = published.state_dict()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, *_, **__: torch.save(state, path))
    monkeypatch.setitem(data.segmentation.SETS, "quarters", in_colour)
    recipe = replace(zoo.RECIPES["camvid-deeplabv3"], dataset="quarters", iterations=1, options={"batch": 2, "lr": 0.0})
    monkeypatch.setitem(zoo.RECIPES, tiny_segmenter, recipe)
    zoo.train(tiny_segmenter, progress=False)
    encoder = zoo.load(tiny_segmenter, "cpu").encoder
    assert torch.equal(encoder.conv1.weight, published.conv1.weight)
    assert torch.equal(encoder.layer4[2].conv3.weight, published.layer4[2].conv3.weight)


@pytest.mark.parametrize(
    ("name", "epochs"), [("cifar10-vgg16", 200), ("cifar100-vgg16", 200), ("cifar10-vgg16-short", 30)]
)
def test_plain_teachers_start_gently(name: str, epochs: int) -> None:
    recipe = zoo.RECIPES[name]
    assert recipe.architecture == "vgg16_plain"
    assert recipe.iterations * recipe.options["batch"] / 50_000 == pytest.approx(epochs, rel=0.01)
    factor, peak = recipe.schedule(), recipe.options["lr"]
    assert peak <= 0.03 and recipe.warmup == 390 and factor(recipe.iterations) == pytest.approx(0, abs=1e-3)


def serve_resnet18(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Let torchvision's download of ResNet-18 give random weights, and make a recipe of them."""
    from torchvision import models as torchvision

    published = torchvision.resnet18().eval()
    # As in the files of the first years, without the counters of the batch norms, and in an order of their own.
    state = {key: value for key, value in reversed(published.state_dict().items()) if "num_batches" not in key}
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, *_, **__: torch.save(state, path))
    recipe = zoo.Published("imagenet", None, "resnet18_imagenet", {}, "resnet18", "IMAGENET1K_V1")
    monkeypatch.setitem(zoo.RECIPES, "imagenet-resnet18", recipe)
    return published


def test_published_weights_are_converted(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, before = serve_resnet18(monkeypatch), torch.get_rng_state()
    facts = zoo.train("imagenet-resnet18", progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    files = sorted(path.name for path in zoo.folder("imagenet-resnet18").iterdir())
    assert files == ["card.json", "weights.safetensors"]
    assert facts == zoo.card("imagenet-resnet18")
    assert {key: kind for key, kind in CARD.items() if not isinstance(facts.get(key), kind)} == {}
    assert facts["test_accuracy"] == 0.6976 and facts["image"] == [3, 224, 224] and facts["classes"][0] == "tench"
    assert facts["recipe"]["weights"] == "IMAGENET1K_V1" and facts["origin"].startswith("https://download.pytorch.org/")
    assert (tuple(facts["mean"]), tuple(facts["std"])) == data.vision.IMAGENET_STATISTICS
    network, images = zoo.load("imagenet-resnet18", "cpu"), torch.randn(2, 3, 64, 64)
    assert not network.training and network.card == facts
    torch.testing.assert_close(network(images), published(images))


def test_published_weights_that_were_altered_are_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = room / "downloads" / "torchvision" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    serve_resnet18(monkeypatch)
    with pytest.raises(DamagedFile, match=r"f37072fd\.pth is damaged: expected sha256 f37072fd.*reuselib zoo train"):
        zoo.train("imagenet-resnet18", progress=False)


class Intruder:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("it was unpickled",)


@pytest.mark.parametrize("problem", ["network", "pickle"])
def test_published_weights_that_cannot_be_had(problem: str, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str, *_: object, **__: object) -> None:
        if problem == "network":
            raise URLError("no network")
        torch.save({"conv1.weight": Intruder()}, path)

    serve_resnet18(monkeypatch)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ReuseError, match=r"resnet18-f37072fd\.pth could not be fetched.*bring the file"):
        zoo.train("imagenet-resnet18", progress=False)
    assert not zoo.folder("imagenet-resnet18").exists()


def test_the_resnet_of_imagenet_is_torchvisions() -> None:
    recipe = zoo.RECIPES["imagenet-resnet34"]
    assert isinstance(recipe, zoo.Published) and (recipe.source, recipe.weights) == ("resnet34", "IMAGENET1K_V1")


def test_a_loaded_network_is_frozen_and_the_random_state_untouched() -> None:
    before = torch.get_rng_state()
    network = zoo.load("digits8-conv3", "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert zoo.load("digits8-conv3", "meta").head.weight.is_meta


@pytest.mark.parametrize("function", [zoo.load, zoo.card, zoo.verify, zoo.train])
def test_an_unknown_name_gets_the_nearest(function) -> None:
    with pytest.raises(UnknownName, match="'fashion16-conv'. Did you mean 'fashion16-conv3'"):
        function("fashion16-conv")


@pytest.mark.parametrize("function", [zoo.load, zoo.card, zoo.verify])
def test_a_network_that_is_not_there_says_how_to_make_it(room: Path, function) -> None:
    with pytest.raises(MissingFile, match=r"tiny.card\.json is missing. Fix: reuselib zoo train tiny"):
        function("tiny")
    (train_tiny() / "weights.safetensors").unlink()
    if function is not zoo.card:
        with pytest.raises(MissingFile, match=r"weights\.safetensors is missing. Fix: reuselib zoo train tiny"):
            function("tiny")


def flipped(path: Path, position: int) -> bytes:
    """The content of a file with one bit flipped."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    return bytes(content)


def assert_refused_when_flipped(name: str, file: Path, count: int) -> None:
    """Assert that a network is refused for each of some single flipped bits of a file, and is fine without."""
    expected, original = home.sha256(file), file.read_bytes()
    for position in random.Random(0).sample(range(8 * len(original)), count):
        file.write_bytes(flipped(file, position))
        with pytest.raises(DamagedFile) as caught:
            zoo.load(name, "cpu")
        message = str(caught.value)
        assert str(file) in message and expected in message and home.sha256(file) in message, message
        file.write_bytes(original)
    zoo.load(name, "cpu")


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json"])
def test_a_flipped_bit_in_a_shipped_network_is_refused(room: Path, file: str) -> None:
    shutil.copytree(home.CLONE / "data" / "zoo" / "digits8-conv3", room / "zoo" / "digits8-conv3")
    assert_refused_when_flipped("digits8-conv3", room / "zoo" / "digits8-conv3" / file, 120)


def test_a_flipped_bit_in_weights_that_the_reader_trained_is_refused(room: Path) -> None:
    assert_refused_when_flipped("tiny", train_tiny() / "weights.safetensors", 120)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_cut_off_weights_are_refused(room: Path, share: float) -> None:
    weights = train_tiny() / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(DamagedFile, match="Fix: reuselib zoo train tiny"):
        zoo.load("tiny", "cpu")


def test_a_card_that_is_no_json_is_refused(room: Path) -> None:
    card = train_tiny() / "card.json"
    card.write_text(card.read_text()[:-20])
    with pytest.raises(DamagedFile, match=r"card\.json is damaged: not valid JSON.*Fix: reuselib zoo train tiny"):
        zoo.load("tiny", "cpu")


def test_training_writes_card_log_and_weights(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry is none of our business"))
    folder = train_tiny()
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "log.csv", "weights.safetensors"]
    card, network = zoo.card("tiny"), zoo.load("tiny", "cpu")
    assert {key: kind for key, kind in CARD.items() if not isinstance(card.get(key), kind)} == {}
    assert card["recipe"]["iterations"] == 9 and "tiny" in zoo.names()
    assert run.accuracy(network, zoo.images("tiny", "test", "cpu")) == pytest.approx(card["test_accuracy"], abs=1e-3)
    log = (folder / "log.csv").read_text().splitlines()
    assert log[0] == "iteration,loss,test_accuracy" and log[-1].startswith("9,")  # all nine updates, by ones


def test_interrupted_training_goes_on_and_gives_the_same_network(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (train_tiny() / "weights.safetensors").read_bytes()
    shutil.rmtree(zoo.folder("tiny"))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(run, "accuracy", players.rigged(run.accuracy, at=0))
        with pytest.raises(players.Explosion):
            train_tiny()
    assert [path.name for path in zoo.folder("tiny").iterdir()] == ["training.pt"]
    assert (train_tiny() / "weights.safetensors").read_bytes() == whole


def test_interrupted_training_by_another_recipe_is_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as interrupted:
        interrupted.setattr(run, "accuracy", players.rigged(run.accuracy, at=0))
        with pytest.raises(players.Explosion):
            train_tiny()
    monkeypatch.setitem(zoo.RECIPES, "tiny", zoo.Recipe(**asdict(TINY) | {"warmup": 3}))
    with pytest.raises(ReuseError, match=r"training.pt was made with other settings"):
        train_tiny()


def test_cards_of_the_clone_serve_other_data_rooms(room: Path) -> None:
    assert zoo.verify("digits8-conv3") == home.CLONE / "data" / "zoo" / "digits8-conv3" / "weights.safetensors"
