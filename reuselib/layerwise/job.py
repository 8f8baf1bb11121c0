"""One row of chapter 05 with one seed: its teachers, its student, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from reuselib import data, nets, report, run
from reuselib.data import ImageSet
from reuselib.layerwise.autoencoder import Encoders, initialise
from reuselib.layerwise.learning import Stage
from reuselib.layerwise.losses import unexplained_variance
from reuselib.layerwise.method import JointLearning, LayerwiseAmalgamation
from reuselib.layerwise.rivals import AmalgamationKD, OneStageAmalgamation
from reuselib.layerwise.teachers import ClassSets, Teachers, accuracies, joined, relabelled
from reuselib.nets import blank, pretrained, zoo
from reuselib.nets.supervised import Supervised

BATCH = 250
"""Test images at a time: AlexNet's maps are large."""


@dataclass(kw_only=True)
class LayerwiseResult(run.Result):
    """A student of several teachers.

    Attributes:
        teachers: frozen.
        student: as it was at the end, merged.
        classes: which the teachers know.
        test: the test images, labelled in the student's order.
        encoders: of the teachers' features, where these were encoded.
    """

    teachers: Teachers
    student: nn.Module
    classes: ClassSets
    test: ImageSet
    encoders: Encoders | None


class LayerwiseJob(run.Job):
    """What the methods of one task share with one seed: teachers, initial weights, images, evaluation."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.classes = ClassSets(settings.classes)
        networks = [self.teacher(number) for number in range(len(self.classes))]
        self.teachers = Teachers(networks, self.classes, log_softmax=settings.log_softmax)
        dropout = 0.5 if settings.get("pretrained") else 0.0  # as while teachers learn
        self.student = self.build(settings.student, len(self.classes.union), seed, dropout)

    # --- images and networks

    def images(self, split: str, classes: Sequence[int]) -> ImageSet:
        """The images of some classes, each labelled by its class's place among them."""
        channels, size, _ = self.settings.image
        names = self.settings.dataset.split("+")
        if self.device.type == "meta":
            return replace(blank.images(names[0], size), classes=tuple(map(str, classes)))
        images = joined([data.load(name, split, size=size, channels=channels) for name in names]).to(self.device)
        if self.settings.raw:
            images = replace(images, mean=(0.0,) * channels, std=(1.0,) * channels)
        return relabelled(images, classes)

    def transfer(self) -> ImageSet:
        """The images that a student learns from: all of the training images, or so many of them, drawn by the seed."""
        images, count = self.images("train", self.classes.union), self.settings.get("unlabelled")
        return images if count is None or self.device.type == "meta" else images.take(count, self.seed)

    @cached_property
    def test(self) -> ImageSet:
        """The test images, labelled in the student's order."""
        images = self.images("test", self.classes.union)
        return images if self.settings.limit is None else images.subset(slice(self.settings.limit))

    def build(self, network: tuple[str, dict[str, Any]], classes: int, seed: int, dropout: float = 0.0) -> nn.Module:
        """A newly initialised network of this job's images."""
        with run.seeded(seed), torch.device("meta" if self.device.type == "meta" else "cpu"):
            return run.on_device(build(*network, classes, self.settings.image, dropout), self.device)

    def untaught(self, number: int) -> nn.Module:
        """A teacher that has learned nothing yet."""
        return self.build(self.settings.teacher.network, len(self.classes.sets[number]), self.draw(number), dropout=0.5)

    def draw(self, number: int) -> int:
        """The seed of a teacher, counted from 0."""
        return 100 * self.seed + number + 1

    def teacher(self, number: int) -> nn.Module:
        """A teacher, trained unless this process, or another whose teachers are kept, has done so already."""
        network, plan = self.untaught(number), self.settings.teacher
        if self.device.type == "meta":
            return network.eval().requires_grad_(False)
        images = {name: self.settings[name] for name in ("dataset", "image", "raw")}
        recipe = {**images, **plan.plain(), "known": self.classes.sets[number], "draw": self.draw(number)}
        name = f"parts/{self.settings.dataset}-{report.config_hash(recipe)[:16]}"  # deeper than what is shipped

        def teach() -> Supervised:
            if plan.pretrained:
                with run.seeded(self.draw(number)):
                    take_imagenet(network)
            return self.teaching(number, network)

        course = {"updates": plan.updates, "report_every": round_length([plan.updates], 10)}
        piece = zoo.Piece(name, plan.kept, "reuselib run layerwise at the scale of this row")
        shown = {"progress": self.progress, "title": f"teacher {number + 1}"}
        return piece.trained(self.untaught(number), recipe, teach, **course, **shown)

    def teaching(self, number: int, network: nn.Module) -> Supervised:
        """The training of a teacher on the images of its classes."""
        plan, images = self.settings.teacher, self.images("train", self.classes.sets[number])
        return Supervised(network, images, schedule=warm(plan.updates), seed=self.draw(number), **plan.options)

    # --- methods

    def stage(self, share: float, lr: float | Sequence[float], momentum: float) -> Stage:
        """A share of the updates: Adam along half a cosine, or as first released, SGD of this momentum."""
        steps = round(share * self.settings.updates)
        return Stage(steps, lr, momentum, cosine=False) if self.settings.released else Stage(steps, lr)

    def taught(self, method: Callable[..., run.Method], **stages: Stage) -> Any:
        """A method that learns from the teachers."""
        settings = self.settings
        options = {"batch": settings.batch, "noise": settings.noise, "augment": settings.get("augment")}
        options |= {"seed": self.seed, **settings.options}
        return method(self.teachers, self.student, self.transfer(), **stages, **options)

    def by_layers(self) -> LayerwiseAmalgamation:
        """The three stages, or the last two."""
        share, encoding, lr = self.settings.layer_share, self.settings.encoder_share, self.settings.lr
        stages = {"layers": self.stage(share, lr["layers"], 0.0), "joint": self.stage(1 - share, lr["joint"], 0.9)}
        if encoding:
            stages["encoding"] = self.stage(encoding, lr["encoding"], 0.9)
        return self.taught(LayerwiseAmalgamation, **stages)

    def by_labels(self) -> Supervised:
        """The student's architecture trained with labels on as many batches; from ImageNet weights if set so."""
        settings = self.settings
        if settings.get("pretrained") and self.device.type != "meta":
            with run.seeded(self.seed):
                take_imagenet(self.student)
        options = {"batch": settings.batch, "lr": settings.lr, "augment": settings.get("augment"), "seed": self.seed}
        return Supervised(self.student, self.transfer(), schedule=warm(settings.updates), **options)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The teachers, and then the row's method, stage by stage."""
        for number in range(len(self.classes)):
            yield self.teaching(number, self.untaught(number)), self.settings.teacher.updates
        method = LEARNERS[self.settings.learner](self) if self.settings.learner else None
        if isinstance(method, LayerwiseAmalgamation):
            parts: tuple[run.Method | None, ...] = (method.encoding, method.layerwise, method.joint)
            pairs = zip(parts, method.lengths, strict=True)
            yield from ((part, updates) for part, updates in pairs if part and updates)
        elif method:
            yield method, self.settings.updates

    def result(self) -> LayerwiseResult:
        """Train and test one student."""
        history, method = run.History(), None
        if self.settings.learner:
            method = LEARNERS[self.settings.learner](self)
            lengths = method.lengths if isinstance(method, LayerwiseAmalgamation) else [self.settings.updates]
            every, updates = round_length(lengths, self.settings.evaluations), sum(lengths)
            measure, evaluations = lambda: self.evaluate(method), updates // every
            history = self.train(method, updates, evaluate=measure, evaluations=evaluations, report_every=every)
        if isinstance(method, LayerwiseAmalgamation):
            self.student = method.merged()
        curves = ("accuracy", "loss", *(f"{name}_{k}" for name in ("nmse", "unexplained") for k in range(1, 9)))
        return LayerwiseResult(
            metrics=self.measure(history),
            history=history,
            curves=tuple(name for name in curves if history.curve(name)[0]),
            device=self.device,
            precision=self.precision,
            teachers=self.teachers,
            student=self.student,
            classes=self.classes,
            test=self.test,
            encoders=method.encoders if isinstance(method, LayerwiseAmalgamation) else None,
        )

    # --- measures

    def evaluate(self, method: run.Method) -> dict[str, float]:
        """Test accuracy of the student, merged; while it learns layer by layer, also how well each layer does."""
        if not isinstance(method, LayerwiseAmalgamation):
            return {"accuracy": run.accuracy(self.student, self.test)}
        shown = {"accuracy": run.accuracy(method.merged(), self.test)}
        return shown | (self.of_layers(method) if method.iteration <= method.joint_from else {})

    @torch.no_grad()
    def of_layers(self, method: LayerwiseAmalgamation, count: int = 500) -> dict[str, float]:
        """Errors of each layer on test images, and digits in which adapted and merged student agree."""
        adapted, encoders = method.layerwise.adapted, method.encoders
        images = self.test.normalised(self.test.images[:count])
        with run.frozen(adapted, encoders):
            features, scores = self.teachers(images, encoders.layers)
            codes, _ = encoders(features)
            outputs = adapted(images, codes)
            before, after = adapted.through(images), method.merged().eval()(images)
        joined, returned = ([torch.cat(each, 1) for each in side] for side in (features, encoders.decode(codes)))
        pairs = {"nmse": zip([*codes, scores], outputs, strict=True), "unexplained": zip(joined, returned, strict=True)}
        found = {
            f"test_{name}_{number}": float(unexplained_variance(*pair))
            for name, of_layers in pairs.items()
            for number, pair in enumerate(of_layers, 1)
        }
        return found | {"merge_digits": agreeing_digits(before, after)}

    def measure(self, history: run.History) -> dict[str, float]:
        """Accuracies of the student or the ensemble, of the teachers, and what the stages left behind."""
        name, pairs = self.settings.method, zip(self.teachers.networks, self.classes.columns, strict=True)
        found = [run.accuracy(network, relabelled(self.test, own), BATCH) for network, own in pairs]
        # Each teacher chooses among its own classes, in both ways of asking.
        ways = ("teacher", "part", "masked") if name == "teachers" else ("teacher",)
        result = {f"{way}_{number}": value for way in ways for number, value in enumerate(found, 1)}
        if name == "teachers":
            return result | {"masked_mean": sum(found) / len(found), "parameters": nets.parameter_count(self.teachers)}
        student, together = self.scores()
        ensemble = name.startswith("ensemble")
        result |= accuracies(together if ensemble else student, self.test.labels, self.classes)
        result |= {"parameters": nets.parameter_count(self.teachers if ensemble else self.student)}
        if not ensemble:
            result["agreement"] = float((student.argmax(1) == together.argmax(1)).float().mean())
        return result | at_boundary(history)

    @torch.no_grad()
    def scores(self) -> tuple[Tensor, Tensor]:
        """What student and ensemble answer to the test images, both (N, K)."""
        with run.frozen(self.student):
            pairs = [(self.student(x).float(), self.teachers(x)[1]) for x, _ in self.test.batches(BATCH)]
        own, together = zip(*pairs, strict=True)
        return torch.cat(own), torch.cat(together)


LEARNERS: dict[str, Callable[[LayerwiseJob], run.Method]] = {
    "layers": LayerwiseJob.by_layers,
    "joint": lambda job: job.taught(JointLearning, stage=job.stage(1.0, job.settings.lr, 0.9)),
    "kd": lambda job: job.taught(
        AmalgamationKD,
        stage=Stage(job.settings.updates, job.settings.lr, weight_decay=job.settings.get("kd_decay", 0.0)),
    ),
    "one-stage": lambda job: job.taught(
        OneStageAmalgamation, stage=Stage(job.settings.updates, job.settings.lr, weight_decay=1e-4)
    ),
    "labels": LayerwiseJob.by_labels,
}
"""How a student learns."""


def build(
    name: str, arguments: dict[str, Any], classes: int, image: tuple[int, int, int], dropout: float = 0.0
) -> nn.Module:
    """A newly initialised network; ``plain_vgg`` gets a ReLU behind its hidden layer, as ``alexnet`` has them."""
    own: dict[str, dict[str, Any]] = {"alexnet": {"dropout": dropout}}
    own["plain_vgg"] = {"size": image[1], "head_norm": False}
    network = nets.build(name, classes=classes, channels=image[0], **arguments, **own.get(name, {}))
    if name == "plain_vgg":
        cast(nn.Sequential, network.pool).append(nn.ReLU())
    return initialise(network) if name in own else network


def take_imagenet(network: nn.Module) -> None:
    """Start from torchvision's AlexNet; the last layer is drawn anew, N(0, 0.01), as in the first release."""
    classifier = cast(nets.Classifier, network)
    nets.take_torchvision_alexnet(classifier, pretrained.torchvision_weights("alexnet"))
    nn.init.normal_(classifier.head.weight, std=0.01)
    nn.init.zeros_(classifier.head.bias)


def warm(updates: int) -> run.Schedule:
    """The rate of learning with labels: without the rise, plain networks sometimes diverge in their first updates."""
    return run.cosine(updates, warmup=updates // 10)


def round_length(stages: Sequence[int], most: int) -> int:
    """The shortest round that divides every stage and makes at most so many rounds in all, or the longest there is."""
    common, least = math.gcd(*stages), sum(stages) / (most + 1)
    return next((length for length in range(1, common) if common % length == 0 and length > least), common)


def agreeing_digits(a: Tensor, b: Tensor) -> float:
    """Decimal digits of the largest difference over the largest value, at most those of single precision."""
    error = (a - b).abs().max() / a.abs().max()
    return float(-error.clamp_min(torch.finfo(torch.float32).eps).log10())


def at_boundary(history: run.History) -> dict[str, float]:
    """What was measured when layer-wise learning ended."""
    reports = [entry for entry in history.rounds if "merge_digits" in entry]
    if not reports:
        return {}
    found = {name.removeprefix("test_"): value for name, value in reports[-1].items() if name.startswith("test_")}
    return found | {"before_joint": reports[-1]["accuracy"], "merge_digits": reports[-1]["merge_digits"]}
