"""One row of chapter 06 with one seed: a pool of sources, who teaches what, students, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.adaptive import losses, pools, selection
from reuselib.adaptive.custom import TARGET, Choice, InTurn, menu
from reuselib.adaptive.method import AdaptiveLearning, ComponentLearning, Ensemble, Lesson, TargetLearning
from reuselib.data import MultiLabelSet
from reuselib.nets import MultiHead, pretrained
from reuselib.nets.supervised import MultiTaskSupervised, task_accuracies

PLAIN = ("sources", "untrained", "supervised", "multi-task")
"""Rows in which no network learns from the pool."""
TARGETS = ("untrained", "multi-task", "direct", "target", "target-logits", "one-step")
"""Rows that are measured on one target network; all others on a component network for each task, or on sources."""


@dataclass(kw_only=True)
class AdaptiveResult(run.Result):
    """Students made to order.

    Attributes:
        pool: sources by name.
        choices: task → who teaches which transfer image.
        students: task → the network that is measured.
        components: task → its component network.
        student: the target network.
        transfer: the images for students, with labels that these never see.
        test: the test images.
        sides: the side of the world of each transfer image, where there are two.
    """

    pool: dict[str, MultiHead]
    choices: dict[str, Choice]
    students: dict[str, MultiHead]
    components: dict[str, MultiHead]
    student: MultiHead
    transfer: MultiLabelSet
    test: MultiLabelSet
    sides: Tensor | None


class AdaptiveJob(run.Job):
    """What the methods of one task share with one seed: pool, images, initial weights, evaluation."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.pool = pools.trained_pool(settings.pool, seed, self.device, self.progress)
        self.sources, self.transfer, self.sides = self.pool.sources, self.pool.transfer, self.pool.sides
        self.test = self.pool.test if settings.limit is None else self.pool.test.subset(slice(settings.limit))
        self.classes = {task: len(self.transfer.tasks[task]) for task in settings.chosen}
        with run.seeded(seed):
            build = partial(pools.build, images=self.transfer)
            components = {task: build(settings.component, tasks={task: k}) for task, k in self.classes.items()}
            student = build(settings.target, tasks=self.classes)
        if settings.pretrained and self.device.type != "meta":
            for network in components.values():
                nets.take_torchvision_resnet18(network, pretrained.torchvision_weights("resnet18"))
        self.components = {task: run.on_device(network, self.device) for task, network in components.items()}
        self.student = run.on_device(student, self.device)

    # --- who teaches what

    def teachers(self, task: str) -> list[MultiHead]:
        """The sources that have a head for a task."""
        return [self.sources[name] for name in menu(self.sources)[task]]

    def asked(self, task: str) -> Tensor:
        """The positions of the transfer images that are asked about a task."""
        if self.device.type == "meta":
            return torch.arange(len(self.transfer), device="meta")
        return (self.transfer.labels(task) >= 0).nonzero()[:, 0]

    def asked_images(self, task: str) -> MultiLabelSet:
        """The transfer images that are asked about a task; no copy where all are."""
        asked = self.asked(task)
        return self.transfer if len(asked) == len(self.transfer) else self.transfer.subset(asked)

    def labels(self, task: str) -> Tensor:
        """The labels of the transfer images that are asked about a task."""
        return self.asked_images(task).labels(task)

    @cached_property
    def answers(self) -> dict[str, Tensor]:
        """Task → the logits (sources, N, K) of its sources on the transfer images that are asked."""
        return {
            task: selection.predictions(self.teachers(task), task, self.asked_images(task).images)
            for task in self.classes
        }

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """Task → the source of each transfer image that is asked, as this row chooses it."""
        random = torch.Generator().manual_seed(self.seed)
        found = {}
        for task, logits in self.answers.items():
            index = losses.select(losses.entropy(logits))
            if self.settings.method == "random":
                index = torch.randint(len(logits), index.shape, generator=random).to(self.device)
            elif self.settings.method == "oracle":
                index = selection.oracle(logits, self.labels(task))
            elif self.settings.method == "direct":
                index = torch.zeros_like(index)
            found[task] = Choice(task, menu(self.sources)[task], self.teachers(task), index)
        return found

    def lessons(self, task: str) -> list[Lesson]:
        """Each source of a task with the images assigned to it; with equally many on ``meta``."""
        asked, teachers = self.asked(task), self.teachers(task)
        if self.device.type == "meta":
            parts = asked.chunk(len(teachers))
            return [Lesson(source, task, part) for source, part in zip(teachers, parts, strict=True)]
        return [replace(lesson, index=asked[lesson.index]) for lesson in self.choices[task].lessons()]

    # --- methods

    def options(self, stage: str = "", **own: Any) -> dict[str, Any]:
        """What all students of a stage take; the rates of the target network may fall at other shares of its run."""
        decays = self.settings.decays
        decays = self.settings.get("target_decays", decays) if stage == TARGET else decays
        shared = {"schedule": pools.schedule(self.updates(stage), decays), "seed": self.seed}
        shared["augment"] = pools.as_photographs if self.settings.pool.crop else None
        return shared | dict(self.settings.options) | own

    def components_stages(self, **own: Any) -> dict[str, run.Method]:
        """Stage 1 of every task."""
        options = self.options(batch=self.settings.batch, **own)
        options["widths"] = self.settings.widths if own.get("features", 1.0) else None
        images = self.transfer.images
        return {
            task: ComponentLearning(network, self.lessons(task), images, **options)
            for task, network in self.components.items()
        }

    def averaged(self, task: str) -> ComponentLearning:
        """Distillation from the mean logits of a task's sources, on as many images per update as stage 1 takes."""
        sizes = [0 if lesson.index is None else len(lesson.index) for lesson in self.lessons(task)]
        batch = sum(selection.sub_batches(sizes, self.settings.batch))
        lessons = [Lesson(Ensemble(self.teachers(task), task), task, self.asked(task))]
        options = self.options(features=0.0, batch=batch)
        return ComponentLearning(self.components[task], lessons, self.transfer.images, **options)

    def target(self, teachers: Mapping[str, nn.Module], **own: Any) -> dict[str, run.Method]:
        """Stage 2, from the component networks or from what stands in their place."""
        options = self.options(TARGET, batch=self.settings.target_batch, **own)
        return {TARGET: TargetLearning(self.student, teachers, self.transfer.images, **options)}

    def one_step(self) -> dict[str, run.Method]:
        """The target network learns from all selected sources; each task gets as many images as in stage 2."""
        lessons = [lesson for task in self.classes for lesson in self.lessons(task)]
        batch = max(1, self.settings.target_batch // max(len(self.teachers(task)) for task in self.classes))
        options = self.options(TARGET, batch=batch, widths=self.settings.widths)
        return {TARGET: ComponentLearning(self.student, lessons, self.transfer.images, **options)}

    def labelled(self, network: MultiHead, images: MultiLabelSet, stage: str = "") -> MultiTaskSupervised:
        """A ceiling: the transfer images with their labels."""
        return MultiTaskSupervised(network, images, **self.options(stage, batch=self.settings.target_batch))

    def labelled_components(self) -> dict[str, run.Method]:
        """The ceiling of stage 1: every component network learns the labels of its task."""
        return {
            task: self.labelled(network, self.asked_images(task).only(task))
            for task, network in self.components.items()
        }

    def stages(self) -> dict[str, run.Method]:
        """What this row trains, by the names of the tasks and "target"; nothing for the sources and the floor."""
        return STAGES[self.settings.method](self) if self.settings.method in STAGES else {}

    def updates(self, stage: str) -> int:
        """The updates of a stage."""
        return self.settings.target_updates if stage == TARGET else self.settings.updates

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The sources, and then the row's stages."""
        plan = self.settings.pool
        for number in range(len(plan.sources)):
            source = pools.untaught(plan, self.pool, self.seed, number)
            yield pools.teaching(plan, self.pool, self.seed, number, source), plan.updates
        yield from ((method, self.updates(name)) for name, method in self.stages().items())

    def result(self) -> AdaptiveResult:
        """Train what the row is about and measure it."""
        history, stages = run.History(), self.stages()
        if stages:
            method = InTurn(stages, {name: self.updates(name) for name in stages}, self.sources.values())
            options = {"evaluations": self.settings.evaluations, "report_every": method.steps_per_round}
            history = self.train(method, sum(method.updates), evaluate=self.evaluate, **options)
        return AdaptiveResult(
            metrics=self.measure(stages),
            history=history,
            curves=("accuracy", *(f"{name}/loss" for name in stages)),
            device=self.device,
            precision=self.precision,
            pool=self.sources,
            choices=self.choices,
            students=self.students,
            components=self.components,
            student=self.student,
            transfer=self.transfer,
            test=self.test,
            sides=self.sides,
        )

    # --- measures

    @property
    def students(self) -> dict[str, MultiHead]:
        """Task → the network that this row is measured on."""
        if self.settings.method in TARGETS:
            return dict.fromkeys(self.classes, self.student)
        return self.components

    def evaluate(self) -> dict[str, float]:
        """Test accuracy of each task, numbered from 1, and their mean."""
        return numbered("accuracy", self.accuracies(self.students))

    def accuracies(self, networks: Mapping[str, MultiHead]) -> list[float]:
        """The test accuracy of each chosen task; a network that stands for several tasks is asked once."""
        found: dict[str, float] = {}
        for network in set(networks.values()):
            found |= task_accuracies(network, self.test)
        return [found[task] for task in networks]

    def measure(self, stages: Mapping[str, run.Method]) -> dict[str, float]:
        """Accuracies, sizes, and how good the choice of sources is."""
        if self.settings.method == "sources":
            return self.of_sources()
        result = self.evaluate() | {
            "parameters": sum(nets.parameter_count(each) for each in set(self.students.values()))
        }
        if self.settings.method not in PLAIN:
            result |= self.of_choice() | row_norms(stages)
        if TARGET in stages and len(stages) > 1:
            result |= numbered("component", self.accuracies(self.components))
        return result

    def of_sources(self) -> dict[str, float]:
        """The better source of each task; every source's accuracy; entropy of wrong predictions less that of right."""
        result: dict[str, float] = {}
        best = []
        for number, task in enumerate(self.classes, 1):
            found = [task_accuracies(source, self.test)[task] for source in self.teachers(task)]
            best.append(max(found))
            result |= {f"source_{number}{chr(97 + k)}": value for k, value in enumerate(found)}
            result |= self.entropy_gap(number, task)
        measured = self.of_choice()
        single = {name.replace("_best", ""): value for name, value in measured.items() if "_best" in name}
        count = sum(map(nets.parameter_count, self.sources.values()))
        return result | numbered("accuracy", best) | {"parameters": count} | measured | single

    def entropy_gap(self, number: int, task: str) -> dict[str, float]:
        """Mean entropy of the wrong predictions of a task's sources less that of their right ones, on test images."""
        labels = self.test.labels(task)
        asked = labels >= 0
        logits = selection.predictions(self.teachers(task), task, self.test.images.subset(asked))
        wrong, entropies = logits.argmax(2) != labels[asked], losses.entropy(logits)
        if not wrong.any():
            return {}
        return {f"entropy_gap_{number}": float(entropies[wrong].mean() - entropies[~wrong].mean())}

    def of_choice(self) -> dict[str, float]:
        """For each task the share of transfer images that get the right label from this row's teachers, from the best
        single source, from the mean of all and from the oracle's choice; and how often the teacher is of the image's
        own side of the world."""
        result: dict[str, float] = {}
        for number, (task, logits) in enumerate(self.answers.items(), 1):
            labels, choice = self.labels(task), self.choices[task].index
            mean = logits.mean(0).argmax(1)
            said = mean if self.settings.method == "averaged" else selection.pseudo_labels(logits, choice)
            best = selection.pseudo_labels(logits, selection.oracle(logits, labels))
            result |= {
                f"pseudo_{number}": share(said, labels),
                f"pseudo_best_{number}": max(share(each.argmax(1), labels) for each in logits),
                f"pseudo_averaged_{number}": share(mean, labels),
                f"pseudo_oracle_{number}": share(best, labels),
            }
            if self.sides is not None and len(logits) == 2:
                result[f"matched_{number}"] = share(choice, self.sides[self.asked(task)])
        return result


STAGES: dict[str, Callable[[AdaptiveJob], dict[str, run.Method]]] = {
    "supervised": AdaptiveJob.labelled_components,
    "multi-task": lambda job: {TARGET: job.labelled(job.student, job.transfer, TARGET)},
    **dict.fromkeys(("select", "random", "oracle", "heterogeneous"), AdaptiveJob.components_stages),
    "select-logits": lambda job: job.components_stages(features=0.0),
    "no-regulariser": lambda job: job.components_stages(regulariser=0.0),
    "averaged": lambda job: {task: job.averaged(task) for task in job.classes},
    "direct": lambda job: job.target({task: job.teachers(task)[0] for task in job.classes}),
    "target": lambda job: job.components_stages() | job.target(job.components),
    "target-logits": lambda job: job.components_stages() | job.target(job.components, features=0.0),
    "one-step": AdaptiveJob.one_step,
}
"""Method → its stages, in order."""


def numbered(name: str, values: list[float]) -> dict[str, float]:
    """The mean under a name, and each value under the name with its number."""
    return {name: sum(values) / len(values)} | {f"{name}_{k}": value for k, value in enumerate(values, 1)}


def share(found: Tensor, labels: Tensor) -> float:
    """The share of right labels."""
    return float((found == labels).float().mean())


def row_norms(stages: Mapping[str, run.Method]) -> dict[str, float]:
    """The mean squared row norm of the sources' encoders over the stages that have them, in all and by block."""
    norms = [method.block_norms() for method in stages.values() if isinstance(method, AdaptiveLearning)]
    found = [each for each in norms if len(each)]
    return numbered("row_norm", torch.stack(found).mean(0).tolist()) if found else {}
