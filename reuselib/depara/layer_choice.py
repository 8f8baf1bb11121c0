"""Which layer of a network to reuse: sources, a target, what each cut truly gives, and scores that should foresee it.

Two sources of one architecture: "synthetic" has learned the target's classes on plain synthetic images; "rich" on many
that look more like the target's, though none is one of them, as photographs of all kinds do. For every layer, the
source is frozen up to it and the rest learns anew from a few labels of the target domain. A score compares the graph of
each layer with that of a target network.

The truth is worth ranking only if `gate` lets it pass: accuracies over the layers must differ by much more than their
seeds do, and one source must be best before its last third.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from reuselib import data, home, nets, report, run
from reuselib.attribution.learning import add_cost, rounds, seconds
from reuselib.attribution.representation import features
from reuselib.attribution.rivals import cka, rsa, spearman
from reuselib.attribution.rooms_zoo import ZooPlan, deep_network, open_zoo
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.depara.graph import Graph, edge_similarity, graph_similarity
from reuselib.depara.layers import cut, layer_graphs, layer_names
from reuselib.errors import MissingFile, ReuseError, ShapeMismatch, unknown
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised
from reuselib.prediction import Prediction, saved_bytes
from reuselib.run.progress import Progress
from reuselib.worlds import rooms

SPAN, SPREAD = 0.10, 0.02
"""The gate: least span of the accuracies over the layers, largest deviation between seeds. Set before any trial."""
SOURCES = ("rich", "synthetic")
IMAGENET_SOURCE = "imagenet"
VARIED, OTHERS = "real-varied", 1000
"""The domain of recoloured close-ups, and what its seeds begin with: no image is another one's in other colours."""
FIRST_SEED = 50
"""Of the networks; with those below, what can be transferred was tried before the plan was written."""
LAMBDAS = {"nodes": 0.0, "graph-1": 1.0, "graph-10": 10.0}
SCORES = ("nodes", "edges", "graph-1", "graph-10", "cka", "rsa", "depth")
METHODS = ("transfers", *SCORES, "random-layer", "scratch", "oracle")
SYN2REAL_FIX = "bring train.tar and validation.tar of VisDA-2017's classification track and unpack both in {folder}"


@dataclass(frozen=True)
class LayerPlan:
    """Everything that decides the networks and the transfers between layers, beside the seed.

    Attributes:
        name: of the folder of the networks.
        target: domain with few labels.
        synthetic: domain of the source that learns the target's classes.
        rich: the other source: a member of the zoo, "imagenet" for torchvision's weights, or a domain to learn from.
        zoo: plan of that zoo.
        number: its seed.
        network: "deep", the zoo's deep architecture, or one of torchvision's.
        size: pixels a side.
        source_images: of the synthetic domain.
        source_updates: so many that the source is over-specialised.
        rich_images: of the rich domain, if it is one.
        images: of the target domain, of which the amounts are shares.
        target_updates: of the target networks.
        test_images: of the target domain.
        amounts: percent of the labels.
        updates: of each transfer.
        epochs: passes through the labels in place of ``updates``, if any.
        repeats: transfers of each layer with each seed, from other labels and other initial weights.
        probes: of the target domain, seen by no network.
        batch: images per update.
        source_batch: the same where sources and target networks learn.
        lr: of SGD with Nesterov momentum.
        weight_decay: L2 penalty.
        constant: whether the rate stays; half a cosine if not.
        crop: pixels of zero border for random crops.
        kept: whether networks are kept on disk for other processes.
    """

    name: str = "closeups"
    target: str = "real"
    synthetic: str = "synthetic"
    rich: str = VARIED
    zoo: ZooPlan = ZooPlan()
    number: int = 0
    network: str = "deep"
    size: int = rooms.SIZE
    source_images: int = 2048
    source_updates: int = 1500
    rich_images: int = 12_288
    images: int = 12_288
    target_updates: int = 2000
    test_images: int = 4096
    amounts: tuple[int, ...] = (10, 1)
    updates: int = 300
    epochs: int = 0
    repeats: int = 3
    probes: int = 200
    batch: int = 64
    source_batch: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    constant: bool = False
    crop: int = 2
    kept: bool = True


@dataclass(frozen=True)
class LayerConfig:
    """Everything that decides a row about layers, beside the seed.

    Attributes:
        plan: of networks and transfers.
        method: "networks", or one of ``METHODS``.
        source: one of ``SOURCES``; none for "networks".
        amount: percent of the target's labels; none for "networks".
    """

    plan: LayerPlan
    method: str
    source: str = ""
    amount: int = 0


FASHION = LayerPlan(
    "fashion", "fashion", "fashion-edges", "fashion-varied", images=12_000, test_images=4000, source_updates=1500
)
ALTERNATIVES = {
    "fashion": FASHION,
    "fashion-inverted": replace(FASHION, name="fashion-inverted", synthetic="fashion-inverted"),
    "fashion-rotated": replace(FASHION, name="fashion-rotated", synthetic="fashion-rotated"),
    "closeups-semseg": replace(LayerPlan(), zoo=replace(ZooPlan(), deep=("semseg",)), rich="semseg-deep"),
    "closeups-normals": replace(LayerPlan(), zoo=replace(ZooPlan(), deep=("normals",)), rich="normals-deep"),
    "closeups-long": replace(LayerPlan(), updates=900),
}
"""Plans to try where the truth of the first does not pass the gate: ``chapter.run(row, plan=ALTERNATIVES[...])``."""


def layer_rows(plan: LayerPlan) -> dict[str, LayerConfig]:
    """The rows of a plan; those that make networks and truth come before those that read them."""
    rows = {"layers-networks": LayerConfig(plan, "networks")}
    for source in SOURCES:
        for amount in plan.amounts:
            rows |= {
                f"layers-{source}-{amount}-{method}": LayerConfig(plan, method, source, amount) for method in METHODS
            }
    return rows


# --- images -----------------------------------------------------------------------------------------------------------

HALF = (0.5,) * 3
POOL = 5
"""Sets of probes that fit into the images from which they are drawn."""
FASHION_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "fashion": lambda images: images,
    "fashion-inverted": lambda images: 255 - images,
    "fashion-rotated": lambda images: images.rot90(1, (2, 3)),
    "fashion-edges": lambda images: edges(images),
    "fashion-varied": lambda images: varied(images),
}


def edges(images: Tensor) -> Tensor:
    """The length of the gradient of uint8 images (N, C, H, W), central differences, twice as bright, uint8."""
    x = functional.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    right, down = x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2], x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1]
    return (right.square() + down.square()).sqrt().clamp(max=255).round().byte()


def varied(images: Tensor) -> Tensor:
    """Every image in one of six other styles, by its place: inverted, turned three ways, its edges alone, or coarse."""
    coarse = functional.interpolate(functional.avg_pool2d(images.float(), 4), scale_factor=4).round().byte()
    turned = [images.rot90(quarters, (2, 3)) for quarters in (1, 2, 3)]
    styles = torch.stack([255 - images, *turned, edges(images), coarse])
    place = torch.arange(len(images), device=images.device)
    return styles[place % len(styles), place]


def recoloured(images: Tensor) -> Tensor:
    """Every colour image in one of six other styles, by its place: negative, channels exchanged, grey, or pale."""
    x = images.float()
    grey = x.mean(1, keepdim=True).expand_as(x)
    styles = torch.stack([255 - x, x.roll(1, 1), x.roll(2, 1), 255 - x.roll(1, 1), grey, 64 + x / 2]).round().byte()
    place = torch.arange(len(images), device=images.device)
    return styles[place % len(styles), place]


def domain_images(domain: str, split: str, count: int, size: int, seed: int = 0) -> ImageSet:
    """Images of a domain with labels.

    Args:
        domain: "synthetic" or "real" close-ups of solids, or "real-varied", other ones in other colours; "fashion" or
            one of its variants, of other garments; "syn2real-synthetic" or "syn2real-real"; or an image set's name.
        split: "train", "test" or "probes"; probes are training images that "train" has not.
        count: how many.
        size: pixels a side.
        seed: of what is drawn.

    Raises:
        UnknownName: there is no such domain or split.
    """
    if domain in rooms.DOMAINS:
        return rooms.closeups(domain, split, count, seed).resized(size)
    if domain == VARIED:
        others = rooms.closeups("real", split, count, OTHERS + seed).resized(size)
        return replace(others, name=f"closeups_{VARIED}_{split}", images=recoloured(others.images))
    if domain in FASHION_CHANGES:
        return _fashion(domain, split, count, size, seed)
    if domain.startswith("syn2real-"):
        return syn2real(domain.removeprefix("syn2real-"), split, count, size, seed)
    whole = data.load(domain, "test" if split == "test" else "train", channels=3)
    mean, std = IMAGENET_STATISTICS
    return replace(_part(whole, split, count, seed).resized(size), mean=mean, std=std)


def _part(whole: ImageSet, split: str, count: int, seed: int) -> ImageSet:
    """Some images in an order that never changes; probes are drawn by the seed from the last of them."""
    if split not in ("train", "test", "probes"):
        raise unknown("split", split, ("train", "test", "probes"))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    if split != "probes":
        return whole.subset(order[:count])
    return whole.subset(order[-POOL * count :]).take(count, seed)


def _fashion(domain: str, split: str, count: int, size: int, seed: int) -> ImageSet:
    whole = data.load("fashion_mnist", "test" if split == "test" else "train")
    half = len(whole) // 2
    mine = whole.subset(slice(half) if domain == "fashion" or split == "test" else slice(half, None))
    drawn = _part(mine, split, count, seed).resized(size).with_channels(3)
    return replace(drawn, name=domain, images=FASHION_CHANGES[domain](drawn.images), mean=HALF, std=HALF)


def syn2real(domain: str, split: str, count: int, size: int = 224, seed: int = 0) -> ImageSet:
    """VisDA-2017 for classification (Syn2Real-C): drawn objects and photographs of twelve classes.

    Args:
        domain: "synthetic" or "real".
        split: of each class, 70 % "train", 20 % "test" (the paper's validation), 10 % "probes", cut in the order of the
            file names; how the paper's split was drawn is not known.
        count: as many at most, an equal share of each class.
        size: pixels a side, after a resize to 8/7 of it and a cut of the centre.
        seed: of the draw of probes.

    Raises:
        MissingFile: the archives are not there.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    folder = home.path("downloads", "visda2017", {"synthetic": "train", "real": "validation"}[domain])
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {SYN2REAL_FIX.format(folder=folder.parent)}")
    listed = ImageFolder(str(folder))
    labels = torch.tensor(listed.targets)
    chosen: list[int] = []
    for label in range(len(listed.classes)):
        index = (labels == label).nonzero().flatten().tolist()
        first, second = int(0.7 * len(index)), int(0.9 * len(index))
        part = {"train": index[:first], "test": index[first:second], "probes": index[second:]}[split]
        if split == "probes":
            random.Random(seed).shuffle(part)
        chosen += part[: max(1, count // len(listed.classes))]
    cutting = v2.Compose([v2.PILToTensor(), v2.Resize(size * 8 // 7), v2.CenterCrop(size)])
    pixels = torch.stack([cutting(listed[i][0]) for i in chosen])
    return ImageSet(f"syn2real_{domain}", pixels, labels[chosen], tuple(listed.classes), *IMAGENET_STATISTICS)


# --- networks ---------------------------------------------------------------------------------------------------------


def build(plan: LayerPlan, classes: int) -> nn.Module:
    """A network of the plan's architecture with fresh weights."""
    if plan.network == "deep":
        return deep_network(classes, plan.zoo.deep_widths, plan.zoo.deep_strides)
    from torchvision import models as torchvision

    return torchvision.get_model(plan.network, weights=None, num_classes=classes)


class Studio:
    """The networks of a plan: the two sources, and target networks with all labels and with the larger amount.

    Args:
        plan: what decides them.
        device: chosen by the engine if left out.
    """

    def __init__(self, plan: LayerPlan, device: str | torch.device | None = None) -> None:
        self.plan, self.device = plan, run.device(device)
        digest = "" if plan.kept else f"-{report.config_hash(plan)[:16]}"
        self.name = f"{plan.name}{digest}"
        self._found: dict[str, nn.Module] = {}
        self._images: dict[tuple[str, str], ImageSet] = {}
        # Rich last, so that the others' seeds are the same in every plan.
        self.own = ("synthetic", "target", "target-few", *(["rich"] if self.from_domain else []))

    def piece(self, name: str) -> zoo.Piece:
        """Where a network is kept."""
        return zoo.Piece(f"{self.name}/{name}", self.plan.kept, "reuselib run depara --rows layers-networks")

    @property
    def from_domain(self) -> bool:
        """Whether the rich source learns from a domain, and is neither a member of a zoo nor torchvision's."""
        return self.plan.rich not in (IMAGENET_SOURCE, *self.plan.zoo.members)

    def images(self, domain: str, split: str) -> ImageSet:
        """Images of the plan's "target", "synthetic" or "rich" domain."""
        if (domain, split) not in self._images:
            plan = self.plan
            learned = {"target": plan.images, "synthetic": plan.source_images, "rich": plan.rich_images}
            count = {"train": learned[domain], "test": plan.test_images, "probes": plan.probes}[split]
            found = domain_images(getattr(plan, domain), split, count, plan.size)
            self._images[domain, split] = found.to(self.device)
        return self._images[domain, split]

    @functools.cached_property
    def classes(self) -> int:
        """Classes of the target."""
        return len(self.images("target", "probes").classes)

    def labelled(self, amount: int, seed: int) -> ImageSet:
        """The share of the target's training images that has labels, as many of each class."""
        images = self.images("target", "train")
        return images.per_class(len(images) * amount // (100 * len(images.classes)), seed)

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides a network of the plan."""
        used = ["network", "size", "source_batch", "lr", "weight_decay", "constant", "crop"]
        used += {
            "synthetic": ["synthetic", "source_images", "source_updates"],
            "rich": ["rich", "rich_images", "target_updates"],
        }.get(name, ["target", "images", "target_updates", "amounts"])
        shape = {"deep_widths": self.plan.zoo.deep_widths, "deep_strides": self.plan.zoo.deep_strides}
        return {"name": name} | {key: value for key, value in asdict(self.plan).items() if key in used} | shape

    def train(self, progress: bool = False) -> run.Cost:
        """Train the networks that are not there yet, the zoo's own among them; returns what it cost now."""
        cost = run.Cost()
        for number, name in enumerate(self.own):
            if not self.piece(name).has():
                add_cost(cost, self._train(name, number, progress))
        if self.plan.rich in self.plan.zoo.members:
            add_cost(cost, open_zoo(self.plan.zoo, self.plan.number, self.device).train(progress, [self.plan.rich]))
        return cost

    def _train(self, name: str, number: int, progress: bool) -> run.Cost:
        plan, domain, seed = self.plan, name.removesuffix("-few"), FIRST_SEED + number
        images = self.images(domain, "train")
        updates = plan.source_updates if name == "synthetic" else plan.target_updates
        if name == "target-few":
            images = self.labelled(max(plan.amounts), seed)
        with run.seeded(seed):  # for the initial weights, then for dropout
            network = run.on_device(build(plan, len(images.classes)), self.device)
            history = learn(
                network,
                images,
                plan,
                updates,
                seed,
                plan.source_batch,
                progress=progress,
                title=f"{plan.name}: {name}",
                checkpoint=self.piece(name).checkpoint,
                settings=report.config_hash(self.recipe(name)),
            )
        network.eval().requires_grad_(False)
        tests = {key: self.images(key, "test") for key in dict.fromkeys(("target", domain))}
        accuracies = {f"accuracy_{key}": run.accuracy(network, test, 250) for key, test in tests.items()}
        self.piece(name).save(
            network,
            history,
            recipe=self.recipe(name),
            **accuracies,
            images=len(images),
            precision=run.precision(self.device).name,
            device=self.device.type,
            seconds=round(seconds(history.cost, self.device), 2),
        )
        return history.cost

    def network(self, name: str) -> nn.Module:
        """A network: "rich", or one of the plan; frozen, in evaluation mode, the same object every time."""
        if name not in self._found:
            self._found[name] = self._load(name).to(self.device).eval().requires_grad_(False)
        return self._found[name]

    def _load(self, name: str) -> nn.Module:
        plan = self.plan
        if name == "rich" and not self.from_domain:
            if plan.rich == IMAGENET_SOURCE:
                from reuselib.attribution.classifiers import classifier

                return classifier(plan.network, self.device)
            return open_zoo(plan.zoo, plan.number, self.device).network(plan.rich)
        with run.seeded(0):
            network = build(plan, len(self.images(name.removesuffix("-few"), "probes").classes))
        return self.piece(name).load(network, self.recipe(name))

    def metrics(self) -> dict[str, float]:
        """Seconds and accuracies of the networks of the plan, on the target's test images and on their own."""
        cards = {name: self.piece(name).card() for name in self.own}
        found = {
            f"{name}_{key}".replace("accuracy_", "on_"): card[key]
            for name, card in cards.items()
            for key in card
            if key.startswith("accuracy_")
        }
        return found | {"seconds": sum(card["seconds"] for card in cards.values())}

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The convolutions and linear layers, but for the last, that both sources and the target's network have."""
        with run.seeded(0):
            network = build(self.plan, self.classes).to(self.device)
        names = layer_names(network, self.images("target", "probes"))[:-1]
        parts = [dict(each.named_parameters()) for each in (network, *map(self.network, SOURCES))]
        shapes = [[part[key].shape if (key := f"{name}.weight") in part else None for part in parts] for name in names]
        shared = [len(set(each)) == 1 for each in shapes] + [False]
        if not shared.index(False):
            raise ShapeMismatch(
                f"The sources of {self.plan.name} and its target have no layer in common. Give the plan a rich source "
                "of the same architecture."
            )
        return tuple(names[: shared.index(False)])


def learn(
    network: nn.Module, images: ImageSet, plan: LayerPlan, updates: int, seed: int, batch: int, **options: Any
) -> run.History:
    """Train a classifier, or what is not frozen of it, by the plan's recipe."""
    schedule = run.constant if plan.constant else run.cosine(updates, warmup=updates // 20)
    method = Supervised(
        network,
        images,
        batch=batch,
        lr=plan.lr,
        weight_decay=plan.weight_decay,
        schedule=schedule,
        crop=plan.crop,
        flip=True,
        seed=seed,
    )
    method.steps_per_round = rounds(updates)
    return run.run(method, updates // method.steps_per_round, **options)


def updates_of(plan: LayerPlan, images: int) -> int:
    """The updates of a transfer from so many labelled images."""
    return math.ceil(plan.epochs * images / plan.batch) or plan.updates


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
        count = sum(name.startswith("accuracy_") for name in metrics)
        names = range(1, count + 1)
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
    plan, settings = studio.plan, f"{report.config_hash(studio.plan)} {source} {amount} seed {seed}"
    done: dict[str, Any] = {"settings": settings, "accuracy": {}, "cost": vars(run.Cost())}
    if checkpoint is not None and Path(checkpoint).is_file():
        done = run.load_checkpoint(checkpoint)
        if done.get("settings") != settings:
            raise ReuseError(f"The checkpoint {checkpoint} was made with other settings. Delete it, or give another.")
    cost, wanted = run.Cost(**done["cost"]), [("", r) for r in range(plan.repeats)]
    wanted += [(layer, repeat) for layer in studio.layers for repeat in range(plan.repeats)]
    with Progress(
        total=len(wanted),
        initial=len(done["accuracy"]),
        disable=not progress,
        desc=f"{source}, {amount} %",
        unit="transfer",
    ) as bar:
        for layer, repeat in wanted:
            if (name := f"{layer}/{repeat}") not in done["accuracy"]:
                done["accuracy"][name], spent = one_transfer(studio, source, layer, amount, 1000 * seed + repeat)
                add_cost(cost, spent)
                if checkpoint is not None:
                    run.save_checkpoint(checkpoint, done | {"cost": vars(cost)})
                bar.update()
    each = [
        Cuts(tuple(done["accuracy"][f"{layer}/{r}"] for layer in studio.layers), (), done["accuracy"][f"/{r}"])
        for r in range(plan.repeats)
    ]
    return Cuts.over(each), cost


def one_transfer(studio: Studio, source: str, layer: str, amount: int, seed: int) -> tuple[float, run.Cost]:
    """Freeze a source up to a layer, train the rest; all of it from scratch if the layer is ``""``.

    Returns:
        The accuracy on the target's test images, and the cost of the training.
    """
    plan, images, probes = studio.plan, studio.labelled(amount, seed), studio.images("target", "probes")
    make = functools.partial(build, plan, studio.classes)
    with run.seeded(seed):
        network = make().to(studio.device)
    if layer:
        few = probes.normalised(probes.images[:2])
        network = cut(studio.network(source), make, layer, few, seed=seed)
    with run.seeded(seed):  # for dropout
        history = learn(network, images, plan, updates_of(plan, len(images)), seed, plan.batch, progress=False)
    return run.accuracy(network, studio.images("target", "test"), 250), history.cost


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
        self.centred = centred

    @functools.cached_property
    def last(self) -> str:
        """The layer of the target network whose graph is the target: its logits."""
        return layer_names(self.target, self.probes)[-1]

    @functools.cached_property
    def goal(self) -> Graph:
        """The graph of the target network."""
        return layer_graphs(self.target, self.probes, [self.last], centred=self.centred)[self.last]

    @functools.cached_property
    def graphs(self) -> dict[str, Graph]:
        """The graph of every layer of the source."""
        return layer_graphs(self.network, self.probes, self.layers, centred=self.centred)

    def of(self, method: str) -> list[float]:
        """The score of every layer.

        Raises:
            UnknownName: there is no such score.
        """
        if method not in SCORES:
            raise unknown("score of layers", method, SCORES)
        if method == "depth":
            return [float(k) for k in range(1, len(self.layers) + 1)]
        if method in ("cka", "rsa"):
            compare = cka if method == "cka" else rsa
            goal = features(self.target, self.probes, where=self.last)
            return [compare(features(self.network, self.probes, where=layer), goal) for layer in self.layers]
        graphs = self.graphs.values()
        if method == "edges":
            return [edge_similarity(graph, self.goal) for graph in graphs]
        return [graph_similarity(graph, self.goal, LAMBDAS[method]) for graph in graphs]


def chosen(scores: Sequence[float], cuts: Cuts, name: str = "") -> dict[str, float]:
    """What comes of taking the layer with the highest score, the first of equal ones.

    Args:
        scores: one for each layer.
        cuts: the truth.
        name: appended to the names of the metrics.
    """
    best = list(scores).index(max(scores))
    agreement = spearman(torch.tensor(scores), torch.tensor(cuts.accuracy), "average")
    return {
        f"spearman{name}": agreement if agreement == agreement else 0.0,
        f"chosen{name}": cuts.accuracy[best],
        f"depth{name}": best + 1.0,
    }


def judged(studio: Studio, config: LayerConfig, cuts: Cuts, seed: int) -> tuple[dict[str, float], run.Cost]:
    """The metrics of a row, and what its scores cost."""
    cost, accuracy = run.Cost(), cuts.accuracy
    plain: dict[str, dict[str, float]] = {
        "oracle": {"chosen": max(accuracy), "depth": float(cuts.best)},
        "random-layer": {"chosen": statistics.fmean(accuracy)},
        "scratch": {"chosen": cuts.scratch},
    }
    if config.method in plain:
        return plain[config.method] | {"span": cuts.span}, cost
    variants: dict[str, dict[str, Any]] = {"": {}}
    if config.method in ("nodes", "edges", "graph-1", "graph-10"):
        variants |= {"_few": {"target": "target-few"}, "_centred": {"centred": True}}
    metrics: dict[str, float] = {}
    for name, options in variants.items():
        with run.measured(cost if not name else run.Cost()):
            scores = LayerScores(studio, config.source, seed=seed, **options).of(config.method)
        metrics |= chosen(scores, cuts, name)
        if not name:
            metrics |= {f"score_{k}": score for k, score in enumerate(scores, 1)}
    return metrics | {"seconds": seconds(cost, studio.device)}, cost


@functools.lru_cache(maxsize=4)
def _open(room: Path, plan: LayerPlan, device: str) -> Studio:
    return Studio(plan, device)


def open_studio(plan: LayerPlan, device: str | torch.device | None = None) -> Studio:
    """The studio of a plan, the same object as long as the data room stays the same."""
    return _open(home.root(), plan, str(run.device(device)))


@functools.lru_cache(maxsize=64)
def computed_cuts(studio: Studio, source: str, amount: int, seed: int) -> Cuts:
    """The truth where no record holds it, worked out once in a process."""
    return transfers(studio, source, amount, seed)[0]


def predict(plan: LayerPlan) -> dict[str, Prediction]:
    """Predict the cost of the sources and target networks, and of all transfers with one seed.

    Returns:
        Operations and memory of "networks" and "transfers", images and tests left out; trust them to a factor of two.
    """
    with torch.device("meta"), run.seeded(0):
        network = build(plan, 12)
        images = torch.zeros(plan.source_batch, 3, plan.size, plan.size)
    counter = FlopCounterMode(display=False)
    with counter:
        network(images)
    forward = counter.get_total_flops() / plan.source_batch
    memory = 12.0 * nets.parameter_count(network) + saved_bytes(lambda: network(images))
    layers = layer_names(network, images)[:-1]
    updates = sum(updates_of(plan, plan.images * amount // 100) for amount in plan.amounts) * plan.repeats * plan.batch
    learned = plan.source_batch * (plan.source_updates + 2 * plan.target_updates)
    # Behind a cut nothing goes backward: two passes of three on the average.
    cuts = len(SOURCES) * len(layers) * 2 + len(SOURCES) * 3
    return {
        "networks": Prediction(3 * forward * learned, memory),
        "transfers": Prediction(forward * updates * cuts, memory),
    }
