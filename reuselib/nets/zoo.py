"""Trained networks by name: each with its weights, its card and the recipe that made it.

A network ``<name>`` is a folder ``zoo/<name>/`` in the data room: ``weights.safetensors``, ``card.json`` (what it is,
how good it is, how it was made, the SHA-256 of its weights) and ``log.csv`` (its training, round by round; not of
networks that others trained).
"""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from torch import nn

from reuselib import data, home, nets, run
from reuselib.data import ImageSet, SegmentationSet, segmentation
from reuselib.errors import DamagedFile, MissingFile, ReuseError, unknown
from reuselib.nets import blank
from reuselib.nets.segmentation import Segmenter, take_torchvision_encoder
from reuselib.nets.supervised import SegmentationTraining, Supervised, segmentation_scores


@dataclass(frozen=True)
class Recipe:
    """How a network of the zoo is trained.

    Attributes:
        dataset: name of an image set (see :func:`reuselib.data.load`).
        size: pixels a side, or ``None`` for the set's own.
        architecture: name of a model (see :func:`reuselib.nets.build`).
        arguments: what the architecture is built with, beside classes and channels.
        iterations: updates.
        warmup: updates of linear warm-up before the cosine.
        decays: updates at which the learning rate falls to a tenth, in place of the cosine.
        options: the options of :class:`~reuselib.nets.supervised.Supervised`.
        seed: of the initial weights and of the batches.
    """

    dataset: str
    size: int | None
    architecture: str
    arguments: dict[str, Any]
    iterations: int
    warmup: int = 0
    decays: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def schedule(self) -> run.Schedule:
        """The course of the learning rate."""
        if self.decays is None:
            return run.cosine(self.iterations, self.warmup)
        return run.step_decay(self.decays)


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """How a segmentation network of the zoo is trained; its accuracy is that of pixels.

    The options are those of :class:`~reuselib.nets.supervised.SegmentationTraining`, the dataset is one with masks (see
    :func:`reuselib.data.segmentation.load`).

    Attributes:
        encoder: torchvision's name of the classifier whose ImageNet weights the encoder starts from, if any.
    """

    encoder: str | None = None


@dataclass(frozen=True)
class Published:
    """A network that torchvision publishes: fetched and converted instead of trained.

    Attributes:
        dataset: name of the image set that it was trained on.
        size: pixels a side, or ``None`` for the set's own.
        architecture: name of the model that takes up its weights.
        arguments: what the architecture is built with, beside classes and channels.
        source: torchvision's name of the network.
        weights: torchvision's name of its weights.
    """

    dataset: str
    size: int | None
    architecture: str
    arguments: dict[str, Any]
    source: str
    weights: str


def _cifar_teacher(
    dataset: str, architecture: str, epochs: int, decays: tuple[int, ...] | None, updates: int = 390, lr: float = 0.1
) -> Recipe:
    """The papers' recipe: SGD, batch 128, crops and flips; so many updates an epoch, ``decays`` in epochs."""
    return Recipe(
        dataset,
        None,
        architecture,
        {},
        updates * epochs,
        warmup=0 if decays else updates,
        decays=tuple(updates * epoch for epoch in decays) if decays else None,
        options={"batch": 128, "lr": lr, "weight_decay": 5e-4, "crop": 4, "flip": True},
    )


def _deeplab_teacher(dataset: str, images: int, lr: float) -> SegmentationRecipe:
    """DFAD's recipe: 200 epochs of batches of 16, the rate to a tenth after 100, from ImageNet weights."""
    updates = -(-images // 16)
    return SegmentationRecipe(
        dataset,
        None,
        "deeplabv3_resnet50",
        {},
        200 * updates,
        decays=(100 * updates,),
        encoder="resnet50",
        options={"batch": 16, "lr": lr, "weight_decay": 5e-4, "window": 128, "flip": True, "focal": 2.0},
    )


RECIPES: dict[str, Recipe | Published] = {
    "digits8-conv3": Recipe("digits", None, "conv3", {"width": 16}, 600, options={"batch": 64, "lr": 0.05}),
    "fashion16-conv3": Recipe(
        "fashion_mnist",
        16,
        "conv3",
        {"width": 32},
        8000,
        warmup=400,
        options={"batch": 128, "lr": 0.1, "weight_decay": 1e-3, "flip": True, "mixup": True, "noise": 0.5},
    ),
    "fashion32-lenet5": Recipe(
        "fashion_mnist", 32, "lenet5", {}, 6000, warmup=400, options={"batch": 128, "lr": 0.05, "flip": True}
    ),
    "fashion28-resnet": Recipe(
        "fashion_mnist",
        None,
        "small_resnet",
        {"width": 16},
        10000,
        warmup=500,
        options={"batch": 128, "lr": 0.1, "flip": True, "crop": 2},
    ),
    "fashion16-resnet": Recipe(
        "fashion_mnist",
        16,
        "small_resnet",
        {"width": 16},
        8000,
        warmup=400,
        options={"batch": 128, "lr": 0.1, "flip": True, "crop": 1},
    ),
    "shapes16-conv4": Recipe("shapes", 16, "conv4", {"width": 16}, 1500, options={"batch": 64, "lr": 0.05}),
    "shapes16-cells": Recipe("shape_cells", 16, "conv4", {"width": 16}, 3000, options={"batch": 64, "lr": 0.05}),
    "shapes16-judge": Recipe(
        "shape_cells", 16, "conv4", {"width": 16}, 3000, seed=1, options={"batch": 64, "lr": 0.05}
    ),
    "fashion16-vgg": Recipe(
        "fashion_mnist",
        16,
        "plain_vgg",
        {},
        8000,
        warmup=400,
        options={"batch": 128, "lr": 0.05, "flip": True, "crop": 1},
    ),
    "symbols16-vgg": Recipe(
        "symbols", 16, "plain_vgg", {}, 3000, warmup=100, options={"batch": 64, "lr": 0.05, "flip": True, "crop": 2}
    ),
    "mnist32-lenet5": Recipe(
        "mnist", 32, "lenet5", {}, 2340, decays=(), options={"batch": 256, "lr": 0.01, "weight_decay": 1e-4}
    ),
    "cifar10-resnet34": _cifar_teacher("cifar10", "resnet34_8x", 200, (80, 160)),
    "cifar10-resnet18": _cifar_teacher("cifar10", "resnet18_8x", 30, None),
    "cifar10-wrn16-2": _cifar_teacher("cifar10", "wrn16_2", 30, None),
    "cifar100-resnet34": _cifar_teacher("cifar100", "resnet34_8x", 200, (80, 160)),
    # CMI's schedule with DAFL's weight decay: users of CMI's own 1e-4 fell short of its published teachers.
    "cifar10-wrn40-2": _cifar_teacher("cifar10", "wrn40_2", 200, (120, 150, 180)),
    "cifar10-vgg11": _cifar_teacher("cifar10", "vgg11_bn", 200, (120, 150, 180)),
    "cifar100-wrn40-2": _cifar_teacher("cifar100", "wrn40_2", 200, (120, 150, 180)),
    "cifar100-vgg11": _cifar_teacher("cifar100", "vgg11_bn", 200, (120, 150, 180)),
    # Thirteen convolutions without batch norm: tried on Fashion-MNIST, the loss grew again above a rate of 0.03.
    "cifar10-vgg16": _cifar_teacher("cifar10", "vgg16_plain", 200, None, lr=0.02),
    "cifar10-vgg16-short": _cifar_teacher("cifar10", "vgg16_plain", 30, None, lr=0.02),
    "cifar100-vgg16": _cifar_teacher("cifar100", "vgg16_plain", 200, None, lr=0.02),
    "tiny-imagenet-vgg11": replace(
        _cifar_teacher("tiny_imagenet", "vgg11_bn", 200, (120, 150, 180), updates=781), arguments={"pools": 4}
    ),
    "tiny-imagenet-resnet34": _cifar_teacher("tiny_imagenet", "resnet34_8x", 200, (120, 150, 180), updates=781),
    "caltech101-resnet34": Recipe(
        "caltech101",
        None,
        "resnet34_imagenet",
        {},
        8100,
        decays=(2700, 5400),
        options={"batch": 128, "lr": 0.1, "weight_decay": 5e-4, "crop": 8, "flip": True},
    ),
    "imagenet-resnet34": Published("imagenet", None, "resnet34_imagenet", {}, "resnet34", "IMAGENET1K_V1"),
    "rooms32-segmenter": SegmentationRecipe(
        "rooms",
        None,
        "small_segmenter",
        {"width": 32},
        4000,
        warmup=200,
        options={"batch": 64, "lr": 0.1, "weight_decay": 1e-3, "flip": True, "mixup": True, "noise": 0.5},
    ),
    "camvid-deeplabv3": _deeplab_teacher("camvid", images=367, lr=0.1),
    "nyuv2-deeplabv3": _deeplab_teacher("nyuv2", images=795, lr=0.05),
}


def folder(name: str) -> Path:
    """The folder of a network in the data room."""
    return home.path("zoo", name)


def names() -> list[str]:
    """The names of all networks: those with a recipe and those found in the data room."""
    found = {card.parent.name for card in home.path("zoo").glob("*/card.json")}
    return sorted(found | RECIPES.keys())


def _file(name: str, file: str) -> Path:
    if name not in names():
        raise unknown("network", name, names())
    relative = f"zoo/{name}/{file}"
    if relative in home.registry():
        return home.shipped(relative)
    path = home.path(relative)
    if not path.is_file():
        raise MissingFile(f"{path} is missing. Fix: reuselib zoo train {name}")
    return path


def card(name: str) -> dict[str, Any]:
    """The card of a network: architecture, data, accuracy, recipe, SHA-256.

    Raises:
        UnknownName: no network has this name; the message gives the nearest.
        MissingFile: it has not been trained or fetched.
        DamagedFile: the card was altered.
    """
    path = _file(name, "card.json")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedFile(path, f"not valid JSON ({error})", f"reuselib zoo train {name}") from error


def verify(name: str) -> Path:
    """Check the weights of a network against its card and return their path.

    Raises:
        UnknownName: no network has this name.
        MissingFile: it has not been trained or fetched.
        DamagedFile: card or weights were altered.
    """
    expected = card(name)["sha256"]
    return home.verify(_file(name, "weights.safetensors"), expected, f"reuselib zoo train {name}")


def load(name: str, device: str | torch.device | None = None) -> nn.Module:
    """Load a trained network: verified, frozen, in evaluation mode, its card in ``.card``.

    Args:
        name: see :func:`names`.
        device: where to put it; the engine chooses if left out.

    Raises:
        UnknownName: no network has this name.
        MissingFile: it has not been trained or fetched.
        DamagedFile: card or weights were altered.
    """
    where = run.device(device)
    if where.type == "meta":
        return _blank(name)
    path, facts = verify(name), card(name)
    with run.seeded(0):  # spares the global random state
        network = nets.build(facts["architecture"], **facts["arguments"])
    network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    network.card = facts  # type: ignore[assignment]
    return run.on_device(network, where).eval().requires_grad_(False)


def images(name: str, split: str, device: str | torch.device | None = None) -> Any:
    """The images that a network was made for, in its size: ``"train"`` or ``"test"``.

    Returns:
        An ImageSet or, for a segmentation network, a SegmentationSet.
    """
    where = run.device(device)
    if where.type == "meta":
        recipe = RECIPES[name]
        masked = isinstance(recipe, SegmentationRecipe)
        return (blank.masked_images if masked else blank.images)(recipe.dataset, recipe.size)
    facts = card(name)
    return _load(facts["dataset"], split, facts["size"]).to(where)


def architecture(name: str) -> str:
    """The architecture of a network, whether it has been trained or not."""
    return RECIPES[name].architecture


def _blank(name: str) -> nn.Module:
    """A network of the zoo without its weights, for asking what it costs."""
    recipe = RECIPES[name]
    space = blank.SPACES[recipe.dataset]
    with torch.device("meta"):
        network = nets.build(recipe.architecture, **recipe.arguments, classes=space.classes, channels=space.channels)
    return network.eval().requires_grad_(False)


def _load(dataset: str, split: str, size: int | None) -> ImageSet | SegmentationSet:
    if dataset in segmentation.SETS:
        return segmentation.load(dataset, split)
    return data.load(dataset, split, size=size)


def train(
    name: str, *, checkpoint: str | Path | None = None, progress: bool = True, round_size: int = 200
) -> dict[str, Any]:
    """Train a network by its recipe, and write its weights, log and card; fetch it where the recipe is `Published`.

    Args:
        name: one of ``RECIPES``.
        checkpoint: file to resume from; beside the weights if left out, and removed at the end.
        progress: whether to show a bar.
        round_size: updates between two lines of the log, at most.

    Returns:
        The card.

    Raises:
        UnknownName: there is no such recipe.
        DamagedFile: the published weights that are there are others.
        ReuseError: the network comes with the book and the data room is not the clone's, or cannot be fetched.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if f"zoo/{name}/card.json" in home.registry() and home.root() != home.CLONE / "data":
        raise ReuseError(
            f"{name} comes with the book, with its hash; a second one in {home.root()} would be refused. "
            "Train it in a clone without REUSELIB_DATA, or load the one that is there."
        )
    recipe, where = RECIPES[name], run.device()
    if isinstance(recipe, Published):
        return _convert(name, recipe, progress)
    training, test = (_load(recipe.dataset, split, recipe.size).to(where) for split in ("train", "test"))
    arguments = {**recipe.arguments, "classes": len(training.classes), "channels": training.shape[0]}
    with run.seeded(recipe.seed):
        network = run.on_device(nets.build(recipe.architecture, **arguments), where)
    method = _method(name, recipe, network, training, progress)
    # As many updates as the recipe says, not a multiple of the round.
    method.steps_per_round = next(n for n in range(round_size, 0, -1) if recipe.iterations % n == 0)
    checkpoint = Path(checkpoint or folder(name) / "training.pt")
    with run.seeded(recipe.seed):  # for dropout
        history = run.run(
            method,
            recipe.iterations // method.steps_per_round,
            checkpoint=checkpoint,
            progress=progress,
            title=name,
            evaluate=lambda: _scores(network, test),
            evaluate_every=5,
            settings=json.dumps(asdict(recipe)),
        )
    facts = _write(name, recipe, arguments, network, training, history)
    checkpoint.unlink()
    return facts


def _method(
    name: str, recipe: Recipe, network: nn.Module, training: ImageSet | SegmentationSet, progress: bool
) -> Supervised:
    options = {"schedule": recipe.schedule(), "seed": recipe.seed, **recipe.options}
    if isinstance(training, ImageSet):
        return Supervised(network, training, **options)
    if isinstance(recipe, SegmentationRecipe) and recipe.encoder and isinstance(network, Segmenter):
        from torchvision import models as torchvision

        published = torchvision.get_model_weights(recipe.encoder)["IMAGENET1K_V1"]
        take_torchvision_encoder(network, _fetch(name, published, progress))
    return SegmentationTraining(network, training, **options)


def _scores(network: nn.Module, test: ImageSet | SegmentationSet) -> dict[str, float]:
    """The test accuracy; of a segmentation network that of pixels, and the mean intersection over union."""
    if isinstance(test, ImageSet):
        return {"test_accuracy": run.accuracy(network, test)}
    scores = segmentation_scores(network, test)
    return {"test_accuracy": scores["pixel_accuracy"], "test_mean_iou": scores["mean_iou"]}


def _write(
    name: str,
    recipe: Recipe,
    arguments: dict[str, Any],
    network: nn.Module,
    training: ImageSet | SegmentationSet,
    history: run.History,
) -> dict[str, Any]:
    home.write_atomic(folder(name) / "log.csv", _log(history).encode())
    space = {key: list(getattr(training, key)) for key in ("shape", "mean", "std", "classes")}
    facts: dict[str, Any] = {"image": space.pop("shape"), **space}
    if isinstance(training, SegmentationSet):
        facts["test_mean_iou"] = round(history.last("test_mean_iou"), 4)
    accuracy, seconds = history.last("test_accuracy"), history.cost.wall_seconds
    return _save(name, recipe, arguments, network, accuracy, seconds, **facts)


def _convert(name: str, recipe: Published, progress: bool) -> dict[str, Any]:
    """Fetch a network that torchvision publishes, and write its weights and card; the accuracy is the published one."""
    from torchvision import models as torchvision

    started = time.perf_counter()
    published = torchvision.get_model_weights(recipe.source)[recipe.weights]
    classes, preprocessing = published.meta["categories"], published.transforms()
    arguments = {**recipe.arguments, "classes": len(classes), "channels": 3}
    with run.seeded(0):  # spares the global random state
        original = torchvision.get_model(recipe.source, weights=None, num_classes=len(classes))
        network = nets.build(recipe.architecture, **arguments)
    original.load_state_dict(_fetch(name, published, progress))
    # The same layers in the same order, under other names.
    network.load_state_dict(dict(zip(network.state_dict(), original.state_dict().values(), strict=True)))
    (side,) = preprocessing.crop_size
    return _save(
        name,
        recipe,
        arguments,
        network,
        published.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100,
        time.perf_counter() - started,
        image=[3, side, side],
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        classes=list(classes),
        origin=published.url,
    )


def _fetch(name: str, published: Any, progress: bool) -> dict[str, torch.Tensor]:
    """Read the weights behind a member of torchvision's enumerations, fetched unless they are there, without pickle.

    Raises:
        DamagedFile: the file there is another one.
        ReuseError: they cannot be fetched, or hold more than tensors.
    """
    path = home.path("downloads", "torchvision", published.url.rpartition("/")[2])
    expected = path.stem.rpartition("-")[2]  # by torchvision's custom, the first digits of the file's SHA-256
    fix = f"delete it, then run reuselib zoo train {name}"
    if path.is_file() and not (found := home.sha256(path)).startswith(expected):
        raise DamagedFile(path, f"expected sha256 {expected}..., found {found}", fix)
    try:
        return published.get_state_dict(
            model_dir=str(path.parent), map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise ReuseError(
            f"{published.url} could not be fetched and read ({reason}). Fix: connect to the network and run "
            f"reuselib zoo train {name}, or bring the file from elsewhere to {path}"
        ) from error


def _save(
    name: str,
    recipe: Recipe | Published,
    arguments: dict[str, Any],
    network: nn.Module,
    accuracy: float,
    seconds: float,
    **facts: Any,
) -> dict[str, Any]:
    """Write weights and card."""
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    home.write_atomic(folder(name) / "weights.safetensors", safetensors.torch.save(weights))
    facts = {
        "name": name,
        "architecture": recipe.architecture,
        "arguments": arguments,
        "parameters": nets.parameter_count(network),
        "dataset": recipe.dataset,
        "size": recipe.size,
        **facts,
        "test_accuracy": round(accuracy, 4),
        "recipe": asdict(recipe),
        "seconds": round(seconds, 1),
        "versions": {"torch": version("torch"), "torchvision": version("torchvision")},
        "sha256": home.sha256(folder(name) / "weights.safetensors"),
    }
    home.write_atomic(folder(name) / "card.json", (json.dumps(facts, indent=2) + "\n").encode())
    if home.in_clone() and home.root() == home.CLONE / "data":
        home.write_registry()
    return facts


def _log(history: run.History) -> str:
    text = io.StringIO()
    columns = [name for name in ("iteration", "loss", "test_accuracy", "test_mean_iou") if history.curve(name)[0]]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: round(value, 5) for key, value in entry.items()} for entry in history.rounds)
    return text.getvalue()
