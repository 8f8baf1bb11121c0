"""Learning the tasks of the rooms: a network from images, a readout from the representations of a frozen encoder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, home, report, run
from reuselib.errors import ReuseError
from reuselib.nets.zoo import Piece
from reuselib.run.progress import Progress
from reuselib.worlds import rooms


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network learns from, compact: classes and yes or no in one byte, numbers in float16 (error 5e-4 at 1).

    Attributes:
        task: name of the task.
        rows: uint8 images (N, 3, 32, 32), or float representations (N, C, h, w).
        labels: of the task, as `compact` gives them.
    """

    task: str
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def answers(self, index: Tensor | slice) -> Tensor:
        """The labels of some rows, as `rooms.losses` takes them."""
        found = self.labels[index]
        return found.long() if rooms.task(self.task).loss == "ce" else found.float()


def compact(task: str, labels: Tensor) -> Tensor:
    """Labels in as few bytes as they need: uint8 for classes and yes or no, float16 for numbers."""
    return labels.to(torch.uint8 if rooms.task(task).loss in ("ce", "bce") else torch.float16)


def in_range(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1], float32."""
    return images / 127.5 - 1


class TaskLearning(run.Method):
    """A network learns one task of the rooms, or a readout the same from representations, by Adam on a one-cycle rate.

    Args:
        student: gives answers of the task.
        lesson: images, or representations worked out once before, and labels on the network's device.
        updates: in all, for the rate's course.
        batch: rows per update, drawn with replacement.
        lr: highest learning rate.
        weight_decay: L2 penalty.
        seed: of the batches and of the noise on images that are to be denoised.
        precision: chosen if left out.

    Raises:
        DeviceError: lesson and network are on different devices.
        BadValue: a number cannot be meant.

    Source: after Zamir et al. 2018 (Taskonomy).
    """

    fixed = ()

    def __init__(
        self,
        student: nn.Module,
        lesson: Lesson,
        *,
        updates: int,
        batch: int = 64,
        lr: float = 2e-3,
        weight_decay: float = 2e-6,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.whole(updates=updates, batch=batch, images=len(lesson))
        checks.number(lr=lr, weight_decay=weight_decay)
        self.device = run.device_of(student, lesson=lesson.rows)
        self.student, self.lesson, self.batch = run.on_device(student, self.device), lesson, batch
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.optimizer = run.adam(student.parameters(), self.device, lr=lr, weight_decay=weight_decay)
        self.scheduler = LambdaLR(self.optimizer, run.one_cycle(updates))
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch; returns ``loss``."""
        index = torch.randint(len(self.lesson), (self.batch,), generator=self.random, device=self.device)
        rows = self.lesson.rows[index]
        if not rows.is_floating_point():
            rows = rooms.inputs(self.lesson.task, in_range(rows), self.random)
        with self.precision.autocast():
            answers = self.student(rows)
        loss = rooms.losses(self.lesson.task, answers.float(), self.lesson.answers(index)).mean()
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss}


@torch.no_grad()
def image_losses(network: nn.Module, inputs: Tensor, task: str, labels: Tensor, batch: int = 256) -> Tensor:
    """The loss of a network on each image, float32 (N,) on the CPU, in evaluation mode and float32.

    Args:
        network: left as it was.
        inputs: what it is given, (N, ...), on its device.
        task: that it answers.
        labels: exact ones, as `RoomSet.labels` gives them.
        batch: images at a time.
    """
    with run.frozen(network):
        pairs = zip(inputs.split(batch), labels.split(batch), strict=True)
        return torch.cat([rooms.losses(task, network(x).float(), y) for x, y in pairs]).cpu()


def blind_answer(task: str, labels: Tensor) -> Tensor:
    """The answer that is best if it is the same for every image, pixel by pixel: the shape of the task.

    It is the median for an absolute error, the mean for a squared one, and for cross-entropies the logarithm of the
    shares (of the odds, for yes or no), where nothing is rarer than one image in 10,000.

    Args:
        task: name of the task.
        labels: (N, ...), of training images; may be compact.
    """
    asked = rooms.task(task)
    if asked.loss == "ce":
        shares = torch.stack([(labels == number).float().mean(0) for number in range(asked.shape[0])])
        return shares.clamp(min=1e-4).log()
    if asked.loss == "l1":
        return labels.float().median(0).values
    mean = labels.float().mean(0)
    return mean.clamp(1e-4, 1 - 1e-4).logit() if asked.loss == "bce" else mean


def blind_loss(task: str, training: Tensor, test: Tensor) -> float:
    """The mean loss on test labels of the best constant answer to training labels."""
    answer = blind_answer(task, training)
    return float(rooms.losses(task, answer.expand(len(test), *answer.shape), test).mean())


# --- what is trained once and kept ------------------------------------------------------------------------------------


def seconds(cost: run.Cost, where: torch.device) -> float:
    """Seconds of work: of the processor on a CPU, which others may share, and on the clock elsewhere."""
    return cost.cpu_seconds if where.type == "cpu" else cost.wall_seconds


def part_by_part(
    names: Sequence[str],
    make: Callable[[str], tuple[Any, run.Cost]],
    checkpoint: str | Path | None,
    settings: str,
    **bar: Any,
) -> tuple[list[Any], run.Cost]:
    """Make the parts that an earlier run has not made; each is kept as soon as it is finished.

    Args:
        names: of the parts.
        make: name → part and what it cost.
        checkpoint: file that keeps them, if any.
        settings: that decide them, in words.
        bar: options of the progress bar.

    Returns:
        The parts in the order of their names, and the cost with that of earlier runs.

    Raises:
        ReuseError: the checkpoint was made with other settings.
    """
    found: dict[str, Any] = {"settings": settings, "done": {}}
    if checkpoint is not None and Path(checkpoint).is_file():
        found = run.load_checkpoint(checkpoint)
    if found["settings"] != settings:
        raise ReuseError(f"The checkpoint {checkpoint} was made with other settings. Delete it, or give another.")
    done, total = found["done"], run.Cost()
    with Progress(total=len(names), initial=len(done), **bar) as shown:
        for name in names:
            if name not in done:
                part, cost = make(name)
                done[name] = {"part": part, "cost": vars(cost)}
                if checkpoint is not None:
                    run.save_checkpoint(checkpoint, found)
                shown.update()
            total.add(run.Cost(**done[name]["cost"]))
    return [done[name]["part"] for name in names], total


@lru_cache(maxsize=8)
def opened(room: Path, kind: Callable[..., Any], *arguments: Any) -> Any:
    """What is kept in a data room, the same object for the same arguments."""
    return kind(*arguments)


Row = tuple[Tensor, dict[str, Any]]
"""Of a table: losses (..., sources, test images), and facts for the card."""


class Shelf:
    """The networks of a plan, each trained once and kept with its card; and tables that are measured with them.

    Subclasses give ``everyone``, the names, and ``command``, which makes them; ``recipe``, everything that decides one,
    ``seed_of``, the seed of its weights and of dropout, ``course``, how it learns, and ``measured``, for its card.

    Those with tables of losses give their names, ``made``; ``table_recipe``, everything that decides them; ``sides``,
    the names of their rows, the targets, and of their columns, the sources; and ``row``, which measures one
    and tells the cost.

    Args:
        plan: what decides the networks.
        device: chosen if left out.
        ending: of the name of the folder.
    """

    everyone: Iterable[str]
    command: str
    made: tuple[str, ...] = ()
    recipe: Callable[[str], dict[str, Any]]
    seed_of: Callable[[str], int]
    course: Callable[[str], tuple[Any, int]]
    measured: Callable[[str, nn.Module], dict[str, Any]]
    sides: tuple[tuple[str, ...], tuple[str, ...]]
    table_recipe: Callable[[str], dict[str, Any]]
    row: Callable[[str, str], tuple[Row, run.Cost]]

    def __init__(self, plan: run.Settings, device: str | torch.device | None, ending: str = "") -> None:
        digest = "" if plan.kept else f"-{report.config_hash(plan.plain())[:16]}"
        self.plan, self.device, self.name = plan, run.device(device), f"{plan.name}{digest}{ending}"

    def piece(self, name: str) -> Piece:
        """Where a network, or a table, is kept."""
        return Piece(f"{self.name}/{name}", self.plan.kept, self.command)

    @property
    def shipped(self) -> set[str]:
        """The names of its pieces that come with the repository; all others are made when they are asked for."""
        known = home.registry()
        names = {f"{self.name}/{name}" for name in (*self.everyone, *self.made)}
        return {name for name in names if self.plan.kept and f"zoo/{name}/card.json" in known}

    def train(self, progress: bool = False, only: Sequence[str] | None = None) -> run.Cost:
        """Train the networks that are not there yet, and go on with one that was cut off.

        Args:
            progress: whether to show bars.
            only: names of networks; all if left out.

        Returns:
            What it cost now.
        """
        total = run.Cost()
        missing = [name for name in only or self.everyone if not self.piece(name).has()]
        for number, name in enumerate(missing, 1):
            piece, recipe = self.piece(name), self.recipe(name)
            shown: dict[str, Any] = {"progress": progress, "title": f"{self.name}: {name} ({number} of {len(missing)})"}
            where: dict[str, Any] = {"checkpoint": piece.checkpoint, "settings": report.config_hash(recipe)}
            with run.seeded(self.seed_of(name)):  # for the initial weights, then for dropout
                method, updates = self.course(name)
                history = run.run(method, updates=updates, report_every=100, **where, **shown)
            network = method.student.eval().requires_grad_(False)
            facts = {"precision": method.precision.name, "device": self.device.type, **self.measured(name, network)}
            piece.save(network, history, recipe=recipe, **facts, seconds=round(seconds(history.cost, self.device), 2))
            total.add(history.cost)
        return total

    def table(self, name: str, progress: bool = False) -> run.Cost:
        """Measure a table, and train what it is measured with, unless that is done; a row that is finished is kept.

        Returns:
            What it cost.
        """
        total, piece = self.train(progress), self.piece(name)
        if piece.has():
            return total
        recipe, (targets, sources) = self.table_recipe(name), self.sides
        bar: dict[str, Any] = {"disable": not progress, "desc": f"{self.name}: {name}", "unit": "target"}
        make = partial(self.row, name)
        rows, cost = part_by_part(targets, make, piece.checkpoint, report.config_hash(recipe), **bar)
        total.add(cost)
        losses, found = zip(*rows, strict=True)
        facts: dict[str, Any] = {
            kind: dict(zip(targets, (row[kind] for row in found), strict=True)) for kind in found[0]
        }
        facts |= {"targets": targets, "sources": sources, "transfers": len(targets) * len(sources)}
        facts |= {"precision": run.precision(self.device).name, "device": self.device.type}
        seconds_spent = round(seconds(cost, self.device), 2)
        piece.save({"losses": torch.stack(losses, -3)}, recipe=recipe, seconds=seconds_spent, **facts)
        return total

    def ready(self, progress: bool = False) -> run.Cost:
        """Make whatever is missing of networks and tables; returns what it cost."""
        total = self.train(progress)
        for name in self.made:
            total.add(self.table(name, progress))
        return total
