"""Which layer of a network to reuse: sources, a target, what each cut truly gives, and scores that should foresee it.

Two sources of one architecture: "synthetic" has learned the target's classes on plain synthetic images (for digits,
clothes); "rich" has learned on many that look more like the target's, though none is one of them. For every layer, the
source is frozen up to it and the rest learns anew from a few labels of the target domain. A score compares the graph of
each layer with that of a target network.

The truth is worth ranking only if `gate` lets it pass: accuracies over the layers must differ by much more than their
seeds do, and one source must be best before its last third.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reuselib import checks, home, nets, report, run
from reuselib.attribution import cka, features, learning, rsa
from reuselib.data import ImageSet
from reuselib.depara.domains import VARIED, blank_images, domain_images
from reuselib.depara.losses import edge_similarity, node_similarity
from reuselib.depara.method import Graph, cut, layer_graphs, layer_names, similarity
from reuselib.errors import ShapeMismatch
from reuselib.nets import TaskNetwork, pretrained
from reuselib.nets.supervised import Supervised
from reuselib.run import Settings
from reuselib.worlds import rooms

SPAN, SPREAD = 0.10, 0.02
"""The gate: least span of the accuracies over the layers, largest deviation between seeds. Set before any trial."""
SOURCES = ("rich", "synthetic")
IMAGENET_SOURCE = "imagenet"
UPRIGHT = ("mnist", "svhn")
"""Targets whose images are not flipped: digits."""
LEARNING = ("network", "deep_widths", "deep_strides", "size", "source_batch", "lr", "weight_decay", "constant", "crop")
"""What decides every network of a plan, beside the images and updates of each."""
FIRST_SEED = 50
"""Of the networks; with those below, what can be transferred was tried before the plan was written."""

PLAN = Settings(
    name="closeups",  # of the folder of the networks
    target="real",  # domain with few labels
    synthetic="synthetic",  # domain of the source that learns the target's classes, or clothes
    rich=VARIED,  # domain of the other source, or "imagenet" for torchvision's weights
    network="deep",  # `deep_network`, or one of torchvision's
    deep_widths=(24, 24, 32, 32, 48, 48, 64, 64),
    deep_strides=(2, 1, 1, 1, 2, 1, 1, 1),
    size=rooms.SIZE,  # pixels a side
    source_images=2048,  # of the synthetic domain
    source_updates=1500,  # so many that the source is over-specialised
    rich_images=12_288,
    images=12_288,  # of the target domain, of which the amounts are shares
    target_updates=2000,  # of the target networks
    test_images=4096,
    amounts=(10, 1),  # percent of the labels
    updates=300,  # of each transfer
    epochs=0,  # passes through the labels in place of updates, if any
    repeats=3,  # transfers of each layer with each seed, from other labels and other initial weights
    probes=200,  # of the target domain, seen by no network
    batch=64,
    source_batch=64,  # where sources and target networks learn
    lr=0.05,  # of SGD with Nesterov momentum
    weight_decay=5e-4,
    constant=False,  # whether the rate stays; half a cosine if not
    crop=2,  # pixels of zero border for random crops
    kept=True,  # on disk, for other processes
)
"""Everything that decides the networks and the transfers between layers, beside the seed."""


def deep_network(outputs: int, widths: Sequence[int], strides: Sequence[int]) -> TaskNetwork:
    """A classifier of convolutions, each with batch norm and ReLU, whose representation is not narrowed."""
    head = nets.vector_head(outputs, widths[-1], rooms.SIZE // math.prod(strides))
    return TaskNetwork(nets.room_encoder(tuple(widths), tuple(strides)), head)


Learning = tuple[Supervised, int]
"""A method and its updates."""


class Studio(learning.Shelf):
    """The networks of a plan: the two sources, and target networks with all labels and with the larger amount.

    Args:
        plan: what decides them.
        device: chosen if left out.

    Raises:
        BadValue: the plan has a number that cannot be meant.
    """

    def __init__(self, plan: Settings, device: str | torch.device | None = None) -> None:
        counts = ("size", "source_images", "rich_images", "images", "test_images", "repeats", "batch", "source_batch")
        checks.whole(**{name: plan[name] for name in (*counts, "source_updates", "target_updates")})
        checks.whole(1, 100, **{f"amount_{amount}": amount for amount in plan.amounts})
        checks.whole(2, probes=plan.probes)
        super().__init__(plan, device)
        scale = {"digits": " --scale colab", "syn2real-vgg": " --scale paper"}.get(plan.name, "")
        self.command = f"reuselib run depara{scale} --rows layers-networks"
        rich = () if plan.rich == IMAGENET_SOURCE else ("rich",)
        self.everyone = self.own = ("synthetic", "target", "target-few", *rich)  # the same seeds in every plan
        self.images, self.network = functools.cache(self._images), functools.cache(self._network)

    def _images(self, domain: str, split: str) -> ImageSet:
        """Images of the plan's "target", "synthetic" or "rich" domain."""
        plan = self.plan
        learned = {"target": plan.images, "synthetic": plan.source_images, "rich": plan.rich_images}
        count = {"train": learned[domain], "test": plan.test_images, "probes": plan.probes}[split]
        if self.device.type == "meta":
            return blank_images(plan[domain], count, plan.size)
        return domain_images(plan[domain], split, count, plan.size).to(self.device)

    def build(self, classes: int) -> nn.Module:
        """A network of the plan's architecture with fresh weights, on the CPU (or on ``meta``)."""
        plan = self.plan
        with torch.device("meta" if self.device.type == "meta" else "cpu"):
            if plan.network == "deep":
                return deep_network(classes, plan.deep_widths, plan.deep_strides)
            from torchvision import models as torchvision

            return torchvision.get_model(plan.network, weights=None, num_classes=classes)

    @property
    def classes(self) -> int:
        """Classes of the target."""
        return len(self.images("target", "probes").classes)

    def labelled(self, amount: int, seed: int) -> ImageSet:
        """The share of the target's training images that has labels, as many of each class."""
        images = self.images("target", "train")
        count = len(images) * amount // (100 * len(images.classes))
        checks.whole(labels_of_each_class=count)
        if self.device.type == "meta":
            return images.subset(slice(count * len(images.classes)))
        return images.per_class(count, seed)

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides a network of the plan."""
        own = {"rich": ("rich_images", "target_updates"), "synthetic": ("source_images", "source_updates")}
        used = (name, *own[name]) if name in own else ("target", "images", "target_updates", "amounts")
        return {"name": name} | {key: self.plan[key] for key in (*LEARNING, *used)}

    def _supervised(self, network: nn.Module, images: ImageSet, updates: int, batch: int, seed: int) -> Learning:
        """A classifier, or what is not frozen of it, learns by the plan's recipe."""
        plan = self.plan
        schedule = run.constant if plan.constant else run.cosine(updates, warmup=updates // 20)
        options: dict[str, Any] = {key: plan[key] for key in ("lr", "weight_decay", "crop")}
        options |= {"flip": plan.target not in UPRIGHT, "batch": batch, "schedule": schedule, "seed": seed}
        return Supervised(network, images, **options), updates

    def seed_of(self, name: str) -> int:
        """The seed of one of ``own``."""
        return FIRST_SEED + self.own.index(name)

    def course(self, name: str) -> Learning:
        """How one of ``own`` is made, from initial weights of the global generator."""
        plan, domain, seed = self.plan, name.removesuffix("-few"), self.seed_of(name)
        images = self.labelled(max(plan.amounts), seed) if name == "target-few" else self.images(domain, "train")
        updates = plan.source_updates if name == "synthetic" else plan.target_updates
        network = run.on_device(self.build(len(images.classes)), self.device)
        return self._supervised(network, images, updates, plan.source_batch, seed)

    def measured(self, name: str, network: nn.Module) -> dict[str, Any]:
        """The accuracies of one of ``own`` on the test images of the target and of its own domain."""
        domains = dict.fromkeys(("target", name.removesuffix("-few")))
        return {f"accuracy_{key}": run.accuracy(network, self.images(key, "test"), 250) for key in domains}

    def _network(self, name: str) -> nn.Module:
        """A network: a source or of the target; frozen, in evaluation mode, the same object every time."""
        checks.known(f"network of {self.name}", (*self.own, *SOURCES), name)
        if name not in self.own and self.device.type != "meta":
            network = pretrained.classifier(self.plan.network, self.device)
        else:
            own = name in self.own
            with run.seeded(0):
                network = self.build(len(self.images(name.removesuffix("-few"), "probes").classes) if own else 1000)
            if self.device.type != "meta":
                network = self.piece(name).load(network, self.recipe(name))
        return network.to(self.device).eval().requires_grad_(False)

    def metrics(self) -> dict[str, float]:
        """Seconds and accuracies of the networks of the plan, on the target's test images and on their own."""
        cards = {name: self.piece(name).card() for name in self.own}
        facts = {f"{name}_{key}": value for name, card in cards.items() for key, value in card.items()}
        right = {key.replace("accuracy_", "on_"): value for key, value in facts.items() if "_accuracy_" in key}
        return right | {"seconds": sum(card["seconds"] for card in cards.values())}

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The convolutions and linear layers, but for the last, that both sources and the target's network have."""
        with run.seeded(0):
            network = self.build(self.classes).to(self.device)
        names = layer_names(network, self.images("target", "probes"))[:-1]
        parts = [dict(each.named_parameters()) for each in (network, *map(self.network, SOURCES))]
        shapes = [[part[key].shape if (key := f"{name}.weight") in part else None for part in parts] for name in names]
        shared = [len(set(each)) == 1 for each in shapes] + [False]
        if not shared.index(False):
            what = f"The sources of {self.plan.name} and its target have no layer in common"
            raise ShapeMismatch(f"{what}. Give the plan a rich source of the same architecture.")
        return tuple(names[: shared.index(False)])

    def transfer(self, source: str, layer: str, amount: int, seed: int) -> Learning:
        """A source frozen up to a layer, whose rest learns from few labels; all from scratch if the layer is ``""``."""
        plan, images, probes = self.plan, self.labelled(amount, seed), self.images("target", "probes")
        if layer:
            make, few = functools.partial(self.build, self.classes), probes.normalised(probes.images[:2])
            network: nn.Module = cut(self.network(source), make, layer, few, seed=seed)
        else:
            with run.seeded(seed):
                network = self.build(self.classes).to(self.device)
        updates = math.ceil(plan.epochs * len(images) / plan.batch) or plan.updates
        return self._supervised(network, images, updates, plan.batch, seed)


def one_transfer(studio: Studio, source: str, layer: str, amount: int, seed: int) -> tuple[float, run.Cost]:
    """Train what :meth:`Studio.transfer` gives: the accuracy on the target's test images, and the cost."""
    with run.seeded(seed):  # for dropout
        method, updates = studio.transfer(source, layer, amount, seed)
        history = run.run(method, updates=updates, report_every=100, progress=False)
    return run.accuracy(method.student, studio.images("target", "test"), 250), history.cost


# --- the truth --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuts:
    """What the cuts of one source with one amount of labels gave.

    Attributes:
        accuracy: for each layer, mean over the repeats or seeds.
        spread: for each layer, standard deviation over them; 0 for one.
        scratch: accuracy of the same network without any transfer, mean over them.
    """

    accuracy: tuple[float, ...]
    spread: tuple[float, ...]
    scratch: float

    @property
    def span(self) -> float:
        """Best less worst layer."""
        return max(self.accuracy) - min(self.accuracy)

    @property
    def best(self) -> int:
        """The number of the best layer, from 1."""
        return 1 + self.accuracy.index(max(self.accuracy))

    def metrics(self) -> dict[str, float]:
        """As numbers of a record."""
        each = {f"accuracy_{k}": value for k, value in enumerate(self.accuracy, 1)}
        each |= {f"spread_{k}": value for k, value in enumerate(self.spread, 1)}
        return each | {"scratch": self.scratch, "span": self.span, "spread": statistics.fmean(self.spread)}

    @classmethod
    def over(cls, several: Sequence[Cuts]) -> Cuts:
        """Those of several seeds together: means, and deviations between the seeds."""
        layers = list(zip(*(each.accuracy for each in several), strict=True))
        means = tuple(statistics.fmean(values) for values in layers)
        spreads = tuple(statistics.stdev(values) if len(values) > 1 else 0.0 for values in layers)
        return cls(means, spreads, statistics.fmean(each.scratch for each in several))

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Cuts:
        """From the numbers of a record."""
        names = range(1, 1 + sum(name.startswith("accuracy_") for name in metrics))
        accuracy, spread = (tuple(metrics[f"{what}_{k}"] for k in names) for what in ("accuracy", "spread"))
        return cls(accuracy, spread, metrics["scratch"])


def gate(cuts: Sequence[Cuts]) -> dict[str, bool]:
    """Whether transfers of several sources can tell scores apart: by their span, their spread, and an early best layer.

    Args:
        cuts: one for each source, of one amount of labels, over several seeds.
    """
    return {
        "span": all(each.span >= SPAN for each in cuts),
        "spread": all(statistics.fmean(each.spread) <= SPREAD for each in cuts),
        "early": any(3 * each.best <= 2 * len(each.accuracy) for each in cuts),
    }


def transfers(
    studio: Studio, source: str, amount: int, seed: int, checkpoint: str | Path | None = None, progress: bool = False
) -> tuple[Cuts, run.Cost]:
    """Cut a source at every layer and train the rest on a share of the labels.

    With one seed and repeat, labels, batches and the fresh layers' initial weights are the same for every cut and
    source, and for training from scratch.

    Args:
        studio: of the networks.
        source: one of ``SOURCES``.
        amount: percent of the labels.
        seed: of all that is drawn.
        checkpoint: file that keeps every finished transfer.
        progress: whether to show a bar.

    Returns:
        The accuracies on the target's test images, and the cost with that of earlier parts.
    """
    repeats = range(studio.plan.repeats)
    drawn = {f"{layer}/{repeat}": (layer, repeat) for layer in ("", *studio.layers) for repeat in repeats}

    def make(name: str) -> tuple[float, run.Cost]:
        layer, repeat = drawn[name]
        return one_transfer(studio, source, layer, amount, 1000 * seed + repeat)

    settings = f"{report.config_hash(studio.plan.plain())} {source} {amount} seed {seed}"
    bar: dict[str, Any] = {"disable": not progress, "desc": f"{source}, {amount} %", "unit": "transfer"}
    found, cost = learning.part_by_part(list(drawn), make, checkpoint, settings, **bar)
    accuracy = dict(zip(drawn, found, strict=True))
    each = [Cuts(tuple(accuracy[f"{layer}/{r}"] for layer in studio.layers), (), accuracy[f"/{r}"]) for r in repeats]
    return Cuts.over(each), cost


# --- scores -----------------------------------------------------------------------------------------------------------


class LayerScores:
    """Scores of the layers of one source, from probes of the target domain.

    Args:
        studio: of the networks.
        source: one of ``SOURCES``.
        target: "target", the network that has learned from all labels, or "target-few".
        centred: whether the features of the edges are centred over the probes; the paper's are not.
        seed: of the probes.
    """

    def __init__(
        self, studio: Studio, source: str, target: str = "target", centred: bool = False, seed: int = 0
    ) -> None:
        plan = studio.plan
        self.network, self.target, self.layers = studio.network(source), studio.network(target), studio.layers
        self.probes = domain_images(plan.target, "probes", plan.probes, plan.size, seed).to(studio.device)
        self.last = layer_names(self.target, self.probes)[-1]
        self.centred = centred

    @functools.cached_property
    def goal(self) -> Graph:
        """The graph of the target network's logits."""
        return layer_graphs(self.target, self.probes, [self.last], centred=self.centred)[self.last]

    @functools.cached_property
    def graphs(self) -> dict[str, Graph]:
        """The graph of every layer of the source."""
        return layer_graphs(self.network, self.probes, self.layers, centred=self.centred)

    def by_graphs(self, compare: Callable[[Graph, Graph], float]) -> list[float]:
        """Compare the graph of every layer with the goal."""
        return [compare(graph, self.goal) for graph in self.graphs.values()]

    def by_features(self, compare: Callable[[torch.Tensor, torch.Tensor], float]) -> list[float]:
        """Compare the features of every layer with the logits."""
        goal = features(self.target, self.probes, where=self.last)
        return [compare(features(self.network, self.probes, where=layer), goal) for layer in self.layers]

    def of(self, score: str) -> list[float]:
        """The score of every layer.

        Raises:
            UnknownName: there is no such score.
        """
        checks.known("score of layers", SCORES, score)
        return SCORES[score](self)


SCORES: dict[str, Callable[[LayerScores], list[float]]] = {
    "nodes": lambda scores: scores.by_graphs(lambda a, b: node_similarity(a.nodes, b.nodes)),
    "edges": lambda scores: scores.by_graphs(lambda a, b: edge_similarity(a.ranks, b.ranks)),
    "graph-1": lambda scores: scores.by_graphs(similarity),
    "graph-10": lambda scores: scores.by_graphs(functools.partial(similarity, lambda_=10.0)),
    "cka": lambda scores: scores.by_features(cka),
    "rsa": lambda scores: scores.by_features(rsa),
    "depth": lambda scores: [float(k) for k in range(1, len(scores.layers) + 1)],
}


def open_studio(plan: Settings, device: str | torch.device | None = None) -> Studio:
    """The studio of a plan, the same object as long as the data room stays the same."""
    return learning.opened(home.root(), Studio, plan, str(run.device(device)))


@functools.lru_cache(maxsize=64)
def computed_cuts(studio: Studio, source: str, amount: int, seed: int) -> Cuts:
    """The truth where no record holds it, worked out once in a process."""
    return transfers(studio, source, amount, seed)[0]
