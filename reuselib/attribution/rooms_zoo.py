"""The zoos of room networks and the true transfers between them: what chapters 07 and 08 rank against.

A zoo is one network for each task of the rooms, all with independent initial weights, and a few more with another
encoder. Its transfers train a small readout on every frozen encoder for every target. Whatever is finished is kept:

    zoo/rooms-0/depth/      weights.safetensors  card.json  log.csv        of one network
    zoo/rooms-0/transfers/  losses.safetensors   card.json                 the losses of all transfers, image by image

A run that was cut off goes on where it was, and ends with the same bits on the same processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from reuselib import home, nets, report, run
from reuselib.attribution import ordinal
from reuselib.attribution.evaluation import Truth
from reuselib.attribution.learning import (
    Lesson,
    TaskLearning,
    Transfer,
    add_cost,
    blind_loss,
    compact,
    image_losses,
    normalised,
    rounds,
    seconds,
)
from reuselib.errors import unknown
from reuselib.nets import TaskNetwork, zoo
from reuselib.run.progress import Progress
from reuselib.worlds import rooms

GATE = 0.9
"""A network enters its zoo if its test loss is at most this share of the blind predictor's. Set before any training."""
UNTRAINED = "untrained"
"""The source of the transfers from an encoder with random weights."""
DENOISE, COLOR = "denoise", "color"


@dataclass(frozen=True)
class ZooPlan:
    """Everything that decides a zoo and its transfers, beside its seed, from which the images are drawn too.

    Attributes:
        name: of its folder, before the seed.
        tasks: one network each; those that are no ``source_only`` are targets.
        residual: tasks that have a second network, with the residual encoder.
        deep: tasks that have another network, of more layers, for plans of the choice of a layer that take one.
        deep_widths: channels of its convolutions.
        deep_strides: of its convolutions.
        images: to learn from.
        updates: of each network, by Adam on a one-cycle rate.
        batch: images per update, here and in the transfers.
        lr: highest learning rate.
        weight_decay: L2 penalty.
        gate: see ``GATE``.
        transfer_images: to learn from in the transfers; no network has seen them.
        test_images: for the gate, and for the losses of the transfers.
        transfer_updates: of each readout.
        transfer_lr: highest learning rate.
        transfer_weight_decay: L2 penalty.
        top: how many of the best sources are relevant.
        kept: whether networks and losses are kept on disk for other processes.
    """

    name: str = "rooms"
    tasks: tuple[str, ...] = tuple(rooms.TASKS)
    residual: tuple[str, ...] = ("autoencoder", "edge2d", "depth", "normals", "semseg")
    deep: tuple[str, ...] = ()
    deep_widths: tuple[int, ...] = (24, 24, 32, 32, 48, 48, 64, 64)
    deep_strides: tuple[int, ...] = (2, 1, 1, 1, 2, 1, 1, 1)
    images: int = rooms.SPLITS["zoo"]
    updates: int = 1500
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 2e-6
    gate: float = GATE
    transfer_images: int = rooms.SPLITS["transfer"]
    test_images: int = rooms.SPLITS["test"]
    transfer_updates: int = 150
    transfer_lr: float = 3e-3
    transfer_weight_decay: float = 1e-6
    top: int = 4
    kept: bool = True

    @property
    def members(self) -> dict[str, Member]:
        """All networks by name, those of the matrix of transfers first."""
        kinds = {"plain": self.tasks, "residual": self.residual, "deep": self.deep}
        found = [Member(task, encoder) for encoder, tasks in kinds.items() for task in tasks]
        return {member.name: member for member in found}

    @property
    def targets(self) -> tuple[str, ...]:
        """The tasks to which is transferred."""
        return tuple(task for task in self.tasks if not rooms.task(task).source_only)


@dataclass(frozen=True)
class Member:
    """A network of a zoo.

    Attributes:
        task: that it learns.
        encoder: "plain", "residual" or "deep".
    """

    task: str
    encoder: str = "plain"

    @property
    def name(self) -> str:
        """The task alone for the networks of the matrix, with the encoder for the others."""
        return self.task if self.encoder == "plain" else f"{self.task}-{self.encoder}"

    @property
    def number(self) -> int:
        """Its place, below 60, from which its seed is made: the same whatever other members there are."""
        return 20 * ("plain", "residual", "deep").index(self.encoder) + list(rooms.TASKS).index(self.task)


SEEDS, READOUTS, FRESH, NOISE = 100, 60, 58, 90
"""Seeds in one zoo; the first seed of the readouts; those of the untrained encoder, and of the noise on images."""


def build(plan: ZooPlan, member: Member, seed: int) -> TaskNetwork:
    """A network with the initial weights of a seed, on the CPU."""
    asked = rooms.task(member.task)
    with run.seeded(seed):
        if member.encoder != "deep":
            return nets.task_network(asked.shape[0], asked.dense, member.encoder)
        return deep_network(asked.shape[0], plan.deep_widths, plan.deep_strides, asked.dense)


def deep_network(outputs: int, widths: tuple[int, ...], strides: tuple[int, ...], dense: bool = False) -> TaskNetwork:
    """A network of more convolutions, each with batch norm and ReLU, whose representation is not narrowed.

    Args:
        outputs: numbers, classes, or channels of a label for each pixel.
        widths: channels of the convolutions.
        strides: of them; their product is four if the label is one for each pixel.
        dense: whether it is.
    """
    decoder = (
        nets.dense_decoder(outputs, widths[-1])
        if dense
        else nets.vector_head(outputs, widths[-1], rooms.SIZE // math.prod(strides))
    )
    return TaskNetwork(nets.room_encoder(widths, strides), decoder)


class Zoo:
    """The networks of a plan with one seed, and their transfers: made when they are asked for the first time.

    Args:
        plan: what decides it.
        seed: of the weights and of the images, another world of rooms for each.
        device: chosen by the engine if left out.
    """

    def __init__(self, plan: ZooPlan, seed: int, device: str | torch.device | None = None) -> None:
        if odd := [task for task in (*plan.tasks, *plan.residual, *plan.deep) if task not in rooms.TASKS]:
            raise unknown("task", odd[0], rooms.TASKS)
        self.plan, self.seed, self.device = plan, seed, run.device(device)
        digest = "" if plan.kept else f"{report.config_hash(plan)[:16]}-"
        self.name = f"{plan.name}-{digest}{seed}"
        self.members = plan.members
        self._networks: dict[str, TaskNetwork] = {}

    def __repr__(self) -> str:
        """Name the zoo and its size."""
        return f"Zoo({self.name!r}, {len(self.members)} networks, {len(self.plan.targets)} targets)"

    def piece(self, name: str) -> zoo.Piece:
        """Where a member, or the transfers, are kept."""
        return zoo.Piece(f"{self.name}/{name}", self.plan.kept, "reuselib run attribution")

    def room_set(self, split: str) -> rooms.RoomSet:
        """The images of a split: "zoo", "transfer" or "test"."""
        plan = self.plan
        counts = {"zoo": plan.images, "transfer": plan.transfer_images, "test": plan.test_images}
        return rooms.rooms(split, counts[split], self.seed, self.device)

    def lesson(self, task: str, split: str = "zoo") -> Lesson:
        """Images of a split with compact labels of a task."""
        found = self.room_set(split)
        return Lesson(task, found.images.images, compact(task, found.labels(task)))

    def inputs(self, task: str, split: str) -> Tensor:
        """What networks for a task are given of the images of a split; the noise is always the same."""
        generator = run.generator(self.device, SEEDS * self.seed + NOISE)
        return rooms.inputs(task, normalised(self.room_set(split).images.images), generator)

    # --- networks

    def member(self, name: str) -> Member:
        """A member by name.

        Raises:
            UnknownName: there is none.
        """
        if name not in self.members:
            raise unknown(f"network of {self.name}", name, self.members)
        return self.members[name]

    def fresh(self, name: str) -> TaskNetwork:
        """The network of a member before any training, in evaluation mode."""
        member = self.member(name)
        network = build(self.plan, member, SEEDS * self.seed + member.number)
        return run.on_device(network, self.device).eval().requires_grad_(False)

    def card(self, name: str) -> dict[str, Any]:
        """The card of a member: its task, losses, gate, cost, recipe, SHA-256.

        Raises:
            MissingFile: it has not been trained.
        """
        self.member(name)
        return self.piece(name).card()

    def network(self, name: str) -> TaskNetwork:
        """A trained member: verified, frozen, in evaluation mode; the same object every time.

        Raises:
            MissingFile: it has not been trained.
            DamagedFile: its weights were altered.
        """
        if name not in self._networks:
            self._networks[name] = cast(TaskNetwork, self.piece(name).load(self.fresh(name), self.recipe(name)))
        return self._networks[name]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose networks passed the gate: the sources."""
        return tuple(task for task in self.plan.tasks if self.card(task)["passed"])

    @property
    def targets(self) -> tuple[str, ...]:
        """Those of them to which is transferred."""
        return tuple(task for task in self.tasks if task in self.plan.targets)

    @property
    def groups(self) -> dict[str, str]:
        """The group of each task, made by hand."""
        return {task: rooms.task(task).group for task in self.plan.tasks}

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything that decides a member."""
        member, plan = self.member(name), self.plan
        used = ["images", "updates", "batch", "lr", "weight_decay", "gate", "test_images"]
        used += ["deep_widths", "deep_strides"] if member.encoder == "deep" else []
        return asdict(member) | {"zoo": self.seed} | {field: getattr(plan, field) for field in used}

    def train(self, progress: bool = False, only: Sequence[str] | None = None) -> run.Cost:
        """Train the members that are not there yet, and go on with one that was cut off.

        Args:
            progress: whether to show bars.
            only: names of members; all if left out.

        Returns:
            What it cost now.
        """
        total = run.Cost()
        missing = [name for name in only or self.members if not self.piece(name).has()]
        for number, name in enumerate(missing, 1):
            title = f"{self.plan.name} {self.seed}: {name} ({number} of {len(missing)})"
            add_cost(total, self._train(self.member(name), progress, title))
        return total

    def _train(self, member: Member, progress: bool, title: str) -> run.Cost:
        plan, seed = self.plan, SEEDS * self.seed + member.number
        network, lesson = self.fresh(member.name).requires_grad_(True), self.lesson(member.task)
        method = TaskLearning(
            network,
            lesson,
            updates=plan.updates,
            batch=plan.batch,
            lr=plan.lr,
            weight_decay=plan.weight_decay,
            seed=seed,
        )
        method.steps_per_round = rounds(plan.updates)
        recipe = self.recipe(member.name)
        with run.seeded(seed):  # for dropout
            history = run.run(
                method,
                plan.updates // method.steps_per_round,
                progress=progress,
                title=title,
                checkpoint=self.piece(member.name).checkpoint,
                settings=report.config_hash(recipe),
            )
        test = self.room_set("test").labels(member.task)
        loss = float(image_losses(network, self.inputs(member.task, "test"), member.task, test).mean())
        blind = blind_loss(member.task, lesson.labels, test)
        self.piece(member.name).save(
            network,
            history,
            recipe=recipe,
            test_loss=loss,
            blind_loss=blind,
            passed=loss <= plan.gate * blind,
            precision=method.precision.name,
            device=self.device.type,
            seconds=round(seconds(history.cost, self.device), 2),
        )
        return history.cost

    # --- transfers

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the transfers in their order, the untrained encoder last."""
        return *self.plan.tasks, UNTRAINED

    @torch.no_grad()
    def represent(self, source: str, images: Tensor, batch: int = 256) -> Tensor:
        """What the frozen encoder of a source makes of images in [-1, 1]; that of color sees them in grey."""
        if source == UNTRAINED:
            asked = Member(self.plan.tasks[0])
            network = build(self.plan, asked, SEEDS * self.seed + FRESH).to(self.device)
        else:
            network = self.network(source)
        x = rooms.inputs(COLOR, images) if source == COLOR else images
        with run.frozen(network):
            return torch.cat([network.represent(part) for part in x.split(batch)])

    def transfer(self, progress: bool = False) -> run.Cost:
        """Train the transfers that are not there yet; each target that is finished is kept.

        Returns:
            What it cost now.
        """
        total = run.Cost()
        if self.piece("transfers").has():
            return total
        add_cost(total, self.train(progress))
        recipe, read = self.transfer_recipe, _Codes(self)
        pieces = {
            target: self.piece("transfers").folder / f"{target}-{report.config_hash(recipe)[:16]}.pt"
            for target in self.plan.targets
        }
        count = len(self.sources)
        title = f"{self.plan.name} {self.seed}: transfers"
        with Progress(total=len(pieces) * count, disable=not progress, desc=title, unit="transfer") as bar:
            for target, piece in pieces.items():
                if piece.is_file():
                    bar.update(count)
                    continue
                found = []
                for source in self.sources:
                    found.append(self.train_readout(target, source, read))
                    add_cost(total, found[-1][1])
                    bar.update()
                spent = [seconds(cost, self.device) for _, cost in found]
                losses = torch.stack([each for each, _ in found])
                run.save_checkpoint(piece, {"losses": losses, "seconds": spent})
        self._keep_transfers({target: run.load_checkpoint(piece) for target, piece in pieces.items()}, recipe)
        for piece in pieces.values():
            piece.unlink(missing_ok=True)
        return total

    def _keep_transfers(self, done: Mapping[str, Mapping[str, Any]], recipe: Mapping[str, Any]) -> None:
        spent = {target: [round(value, 3) for value in found["seconds"]] for target, found in done.items()}
        self.piece("transfers").save(
            {"losses": torch.stack([found["losses"] for found in done.values()])},
            recipe=recipe,
            targets=list(done),
            sources=self.sources,
            seconds_each=spent,
            transfers=sum(map(len, spent.values())),
            seconds=round(sum(map(sum, spent.values())), 2),
            precision=run.precision(self.device).name,
            device=self.device.type,
        )

    @property
    def transfer_recipe(self) -> dict[str, Any]:
        """Everything that decides the transfers, the networks among it."""
        plan = self.plan
        used = ("transfer_images", "test_images", "transfer_updates", "batch", "transfer_lr", "transfer_weight_decay")
        weights = {name: self.card(name)["sha256"] for name in plan.tasks}
        return {"zoo": self.seed} | {field: getattr(plan, field) for field in used} | {"weights": weights}

    def train_readout(
        self, target: str, source: str, codes: Callable[[str, str, bool], Tensor] | None = None
    ) -> tuple[Tensor, run.Cost]:
        """Train the readout of one target on one source; all sources of a target share initial weights and batches.

        Args:
            target: a task.
            source: a task, or ``UNTRAINED``.
            codes: (source, split, whether noisy) → representations; worked out if left out.

        Returns:
            The loss of each test image, float32 (test images,), and the cost of the training.
        """
        plan, seed = self.plan, SEEDS * self.seed + READOUTS + list(rooms.TASKS).index(target)
        asked, read, noisy = rooms.task(target), codes or _Codes(self), target == DENOISE
        lesson = Lesson(target, read(source, "transfer", noisy), self.lesson(target, "transfer").labels)
        with run.seeded(seed):  # for the initial weights, then for dropout
            readout = run.on_device(nets.readout(asked.shape[0], asked.dense), self.device)
            method = Transfer(
                readout,
                lesson,
                updates=plan.transfer_updates,
                batch=plan.batch,
                lr=plan.transfer_lr,
                weight_decay=plan.transfer_weight_decay,
                seed=seed,
            )
            method.steps_per_round = rounds(plan.transfer_updates)
            history = run.run(method, plan.transfer_updates // method.steps_per_round, progress=False)
        labels = self.room_set("test").labels(target)
        losses = image_losses(readout, read(source, "test", noisy), target, labels)
        return losses, history.cost

    def ready(self, progress: bool = False) -> run.Cost:
        """Make whatever is missing of networks and transfers; returns what it cost now."""
        total = run.Cost()
        add_cost(total, self.train(progress))
        add_cost(total, self.transfer(progress))
        return total

    @cached_property
    def all_losses(self) -> dict[str, dict[str, Tensor]]:
        """The losses of all transfers: target → source → float32 (test images,)."""
        found = self.piece("transfers").tensors(self.transfer_recipe)["losses"]
        return {
            target: dict(zip(self.sources, rows, strict=True))
            for target, rows in zip(self.plan.targets, found, strict=True)
        }

    @property
    def losses(self) -> Tensor:
        """The losses of the targets and sources that passed the gate, float32 (T, S, test images)."""
        return torch.stack(
            [torch.stack([self.all_losses[target][source] for source in self.tasks]) for target in self.targets]
        )

    @cached_property
    def truth(self) -> Truth:
        """What truly transfers to what: AHP over the sources that passed, the target's own network among them."""
        return self.truth_of(self.losses)

    def truth_of(self, losses: Tensor) -> Truth:
        """The truth of some of the test images."""
        return Truth(self.targets, self.tasks, ordinal.affinities(losses), self.plan.top)


class _Codes:
    """Representations by (source, split, noisy), each worked out once."""

    def __init__(self, zoo: Zoo) -> None:
        self.zoo = zoo
        self.found: dict[tuple[str, str, bool], Tensor] = {}

    def __call__(self, source: str, split: str, noisy: bool) -> Tensor:
        """Give the representations of a split by a source."""
        key = (source, split, noisy)
        if key not in self.found:
            self.found[key] = self.zoo.represent(source, self.zoo.inputs(DENOISE if noisy else "autoencoder", split))
        return self.found[key]


def open_zoo(plan: ZooPlan, seed: int, device: str | torch.device | None = None) -> Zoo:
    """The zoo of a plan with a seed, the same object as long as the data room stays the same."""
    return _open(home.root(), plan, seed, str(run.device(device)))


@lru_cache(maxsize=4)
def _open(room: Path, plan: ZooPlan, seed: int, device: str) -> Zoo:
    return Zoo(plan, seed, device)
