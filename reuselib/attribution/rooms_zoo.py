"""The zoos of room networks and the true transfers between them: what chapters 07 and 08 rank against.

A zoo is one network for each task of the rooms, all with independent initial weights, and a few more with another
encoder. Its transfers train a small readout on every frozen encoder for every target. Whatever is finished is kept:

    zoo/rooms-0/depth/      weights.safetensors  card.json  log.csv        of one network
    zoo/rooms-0/transfers/  losses.safetensors   card.json                 the losses of all transfers, image by image

A run that was cut off goes on where it was, and ends with the same bits on the same processor.
"""

from functools import cache, cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from reuselib import checks, home, nets, run
from reuselib.attribution import learning, ordinal
from reuselib.attribution.evaluation import Truth
from reuselib.attribution.learning import Lesson, TaskLearning, in_range
from reuselib.nets import TaskNetwork
from reuselib.run import Settings
from reuselib.worlds import rooms

UNTRAINED = "untrained"
"""The source of the transfers from an encoder with random weights."""
DENOISE, COLOR = "denoise", "color"
ENCODERS = ("plain", "residual")

PLAN = Settings(
    name="rooms",  # of its folder, before the seed
    tasks=tuple(rooms.TASKS),  # one network each; those that are no `source_only` are targets
    residual=("autoencoder", "edge2d", "depth", "normals", "semseg"),  # a second network, with the residual encoder
    images=rooms.SPLITS["zoo"],
    updates=1500,
    batch=64,  # here and in the transfers
    lr=2e-3,
    weight_decay=2e-6,
    # A network enters its zoo if its test loss is at most this share of the blind predictor's. Set before any training.
    gate=0.9,
    transfer_images=rooms.SPLITS["transfer"],  # no network has seen them
    test_images=rooms.SPLITS["test"],  # for the gate, and for the losses of the transfers
    transfer_updates=150,
    transfer_lr=3e-3,
    transfer_weight_decay=1e-6,
    top=4,  # of the best sources are relevant
    kept=True,  # on disk, for other processes
)
"""Everything that decides a zoo and its transfers, beside its seed, from which the images are drawn too."""


class Member(NamedTuple):
    """A network of a zoo.

    Attributes:
        task: that it learns.
        encoder: one of ``ENCODERS``.
    """

    task: str
    encoder: str = "plain"

    @property
    def name(self) -> str:
        """The task alone for the networks of the matrix, with the encoder for the others."""
        return self.task if self.encoder == "plain" else f"{self.task}-{self.encoder}"

    @property
    def number(self) -> int:
        """Its place, below 40, from which its seed is made: the same whatever other members there are."""
        return 20 * ENCODERS.index(self.encoder) + list(rooms.TASKS).index(self.task)


def members(plan: Settings) -> dict[str, Member]:
    """All networks of a plan by name, those of the matrix of transfers first."""
    found = [*(Member(task) for task in plan.tasks), *(Member(task, "residual") for task in plan.residual)]
    return {member.name: member for member in found}


SEEDS, READOUTS, FRESH, NOISE = 100, 60, 58, 90
"""Seeds in one zoo; the first seed of the readouts; those of the untrained encoder, and of the noise on images."""


def build(member: Member, seed: int) -> TaskNetwork:
    """A network with the initial weights of a seed, on the CPU."""
    asked = rooms.task(member.task)
    with run.seeded(seed):
        return nets.task_network(asked.shape[0], asked.dense, member.encoder)


class Zoo(learning.Shelf):
    """The networks of a plan with one seed, and their transfers: made when they are asked for the first time.

    Args:
        plan: what decides it.
        seed: of the weights and of the images, another world of rooms for each.
        device: chosen if left out.

    Raises:
        UnknownName: the plan has a task that there is not.
        BadValue: it has a number that cannot be meant.
    """

    command = "reuselib run attribution"
    made = ("transfers",)

    def __init__(self, plan: Settings, seed: int, device: str | torch.device | None = None) -> None:
        checks.known("task", rooms.TASKS, *plan.tasks, *plan.residual)
        checks.whole(0, checks.SEEDS // SEEDS, seed=seed)
        checks.whole(**{name: plan[name] for name in ("images", "transfer_images", "test_images", "top")})
        checks.number(gate=plan.gate)
        super().__init__(plan, device, f"-{seed}")
        self.seed, self.members = seed, members(plan)
        targets = tuple(task for task in plan.tasks if not rooms.task(task).source_only)
        self.sides = targets, (*plan.tasks, UNTRAINED)
        self.everyone, self.network, self.codes = self.members, cache(self._network), cache(self._codes)

    def room_set(self, split: str) -> rooms.RoomSet:
        """The images of a split: "zoo", "transfer" or "test"."""
        count = self.plan["images" if split == "zoo" else f"{split}_images"]
        return rooms.rooms(split, count, self.seed, self.device)

    def lesson(self, task: str, split: str = "zoo") -> Lesson:
        """Images of a split with compact labels of a task."""
        found = self.room_set(split)
        return Lesson(task, found.images.images, learning.compact(task, found.labels(task)))

    def inputs(self, task: str, split: str) -> Tensor:
        """What networks for a task are given of the images of a split; the noise is always the same."""
        generator = run.generator(self.device, SEEDS * self.seed + NOISE)
        return rooms.inputs(task, in_range(self.room_set(split).images.images), generator)

    # --- networks

    def member(self, name: str) -> Member:
        """A member by name.

        Raises:
            UnknownName: there is none.
        """
        checks.known(f"network of {self.name}", self.members, name)
        return self.members[name]

    def fresh(self, name: str) -> TaskNetwork:
        """The network of a member before any training, in evaluation mode."""
        network = build(self.member(name), self.seed_of(name))
        return run.on_device(network, self.device).eval().requires_grad_(False)

    def card(self, name: str) -> dict[str, Any]:
        """The card of a member: its task, losses, gate, cost, recipe, SHA-256.

        Raises:
            MissingFile: it has not been trained.
        """
        self.member(name)
        return self.piece(name).card()

    def _network(self, name: str) -> TaskNetwork:
        """A trained member: verified, frozen, in evaluation mode; the same object every time.

        Raises:
            MissingFile: it has not been trained.
            DamagedFile: its weights were altered.
        """
        return cast(TaskNetwork, self.piece(name).load(self.fresh(name), self.recipe(name)))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose networks passed the gate: the sources."""
        return tuple(task for task in self.plan.tasks if self.card(task)["passed"])

    @property
    def targets(self) -> tuple[str, ...]:
        """Those of them to which is transferred."""
        return tuple(task for task in self.tasks if not rooms.task(task).source_only)

    @property
    def groups(self) -> dict[str, str]:
        """The group of each task, made by hand."""
        return {task: rooms.task(task).group for task in self.plan.tasks}

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides a member."""
        used = ("images", "updates", "batch", "lr", "weight_decay", "gate", "test_images")
        return self.member(name)._asdict() | {"zoo": self.seed} | {field: self.plan[field] for field in used}

    def seed_of(self, name: str) -> int:
        """The seed of a member."""
        return SEEDS * self.seed + self.member(name).number

    def course(self, name: str) -> tuple[TaskLearning, int]:
        """How a member learns."""
        network, lesson = self.fresh(name).requires_grad_(True), self.lesson(self.member(name).task)
        options = {key: self.plan[key] for key in ("updates", "batch", "lr", "weight_decay")}
        return TaskLearning(network, lesson, seed=self.seed_of(name), **options), self.plan.updates

    def measured(self, name: str, network: nn.Module) -> dict[str, Any]:
        """The loss of a member on the test images, that of the blind answer, and whether it passes the gate."""
        task = self.member(name).task
        labels = self.room_set("test").labels(task)
        loss = float(learning.image_losses(network, self.inputs(task, "test"), task, labels).mean())
        blind = learning.blind_loss(task, self.lesson(task).labels, labels)
        return {"test_loss": loss, "blind_loss": blind, "passed": loss <= self.plan.gate * blind}

    # --- transfers

    @torch.no_grad()
    def represent(self, source: str, images: Tensor) -> Tensor:
        """What the frozen encoder of a source makes of images in [-1, 1]; that of color sees them in grey."""
        if source == UNTRAINED:
            network = build(Member(self.plan.tasks[0]), SEEDS * self.seed + FRESH).to(self.device)
        else:
            network = self.network(source)
        x = rooms.inputs(COLOR, images) if source == COLOR else images
        with run.frozen(network):
            return torch.cat([network.represent(part) for part in x.split(256)])

    def _codes(self, source: str, split: str, noisy: bool) -> Tensor:
        """The representations of the images of a split, or of the same with noise."""
        return self.represent(source, self.inputs(DENOISE if noisy else "autoencoder", split))

    def table_recipe(self, name: str = "transfers") -> dict[str, Any]:
        """Everything that decides the transfers, the networks among it."""
        used = ("transfer_images", "test_images", "transfer_updates", "batch", "transfer_lr", "transfer_weight_decay")
        weights = {name: self.card(name)["sha256"] for name in self.plan.tasks}
        return {"zoo": self.seed} | {field: self.plan[field] for field in used} | {"weights": weights}

    def row(self, name: str, target: str) -> tuple[learning.Row, run.Cost]:
        """Transfer every source to a target."""
        losses, costs = zip(*(self.train_readout(target, source) for source in self.sides[1]), strict=True)
        total = run.Cost()
        for cost in costs:
            total.add(cost)
        spent = [round(learning.seconds(cost, self.device), 3) for cost in costs]
        return (torch.stack(losses), {"seconds_each": spent}), total

    def train_readout(self, target: str, source: str) -> tuple[Tensor, run.Cost]:
        """Train the readout of one target on one source; all sources of a target share initial weights and batches.

        Args:
            target: a task.
            source: a task, or ``UNTRAINED``.

        Returns:
            The loss of each test image, float32 (test images,), and the cost of the training.
        """
        plan, asked, noisy = self.plan, rooms.task(target), target == DENOISE
        seed = SEEDS * self.seed + READOUTS + list(rooms.TASKS).index(target)
        lesson = Lesson(target, self.codes(source, "transfer", noisy), self.lesson(target, "transfer").labels)
        course = {name: plan[f"transfer_{name}"] for name in ("updates", "lr", "weight_decay")}
        with run.seeded(seed):  # for the initial weights, then for dropout
            readout = run.on_device(nets.readout(asked.shape[0], asked.dense), self.device)
            method = TaskLearning(readout, lesson, batch=plan.batch, seed=seed, **course)
            history = run.run(method, updates=plan.transfer_updates, report_every=100, progress=False)
        labels = self.room_set("test").labels(target)
        return learning.image_losses(readout, self.codes(source, "test", noisy), target, labels), history.cost

    @cached_property
    def all_losses(self) -> dict[str, dict[str, Tensor]]:
        """The losses of all transfers: target → source → float32 (test images,)."""
        found, (targets, sources) = self.piece("transfers").tensors(self.table_recipe())["losses"], self.sides
        return {target: dict(zip(sources, rows, strict=True)) for target, rows in zip(targets, found, strict=True)}

    @property
    def losses(self) -> Tensor:
        """The losses of the targets and sources that passed the gate, float32 (T, S, test images)."""
        rows = [[self.all_losses[target][source] for source in self.tasks] for target in self.targets]
        return torch.stack([torch.stack(row) for row in rows])

    @cached_property
    def truth(self) -> Truth:
        """What truly transfers to what: AHP over the sources that passed, the target's own network among them."""
        return Truth(self.targets, self.tasks, ordinal.affinities(self.losses), self.plan.top)

    def metrics(self, part: str) -> dict[str, float]:
        """What a record says of the "transfers", or of the "training" of the networks.

        Of those it is how many there are in the matrix and passed, their seconds, and each loss beside the blind one.
        """
        if part == "transfers":
            return self._transfer_metrics()
        cards, matrix = {name: self.card(name) for name in self.members}, self.plan.tasks
        spent = {name: card["seconds"] for name, card in cards.items()}
        return {
            "networks": len(matrix),
            "passed": len(self.tasks),
            "other_networks": len(cards) - len(matrix),
            "seconds": sum(spent[name] for name in matrix),
            "other_seconds": sum(seconds for name, seconds in spent.items() if name not in matrix),
        } | {f"ratio_{name}": card["test_loss"] / card["blind_loss"] for name, card in cards.items()}

    def _transfer_metrics(self) -> dict[str, float]:
        """Transfers, seconds of their training, targets best served by their own network, share above untrained."""
        card, losses, truth = self.piece("transfers").card(), self.all_losses, self.truth
        means = {(t, s): losses[t][s].mean() for t in self.targets for s in (*self.tasks, UNTRAINED)}
        better = [float(means[t, s] < means[t, UNTRAINED]) for t in self.targets for s in self.tasks]
        return {
            "seconds": card["seconds"],
            "transfers": card["transfers"],
            "targets": len(self.targets),
            "own_best": float((truth.affinity.argmax(1) == truth.own).sum()),
            "above_untrained": sum(better) / len(better),
        }


def open_zoo(plan: Settings, seed: int, device: str | torch.device | None = None) -> Zoo:
    """The zoo of a plan with a seed, the same object as long as the data room stays the same."""
    return learning.opened(home.root(), Zoo, plan, seed, str(run.device(device)))
