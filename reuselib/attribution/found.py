"""A zoo that was found, not made for this: networks of many origins, and how well each serves tasks with few labels.

Its members learned ImageNet (three EfficientNets), CIFAR-10, digits, clothes, drawn shapes and symbols, or tasks of the
rooms; a few never learned. All are given the same coloured images of 32x32 pixels, which each turns into what it takes.
The truth is measured in two ways: by a linear readout of the frozen features, and by a short fine-tuning of the whole
network that starts from that readout. Its pieces::

    zoo/found/animals/     weights.safetensors  card.json  log.csv   of the one member that is trained for this
    zoo/found/readout/     losses.safetensors   card.json            the losses of all readouts, image by image
    zoo/found/finetuning/  losses.safetensors   card.json            the same after fine-tuning
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import checks, data, home, nets, run
from reuselib.attribution import job, learning, ordinal
from reuselib.attribution.evaluation import Truth
from reuselib.attribution.representation import Adapted, features
from reuselib.attribution.rooms_zoo import PLAN as ROOMS_PLAN
from reuselib.attribution.rooms_zoo import open_zoo
from reuselib.data import ImageSet
from reuselib.data.image_set import HALVES, Statistics
from reuselib.errors import unknown
from reuselib.nets import efficientnet, zoo
from reuselib.nets.recipes import RECIPES
from reuselib.nets.supervised import Supervised
from reuselib.run import Settings
from reuselib.worlds import rooms

SIDE = rooms.SIZE
"""Pixels a side of the images that all members are given."""
ANIMALS = (2, 3, 4, 5, 6, 7)
"""CIFAR-10's labels of animals."""
PROBED = {"photographs": "cifar10-jpeg", "fashion": "fashion_mnist"}
PROBES = (*PROBED, "world", "noise")
SEED = 7000
"""The first seed of everything that is drawn for the truth."""


class Member(NamedTuple):
    """A network of the zoo.

    Attributes:
        origin: "imagenet", "zoo", "rooms", "here" (trained for this) or "untrained".
        name: there; of an untrained one, the member whose architecture it has.
        group: made by hand.
    """

    origin: str
    name: str
    group: str


MEMBERS = {
    **{f"lite{number}": Member("imagenet", str(number), "photographs") for number in efficientnet.SIZES},
    "cifar10": Member("zoo", "cifar10-jpeg-resnet20", "photographs"),
    "animals": Member("here", "animals", "photographs"),
    "mnist": Member("zoo", "mnist32-lenet5", "signs"),
    "digits": Member("zoo", "digits8-conv3", "signs"),
    "symbols": Member("zoo", "symbols16-vgg", "signs"),
    "clothes": Member("zoo", "fashion32-lenet5", "clothes"),
    "clothes-resnet": Member("zoo", "fashion28-resnet", "clothes"),
    "shapes": Member("zoo", "shapes16-conv4", "shapes"),
    **{task: Member("rooms", task, "rooms") for task in ("scene", "depth", "semseg", "edge2d", "autoencoder")},
    **{f"untrained-{name}": Member("untrained", name, "untrained") for name in ("lite0", "animals", "mnist", "scene")},
}
TARGETS = {
    "cifar10": "cifar10-jpeg",
    "animals": "cifar10-jpeg",
    "mnist": "mnist",
    "digits": "digits",
    "symbols": "symbols",
    "clothes": "fashion_mnist",
    "shapes": "shapes",
    "scene": "rooms",
}
"""Target, named by the member that learned it with all labels → its images."""

PLAN = Settings(
    name="found",
    members=tuple(MEMBERS),
    targets=tuple(TARGETS),
    amounts=(100, 10),  # labels of each class; the first is that of the truth, and of fine-tuning
    rooms=2048,  # from which those with labels are drawn
    test_images=350,
    size=96,  # pixels a side, in which ImageNet's networks are given the images
    updates=1000,  # of the network of animals
    batch=128,
    lr=0.1,
    tuning_updates=24,  # of each fine-tuning
    tuning_batch=32,
    tuning_lr=1e-4,  # of Adam: SGD destroys what has features of another scale; of 3e-5 to 1e-3 by images of no table
    sharpness=10.0,  # the readout's answers, between 0 and 1, times this are the first logits of fine-tuning
    top=4,  # of the best sources are relevant
    kept=True,  # on disk, for other processes
)
"""Everything that decides the zoo and its truth."""
TUNING = "tuning_updates", "tuning_batch", "tuning_lr", "sharpness"
"""Of that, what decides fine-tuning alone."""


class Reader(nn.Module):
    """A network and a linear readout of its representation; its norms keep their statistics, for labels are few."""

    def __init__(self, network: Adapted, weight: Tensor, bias: Tensor) -> None:
        """Take copies of the network and of the readout."""
        super().__init__()
        self.network, self.head = copy.deepcopy(network), nn.Linear(weight.shape[1], weight.shape[0])
        self.head.load_state_dict({"weight": weight, "bias": bias})
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> Reader:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Answer from the representation."""
        return self.head(self.network.represent(images).flatten(1))


def target_images(target: str, split: str, count: int = 0) -> ImageSet:
    """The images of a target, "train" or "test", coloured, of 32x32 pixels, in [-1, 1] once normalised.

    Args:
        target: one of ``TARGETS``.
        split: likewise; test images of a set that gives probes too are those of its first half.
        count: of rooms, which are drawn; of all others there are as many as there are.

    Raises:
        UnknownName: there is no such target.
    """
    checks.known("target", TARGETS, target)
    if target == "scene":
        found = rooms.rooms("transfer" if split == "train" else "test", count, 0)
        return replace(found.images, labels=found.labels("scene"), classes=rooms.ROOMS)
    chosen = whole = data.load(TARGETS[target], split, channels=3)
    if split == "test" and TARGETS[target] in PROBED.values():
        chosen = whole[: len(whole) // 2]
    if target == "animals":
        chosen = chosen.subset(torch.isin(chosen.labels, torch.tensor(ANIMALS)))
        chosen = replace(chosen, labels=chosen.labels - ANIMALS[0], classes=tuple(whole.classes[a] for a in ANIMALS))
    return replace(chosen.resized(SIDE), mean=HALVES[0], std=HALVES[1])


def probe_images(name: str, count: int, seed: int, where: torch.device | str) -> ImageSet:
    """Unlabelled probe images: photographs of CIFAR-10, clothes, rooms or uniform noise; none measures the truth.

    Raises:
        UnknownName: there are no such probes.
        BadValue: count or seed cannot be meant.
    """
    checks.whole(count=count)
    checks.known("probes", PROBES, name)
    if name not in PROBED:
        return job.probe_images(name, count, seed, where)
    whole = data.load(PROBED[name], "test", size=SIDE, channels=3)
    drawn = whole[len(whole) // 2 :].take(count, seed).unlabelled()
    return replace(drawn, mean=HALVES[0], std=HALVES[1]).to(where)


def readout(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The ridge regression of the classes on features, its penalty chosen by leaving one image out.

    Args:
        x: (n, U).
        labels: int64 (n,).
        classes: how many.

    Returns:
        Weights (classes, U) and biases (classes,), float32, for features as they are.
    """
    from sklearn.linear_model import RidgeCV

    where, x = x.device, x.cpu()  # not every accelerator has float64
    mean, std = x.double().mean(0), x.double().std(0)
    std = torch.where(std > 0, std, 1)  # however small: features of untrained networks are
    answers = F.one_hot(labels.cpu(), classes).double().numpy()
    found = RidgeCV([10.0**power for power in range(-1, 6)]).fit(((x - mean) / std).numpy(), answers)
    weight = torch.from_numpy(found.coef_) / std
    return weight.float().to(where), (torch.from_numpy(found.intercept_) - weight @ mean).float().to(where)


class FoundZoo(learning.Shelf):
    """The members of a plan and the truth, which is measured when it is asked for the first time.

    Args:
        plan: what decides it.
        device: chosen if left out.

    Raises:
        UnknownName: the plan has a member or a target that there is not.
        BadValue: it has a number that cannot be meant.
    """

    command = "reuselib run attribution --scale colab"
    made = ("readout", "finetuning")

    def __init__(self, plan: Settings, device: str | torch.device | None = None) -> None:
        checks.known("network", MEMBERS, *plan.members)
        if odd := [name for name in plan.targets if name not in TARGETS or name not in plan.members]:
            raise unknown("target among the members", odd[0], TARGETS)
        checks.whole(**{name: plan[name] for name in ("test_images", "size", "updates", "tuning_updates", "top")})
        super().__init__(plan, device)
        self.tasks, self.targets = tuple(plan.members), tuple(plan.targets)
        self.sides = self.targets, self.tasks
        self.everyone = tuple(name for name in plan.members if MEMBERS[name].origin == "here")
        self.groups = {name: MEMBERS[name].group for name in plan.members}
        self.network, self.few = cache(self._network), cache(self._few)

    # --- members

    def _network(self, name: str) -> Adapted:
        """A member: frozen, in evaluation mode; the same object every time."""
        origin, there, _ = MEMBERS[name]
        if origin == "untrained" or self.device.type == "meta":
            return self.fresh(name)
        if origin == "imagenet":
            return self._adapted(name, efficientnet.load(int(there), self.device))
        if origin == "zoo":
            return self._adapted(name, zoo.load(there, self.device))
        if origin == "rooms":
            return self._adapted(name, open_zoo(ROOMS_PLAN, 0, self.device).network(there))
        return self._adapted(name, self.piece(name).load(self._untrained(name), self.recipe(name)))

    def fresh(self, name: str) -> Adapted:
        """A member before any training."""
        member = MEMBERS[name]
        base = member.name if member.origin == "untrained" else name
        with run.seeded(SEED + list(MEMBERS).index(name)):
            return self._adapted(base, self._untrained(base))

    def _untrained(self, name: str) -> nn.Module:
        origin, there, _ = MEMBERS[name]
        if origin == "imagenet":
            return efficientnet.load(int(there), self.device, untrained=True)
        if origin == "rooms":
            return open_zoo(ROOMS_PLAN, 0, self.device).fresh(there)
        with torch.device("meta" if self.device.type == "meta" else "cpu"):
            if origin == "here":
                return nets.build("small_resnet", depth_blocks=(1, 1, 1), width=16, classes=len(ANIMALS), channels=3)
            recipe, space = RECIPES[there], nets.blank.SPACES[RECIPES[there].dataset]
            return nets.build(recipe.architecture, **recipe.arguments, classes=space.classes, channels=space.channels)

    def _adapted(self, name: str, network: nn.Module) -> Adapted:
        origin, there, _ = MEMBERS[name]
        shape: tuple[int, int, Statistics] = 3, SIDE, HALVES
        if origin == "imagenet":
            shape = 3, self.plan.size, efficientnet.NORMALISATION
        if origin == "zoo":
            space, side = nets.blank.SPACES[RECIPES[there].dataset], RECIPES[there].size
            card = {"mean": (0.5,) * space.channels, "std": (0.5,) * space.channels}
            card = card if self.device.type == "meta" else zoo.card(there)
            shape = space.channels, side or space.side, (tuple(card["mean"]), tuple(card["std"]))
        return Adapted(run.on_device(network, self.device), *shape).to(self.device).eval().requires_grad_(False)

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides the member that is trained here."""
        return {"name": name} | {key: self.plan[key] for key in ("updates", "batch", "lr")}

    def seed_of(self, name: str) -> int:
        """The seed of that member."""
        return SEED

    def course(self, name: str) -> tuple[Supervised, int]:
        """How it learns."""
        if self.device.type == "meta":
            images = replace(nets.blank.images("cifar10-jpeg"), classes=tuple("123456"))
        else:
            images = target_images(name, "train").to(self.device)
        network, plan = run.on_device(self._untrained(name), self.device), self.plan
        schedule = run.cosine(plan.updates, plan.updates // 20)
        options = {"batch": plan.batch, "lr": plan.lr, "schedule": schedule, "crop": 4, "flip": True}
        return Supervised(network, images, seed=self.seed_of(name), **options), plan.updates

    def measured(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Its accuracy on test images."""
        return {"accuracy": run.accuracy(network, target_images(name, "test").to(self.device))}

    # --- the truth

    def _few(self, target: str, amount: int) -> tuple[ImageSet, ImageSet]:
        """The images of a target that have labels, so many of each class, and the test images."""
        training = target_images(target, "train", self.plan.rooms).per_class(amount, SEED)
        test = target_images(target, "test", self.plan.test_images).take(self.plan.test_images, SEED)
        return training.to(self.device), test.to(self.device)

    def read(self, target: str, source: str, amount: int) -> tuple[Tensor, Tensor, float]:
        """The readout of a source: weights, the squared error on each test image (n,), and the accuracy."""
        training, test = self.few(target, amount)
        x, y = (features(self.network(source), images) for images in (training, test))
        weight, bias = readout(x, training.labels, len(training.classes))
        answers = F.linear(y, weight, bias)
        errors = (answers - F.one_hot(test.labels, len(test.classes))).square().sum(1)
        return torch.cat([weight, bias.unsqueeze(1)], 1), errors.cpu(), _share(answers, test.labels)

    def tune(self, target: str, source: str) -> tuple[Tensor, float]:
        """Fine-tune a source from its readout: the cross-entropy on each test image (n,), and the accuracy."""
        plan, (training, test) = self.plan, self.few(target, self.plan.amounts[0])
        head = self.read(target, source, plan.amounts[0])[0] * plan.sharpness
        reader = Reader(self.network(source), head[:, :-1], head[:, -1]).to(self.device)
        schedule = run.cosine(plan.tuning_updates)
        options = {"batch": plan.tuning_batch, "lr": plan.tuning_lr, "schedule": schedule, "weight_decay": 0.0}
        method = Supervised(reader, training, seed=SEED, adam=True, **options)
        with run.seeded(SEED):
            run.run(method, updates=plan.tuning_updates, report_every=plan.tuning_updates, progress=False)
        with run.frozen(reader), torch.no_grad():
            answers = torch.cat([reader(x) for x, _ in test.batches(64)])
        return F.cross_entropy(answers, test.labels, reduction="none").cpu(), _share(answers, test.labels)

    def _measure(self, kind: str, target: str, source: str) -> tuple[Tensor, list[float]]:
        """The losses of one transfer, (amounts, n), and the accuracies."""
        if kind == "finetuning":
            losses, right = self.tune(target, source)
            return losses.unsqueeze(0), [right]
        found = [self.read(target, source, amount)[1:] for amount in self.plan.amounts]
        return torch.stack([losses for losses, _ in found]), [right for _, right in found]

    def row(self, kind: str, target: str) -> tuple[learning.Row, run.Cost]:
        """Measure how well every source serves a target: losses (amounts, sources, test images), and accuracies."""
        with run.measured(cost := run.Cost()):
            pairs = [self._measure(kind, target, source) for source in self.tasks]
        losses, accuracy = zip(*pairs, strict=True)
        return (torch.stack(losses, 1), {"accuracy": list(accuracy)}), cost

    def table_recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides a table, the plan's folder aside; readouts are made before anything is tuned."""
        others = ("name", "kept", "top") + (TUNING if name == "readout" else ())
        return {key: value for key, value in self.plan.plain().items() if key not in others}

    @cached_property
    def all_losses(self) -> dict[str, Tensor]:
        """The losses of all transfers by truth, (T, S, test images): "" is that of the readout with more labels."""
        read, tuned = (self.piece(kind).tensors(self.table_recipe(kind))["losses"] for kind in self.made)
        return {"": read[0], "_few": read[1], "_tuned": tuned[0]}

    @property
    def losses(self) -> Tensor:
        """Those of the first truth."""
        return self.all_losses[""]

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What truly transfers to what, by the names of :attr:`all_losses`."""
        return {
            name: Truth(self.targets, self.tasks, ordinal.affinities(losses), self.plan.top)
            for name, losses in self.all_losses.items()
        }

    @property
    def truth(self) -> Truth:
        """That of the readout with more labels."""
        return self.truths[""]

    def metrics(self, kind: str) -> dict[str, float]:
        """Seconds and accuracies: of the "training", or by target of its own network, the best other, and untrained."""
        if kind == "training":
            cards = {name: self.piece(name).card() for name in self.everyone}
            return {f"{key}_{name}": card[key] for name, card in cards.items() for key in ("accuracy", "seconds")}
        card, found = self.piece(kind).card(), {}
        for target, rows in card["accuracy"].items():
            right = dict(zip(card["sources"], (row[0] for row in rows), strict=True))
            found[f"own_{target}"] = right.pop(target)
            found[f"best_{target}"] = max(right.values())
            untrained = [value for name, value in right.items() if MEMBERS[name].origin == "untrained"]
            found[f"untrained_{target}"] = statistics.fmean(untrained) if untrained else 0.0
        return found | {"seconds": card["seconds"], "transfers": len(card["sources"]) * len(card["targets"])}


def _share(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1) == labels).double().mean())


def open_found(plan: Settings, device: str | torch.device | None = None) -> FoundZoo:
    """The zoo of a plan, the same object as long as the data room stays the same."""
    return learning.opened(home.root(), FoundZoo, plan, str(run.device(device)))


def found_needed(plan: Settings, probes: str) -> tuple[set[str], set[str]]:
    """The image sets and the networks that a row on the zoo reads."""
    read = {TARGETS[target] for target in plan.targets} | ({PROBED[probes]} if probes in PROBED else set())
    origins: dict[str, Callable[[str], str]] = {"zoo": str, "rooms": lambda task: f"{ROOMS_PLAN.name}-0/{task}"}
    pieces = {origins[m.origin](m.name) for m in map(MEMBERS.__getitem__, plan.members) if m.origin in origins}
    read |= {"efficientnet_lite"} if any(MEMBERS[name].origin == "imagenet" for name in plan.members) else set()
    return read - {"rooms"}, pieces | open_found(plan, "meta").shipped
