"""Chapter 05: layer-wise amalgamation of several teachers into one student, its parts, its floor and its ceilings.

A row is ``<task>-<method>``. A task divides the classes of an image set among teachers, which are trained as a row
begins and are no part of its cost. The methods of a task share teachers, student, initial weights, number of student
updates and test images.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from reuselib import data, home, nets, report, run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError
from reuselib.layerwise.autoencoder import initialise, unexplained_variance
from reuselib.layerwise.learning import Stage, Teachers
from reuselib.layerwise.method import JointLearning, LayerwiseAmalgamation
from reuselib.layerwise.rivals import AmalgamationKD, OneStageAmalgamation
from reuselib.layerwise.scores import ClassSets, accuracies
from reuselib.nets.supervised import Supervised
from reuselib.run.legacy import Chapter, Outcome

UNTRAINED = ("teachers", "ensemble-logits", "ensemble-softmax", "untrained")
"""Rows in which no student learns."""

METHODS: dict[str, dict[str, Any]] = {
    "teachers": {},
    "ensemble-logits": {},
    "ensemble-softmax": {"log_softmax": True},
    "untrained": {},
    "supervised": {},
    "kd": {},
    "kd-softmax": {"log_softmax": True},
    "joint-only": {},
    "layerwise": {"layer_share": 1.0},
    "layerwise-nofam": {"layer_share": 1.0, "fam": False},
    "full": {},
    "full-nofam": {"fam": False},
    "full-sgd": {"encoder_share": 0.5},
    "full-softmax": {"log_softmax": True},
    "one-stage": {},
    "one-stage-nofam": {"fam": False},
}
"""The methods of a task, and what of its configuration each changes."""

NUMBER_METHODS: dict[str, dict[str, Any]] = {
    "direct": {},
    "incremental": {"incremental": True},
    "incremental-reversed": {"incremental": True, "reverse": True},
    "direct-softmax": {"log_softmax": True},
    "kd": {},
    "ensemble-logits": {},
    "ensemble-softmax": {"log_softmax": True},
    "supervised": {},
}
"""The methods of the tasks that differ in the number of teachers."""

SHORT_METHODS: dict[str, dict[str, Any]] = {"full": {}, "joint-only": {}, "kd": {}}
"""The methods of the tasks with fewer updates."""


@dataclass(frozen=True)
class Architecture:
    """A network, without its classes and images.

    Attributes:
        name: in ``models.MODELS``.
        widths: channels of its convolutions: block by block for ``plain_vgg``, one for each for ``alexnet``.
        hidden: of its linear layers.
    """

    name: str
    widths: tuple[Any, ...]
    hidden: Any


@dataclass(frozen=True)
class TeacherPlan:
    """Everything that decides a teacher, beside the seed and its number.

    Attributes:
        dataset: name of an image set.
        image: shape (C, H, W) of one image.
        network: its architecture.
        updates: of its training.
        batch: images per update.
        lr: of SGD with Nesterov momentum, which rises for a tenth of the updates and falls along half a cosine.
        raw: whether pixels lie in [0, 1], not normalised any further.
        pretrained: whether it starts from torchvision's ImageNet weights.
        kept: whether it is kept on disk for other runs.
    """

    dataset: str
    image: tuple[int, int, int]
    network: Architecture
    updates: int
    batch: int = 64
    lr: float = 0.02
    raw: bool = False
    pretrained: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a row, beside the seed.

    Attributes:
        task: name of the task.
        method: a key of ``METHODS`` or of ``NUMBER_METHODS``.
        classes: labels that each teacher knows, in the order of its logits.
        teacher: how each is trained.
        student: its architecture.
        updates: of the student.
        layer_share: share of them that learn layer by layer; the rest learn jointly.
        encoder_share: updates of the auto-encoders before, as a share of ``updates``; none for the closed form.
        fam: whether there are adaptation layers.
        incremental: whether teachers are amalgamated one after the other.
        reverse: in which order.
        log_softmax: whether the scores side by side are the logarithms of each teacher's softmax, not raw logits.
        batch: images per update.
        noise: standard deviation of the noise on the images that a student learns from.
        encoder_lr: of the auto-encoders, one or one for each.
        layer_lr: of the student's layers, one or one for each.
        joint_lr: of joint learning after layer-wise learning.
        lr: of joint learning alone.
        kd_lr: of distillation.
        port_lr: of the one-stage port.
        label_lr: of the student with labels.
        released: whether the stages use SGD as the first release does, with momentum 0.9, 0 and 0.9 and constant rates,
            not Adam along half a cosine.
        evaluations: how often the test accuracy is read, at most.
        limit: images of the test set that are used, ``None`` for all.
    """

    task: str
    method: str
    classes: tuple[tuple[int, ...], ...]
    teacher: TeacherPlan
    student: Architecture
    updates: int
    layer_share: float = 0.5
    encoder_share: float = 0.0
    fam: bool = True
    incremental: bool = False
    reverse: bool = False
    log_softmax: bool = False
    batch: int = 64
    noise: float = 0.1
    encoder_lr: float | tuple[float, ...] = 2e-2
    layer_lr: float | tuple[float, ...] = 2e-2
    joint_lr: float = 3e-3
    lr: float = 1e-2
    kd_lr: float = 1e-2
    port_lr: float = 1e-2
    label_lr: float = 0.05
    released: bool = False
    evaluations: int = 10
    limit: int | None = None


# --- presets ---------------------------------------------------------------------------------------------------------


def shuffled(classes: int, split: int = 0) -> list[int]:
    """All classes in an order that the number of the split decides: 0 is split A, 1 split B.

    Source: the official code of the follow-up (ICCV 2019) shuffles with ``random.seed(0)``, but names in the order of
    the disk, not labels.
    """
    order = list(range(classes))
    random.Random(split).shuffle(order)
    return order


def even(classes: int, teachers: int = 2, split: int = 0) -> tuple[tuple[int, ...], ...]:
    """Disjoint sets as even as can be."""
    return ClassSets.divide(shuffled(classes, split), teachers).sets


def overlapping(size: int) -> tuple[tuple[int, ...], ...]:
    """Ten classes for two teachers, of which each knows ``size``: the first and the last of split A."""
    order = tuple(shuffled(10))
    return order[:size], order[-size:]


def _vgg(*widths: int, hidden: int) -> Architecture:
    return Architecture("plain_vgg", tuple((width,) for width in widths), hidden)


FASHION = Config(
    "fashion",
    "",
    even(10),
    TeacherPlan("fashion_mnist", (1, 16, 16), _vgg(16, 32, 32, hidden=64), 800),
    _vgg(18, 36, 36, hidden=72),
    updates=1600,
    evaluations=8,
)
DIGITS = Config(
    "digits",
    "",
    even(10),
    TeacherPlan("digits", (1, 8, 8), _vgg(16, 32, hidden=32), 600),
    _vgg(18, 36, hidden=36),
    updates=640,
    evaluations=8,
)
TUNED: dict[str, dict[str, Any]] = {"full-nofam": {"joint_lr": 1e-3}}
"""What differs from the default learning rates of `Config` in the tasks of the laptop scale.

Three rates were tried for each method and each ablation, with seeds 100 and 101, which are in no table, on training
images that were set aside; what counted was agreement with the ensemble, which takes no labels (accuracy for the
student with labels, and unexplained variance for the auto-encoders). The tasks with another split, with shared classes
and with more teachers take the same rates.
"""

ALEXNET = Architecture("alexnet", (64, 192, 384, 256, 256), (4096, 4096))
ALEXNET_STUDENT = Architecture("alexnet", (72, 210, 420, 320, 320), (4200, 4200))
AIRCRAFT_COLAB = Config(
    "aircraft",
    "",
    even(100),
    TeacherPlan("fgvc_aircraft", (3, 224, 224), ALEXNET, 1600, lr=5e-3, raw=True, pretrained=True, kept=True),
    ALEXNET_STUDENT,
    updates=3200,
    encoder_share=0.25,
    noise=0.0,
    layer_lr=1e-3,
    encoder_lr=1e-3,
    joint_lr=2e-4,
    lr=2e-4,
    kd_lr=2e-4,
    port_lr=2e-4,
    label_lr=0.01,
    evaluations=5,
)
RELEASED: dict[str, Any] = {
    "encoder_share": 30 / 400,
    "layer_share": 100 / 400,
    "released": True,
    "lr": 1e-4,
    "kd_lr": 1e-3,
    "port_lr": 1e-3,
    "encoder_lr": (0.05, 0.025, 0.025, 0.01, 0.005, 0.005, 0.001),
    "layer_lr": (0.5, 0.1, 0.02, 0.03, 0.05, 0.008, 0.005, 0.001),
    "joint_lr": 1e-4,
    "evaluations": 45,
}
"""The first release: 30 epochs of auto-encoders, 100 layer by layer, 300 jointly. KD and the port use Adam."""

FINE_GRAINED = {
    "dogs": ("stanford_dogs", 120, 12_000),
    "cub": ("cub200", 200, 5_994),
    "cars": ("stanford_cars", 196, 8_144),
    "aircraft": ("fgvc_aircraft", 100, 6_667),
}
"""Task → image set, classes, training images."""


def _published(task: str) -> Config:
    """A task of the paper, at its scale. How the teachers were fine-tuned is our choice: it was not released."""
    dataset, classes, images = FINE_GRAINED[task]
    epoch = math.ceil(images / AIRCRAFT_COLAB.batch)
    teacher = replace(AIRCRAFT_COLAB.teacher, dataset=dataset, updates=30 * epoch)
    return replace(AIRCRAFT_COLAB, task=task, classes=even(classes), teacher=teacher, updates=400 * epoch, **RELEASED)


def _tiny(task: Config) -> Config:
    teacher = replace(task.teacher, updates=40, batch=32, lr=0.05)
    return replace(task, teacher=teacher, updates=16, batch=16, evaluations=2, limit=200)


def _tasks(scale: str) -> list[tuple[Config, Mapping[str, dict[str, Any]]]]:
    """The tasks of a scale, each with its methods."""
    few = {method: changes for method, changes in METHODS.items() if method != "full-sgd"}
    if scale == "smoke":
        digits = _tiny(DIGITS)
        return [
            (digits, METHODS),
            (replace(digits, task="overlap", classes=overlapping(7)), METHODS),
            (replace(digits, task="teachers3", classes=even(10, 3)), NUMBER_METHODS),
        ]
    if scale == "laptop":
        methods = {method: changes | TUNED.get(method, {}) for method, changes in METHODS.items()}
        short = [
            replace(task, task=f"{task.task}-{name}", updates=task.updates // part)
            for task in (FASHION, DIGITS)
            for name, part in (("half", 2), ("quarter", 4), ("eighth", 8))
        ]
        numbers = [replace(FASHION, task=f"teachers{count}", classes=even(10, count)) for count in (2, 3, 4, 5)]
        return [
            (FASHION, methods),
            (replace(FASHION, task="fashion-b", classes=even(10, split=1)), methods),
            (replace(FASHION, task="overlap", classes=overlapping(7)), methods),
            (DIGITS, methods),
            *((task, NUMBER_METHODS) for task in numbers),
            *((task, SHORT_METHODS) for task in short),
        ]
    tasks = [AIRCRAFT_COLAB] if scale == "colab" else [_published(task) for task in FINE_GRAINED]
    return [(task, few) for task in tasks]


class LayerwiseChapter(Chapter):
    """Chapter 05.

    A run keeps ``teachers`` (a :class:`~reuselib.layerwise.Teachers`), ``student`` (merged), ``classes`` and
    ``test`` (labelled in the student's order); where features are encoded, ``encoders`` too.
    """

    name = "layerwise"
    title = "Amalgamating knowledge layer by layer"
    shortened = {"laptop": {"updates": 800, "evaluations": 4}}

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """Every task of the scale with its methods."""
        rows = [replace(task, method=name, **more) for task, methods in _tasks(scale) for name, more in methods.items()]
        return {f"{config.task}-{config.method}": config for config in rows}

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Train and test one student."""
        bench = Bench(config, seed)
        history = run.History()
        if config.method not in UNTRAINED:
            method = bench.method()
            stages = bench.lengths(method)
            method.steps_per_round = round_length(stages, config.evaluations)
            history = run.run(
                method,
                sum(stages) // method.steps_per_round,
                checkpoint=checkpoint,
                evaluate=functools.partial(bench.evaluate, method),
                progress=progress,
                title=title,
                settings=f"{report.config_hash(config)} seed {seed}",
            )
            bench.keep(method)
        curves = ("accuracy", "loss", *(f"{name}_{k}" for name in ("nmse", "unexplained") for k in range(1, 9)))
        return Outcome(
            bench.metrics(history),
            history,
            bench.device,
            bench.precision,
            bench.kept,
            curves=tuple(name for name in curves if history.curve(name)[0]),
        )


def round_length(stages: Sequence[int], most: int) -> int:
    """The shortest round that divides every stage and makes at most so many rounds in all, or the longest there is."""
    whole, common = sum(stages), math.gcd(*stages)
    divisors = [length for length in range(1, common + 1) if common % length == 0]
    return next((length for length in divisors if whole // length <= most), common)


# --- networks and images ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _images(room: Path, plan: TeacherPlan, split: str, device: str) -> ImageSet:
    """An image set; ``room`` keeps two data rooms apart."""
    images = data.load(plan.dataset, split, size=plan.image[1], channels=plan.image[0]).to(device)
    channels = plan.image[0]
    return replace(images, mean=(0.0,) * channels, std=(1.0,) * channels) if plan.raw else images


def build(architecture: Architecture, classes: int, image: tuple[int, int, int], dropout: float = 0.0) -> nn.Module:
    """A newly initialised network; both kinds have a ReLU behind each hidden layer, as AlexNet has."""
    arguments: dict[str, Any] = {"size": image[1], "head_norm": False}
    if architecture.name == "alexnet":
        arguments = {"dropout": dropout}
    network = nets.build(
        architecture.name,
        widths=architecture.widths,
        hidden=architecture.hidden,
        classes=classes,
        channels=image[0],
        **arguments,
    )
    if architecture.name == "plain_vgg":
        cast(nn.Sequential, network.pool).append(nn.ReLU())
    return initialise(network)


def _with_labels(updates: int) -> run.Schedule:
    """The learning rate's course: without the rise, plain networks sometimes diverge in their first updates."""
    return run.cosine(updates, warmup=updates // 10)


@functools.lru_cache(maxsize=16)
def trained_teacher(
    room: Path, plan: TeacherPlan, known: tuple[int, ...], number: int, seed: int, device: str
) -> nn.Module:
    """Train a teacher on the images of its classes, or give the one that this process has trained already.

    Args:
        room: data folder.
        plan: what decides it.
        known: labels of its classes, in the order of its logits.
        number: which teacher of its task it is, from 1.
        seed: of the run.
        device: by name.
    """
    images = ClassSets((known,)).part(_images(room, plan, "train", device), 0)
    own = 100 * seed + number
    with run.seeded(own):
        network = build(plan.network, len(known), plan.image, dropout=0.5)
        if plan.pretrained:
            _take_imagenet(network)
    network = run.on_device(network, images.device)
    method = Supervised(
        network, images, batch=plan.batch, lr=plan.lr, weight_decay=5e-4, schedule=_with_labels(plan.updates), seed=own
    )
    settings = f"{report.config_hash(plan)} classes {known} seed {own}"
    method.steps_per_round = round_length([plan.updates], 10)
    digest = report.config_hash({"settings": settings})[:16]
    file = room / "pools" / f"teacher-{digest}.pt" if plan.kept else None
    rounds = plan.updates // method.steps_per_round
    run.run(
        method,
        rounds,
        checkpoint=file,
        save_every=rounds,
        settings=settings,
        progress=plan.kept,
        title=f"teacher {number}",
    )
    network.zero_grad()
    return network.eval().requires_grad_(False)


def _take_imagenet(network: nn.Module) -> None:
    """Start from torchvision's AlexNet; the last layer is drawn anew, N(0, 0.01), as in the first release."""
    from torchvision.models import AlexNet_Weights

    try:
        state = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ReuseError(
            f"torchvision's AlexNet could not be fetched ({error}). Connect to the network once, or run a row of the "
            "laptop scale, whose teachers start from random weights."
        ) from error
    nets.take_torchvision_alexnet(cast(nets.Classifier, network), state)
    head = cast(nets.Classifier, network).head
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)


class Bench:
    """What the methods of one task share with one seed: teachers, student, images, evaluation.

    Args:
        config: of the row.
        seed: teachers and student are built from it.
        device: chosen by the engine if left out.
    """

    def __init__(self, config: Config, seed: int, device: str | None = None) -> None:
        self.config, self.seed, self.device = config, seed, run.device(device)
        self.precision = run.precision(self.device).name
        self.classes = ClassSets(config.classes)
        plan = config.teacher
        networks = [
            trained_teacher(home.root(), plan, known, number, seed, str(self.device))
            for number, known in enumerate(config.classes, 1)
        ]
        self.teachers = Teachers(networks, self.classes, log_softmax=config.log_softmax)
        with run.seeded(seed):
            self.student = build(config.student, len(self.classes.union), plan.image)
        run.on_device(self.student, self.device)
        self.kept = {"teachers": self.teachers, "student": self.student, "classes": self.classes, "test": self.test}

    def load(self, split: str) -> ImageSet:
        """Images of all classes, labelled in the student's order."""
        return self.classes.whole(_images(home.root(), self.config.teacher, split, str(self.device)))

    @functools.cached_property
    def test(self) -> ImageSet:
        """The test images."""
        images = self.load("test")
        return images if self.config.limit is None else images.subset(slice(self.config.limit))

    def method(self) -> run.Method:
        """The training that the row names."""
        return MAKERS[self.config.method](self)

    def lengths(self, method: run.Method) -> list[int]:
        """The lengths of the stages of a method."""
        return method.lengths if isinstance(method, LayerwiseAmalgamation) else [self.config.updates]

    def options(self) -> dict[str, Any]:
        """What every learning from teachers takes."""
        return {"batch": self.config.batch, "noise": self.config.noise, "seed": self.seed}

    def stage(self, share: float, lr: float | tuple[float, ...], momentum: float) -> Stage:
        """A stage of the three-stage algorithm, with the optimizer that the configuration asks for."""
        steps = round(share * self.config.updates)
        return Stage(steps, lr, momentum, cosine=False) if self.config.released else Stage(steps, lr)

    def by_layers(self) -> LayerwiseAmalgamation:
        """The three stages, or the first two."""
        config = self.config
        order = list(range(len(config.classes)))
        return LayerwiseAmalgamation(
            self.teachers,
            self.student,
            self.load("train"),
            encoding=self.stage(config.encoder_share, config.encoder_lr, 0.9) if config.encoder_share else None,
            layers=self.stage(config.layer_share, config.layer_lr, 0.0),
            joint=self.stage(1 - config.layer_share, config.joint_lr, 0.9),
            fam=config.fam,
            incremental=config.incremental,
            order=order[::-1] if config.reverse else order,
            **self.options(),
        )

    def jointly(self, method: Callable[..., JointLearning], stage: Stage) -> JointLearning:
        """End-to-end learning of the teachers' scores."""
        return method(self.teachers, self.student, self.load("train"), stage=stage, **self.options())

    def distill(self) -> JointLearning:
        """Plain distillation."""
        return self.jointly(AmalgamationKD, Stage(self.config.updates, self.config.kd_lr))

    def in_one_stage(self) -> OneStageAmalgamation:
        """The one-stage port."""
        config = self.config
        stage = Stage(config.updates, config.port_lr, weight_decay=1e-4)
        return OneStageAmalgamation(
            self.teachers, self.student, self.load("train"), stage=stage, fam=config.fam, **self.options()
        )

    def learn_labels(self) -> Supervised:
        """The student's architecture trained with labels on as many batches."""
        config = self.config
        return Supervised(
            self.student,
            self.load("train"),
            batch=config.batch,
            lr=config.label_lr,
            seed=self.seed,
            schedule=_with_labels(config.updates),
        )

    def keep(self, method: run.Method) -> None:
        """Keep what figures need of a finished method."""
        if isinstance(method, LayerwiseAmalgamation):
            self.student = method.merged()
            self.kept |= {"student": self.student, "encoders": method.encoders}

    # --- measuring ---

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
            before = adapted.through(images)
            merged = method.merged().eval()
            after = merged(images)
        pairs = zip([*codes, scores], outputs, strict=True)
        result = {f"test_nmse_{k}": float(unexplained_variance(*pair)) for k, pair in enumerate(pairs, 1)}
        joined = [torch.cat(each, 1) for each in features]
        returned = [torch.cat(each, 1) for each in encoders.decode(codes)]
        lost = zip(joined, returned, strict=True)
        result |= {f"test_unexplained_{k}": float(unexplained_variance(*pair)) for k, pair in enumerate(lost, 1)}
        return result | {"merge_digits": agreeing_digits(before, after)}

    @torch.no_grad()
    def scores(self) -> tuple[Tensor, Tensor]:
        """What student and ensemble answer to the test images, both (N, K)."""
        with run.frozen(self.student):
            pairs = [(self.student(x).float(), self.teachers(x)[1]) for x, _ in self.test.batches(BATCH)]
        own, together = zip(*pairs, strict=True)
        return torch.cat(own), torch.cat(together)

    def metrics(self, history: run.History) -> dict[str, float]:
        """Accuracies of the student or the ensemble, of the teachers, and what the stages left behind."""
        teachers = [
            run.accuracy(network, self.classes.part(self._original_test, number), BATCH)
            for number, network in enumerate(self.teachers.networks)
        ]
        result = {f"teacher_{number}": value for number, value in enumerate(teachers, 1)}
        if self.config.method == "teachers":
            return result | self._of_teachers(teachers)
        student, together = self.scores()
        ensemble = self.config.method.startswith("ensemble")
        result |= accuracies(together if ensemble else student, self.test.labels, self.classes)
        result |= {"parameters": nets.parameter_count(self.teachers if ensemble else self.student)}
        if not ensemble:
            result["agreement"] = float((student.argmax(1) == together.argmax(1)).float().mean())
        return result | _at_boundary(history)

    @property
    def _original_test(self) -> ImageSet:
        """The test images with the labels of their set."""
        union = torch.tensor(self.classes.union, device=self.device)
        everything = _images(home.root(), self.config.teacher, "test", str(self.device))
        return replace(self.test, labels=union[self.test.labels], classes=everything.classes)

    def _of_teachers(self, teachers: list[float]) -> dict[str, float]:
        """Each teacher chooses among its own classes, in both ways of asking."""
        named = {f"{way}_{number}": value for way in ("part", "masked") for number, value in enumerate(teachers, 1)}
        mean = {"masked_mean": sum(teachers) / len(teachers)}
        return named | mean | {"parameters": nets.parameter_count(self.teachers)}


BATCH = 250
"""Test images at a time: AlexNet's maps are large."""


def agreeing_digits(a: Tensor, b: Tensor) -> float:
    """Decimal digits of the largest difference over the largest value, at most those of single precision."""
    error = (a - b).abs().max() / a.abs().max()
    return float(-error.clamp_min(torch.finfo(torch.float32).eps).log10())


def _at_boundary(history: run.History) -> dict[str, float]:
    """What was measured when layer-wise learning ended."""
    reports = [entry for entry in history.rounds if "merge_digits" in entry]
    if not reports:
        return {}
    names = [name for name in reports[-1] if name.startswith("test_")]
    found = {name.removeprefix("test_"): reports[-1][name] for name in names}
    return found | {"before_joint": reports[-1]["accuracy"], "merge_digits": reports[-1]["merge_digits"]}


MAKERS: dict[str, Callable[[Bench], run.Method]] = {
    **{
        method: Bench.by_layers
        for method in (
            "layerwise",
            "layerwise-nofam",
            "full",
            "full-nofam",
            "full-sgd",
            "full-softmax",
            "direct",
            "incremental",
            "incremental-reversed",
            "direct-softmax",
        )
    },
    "joint-only": lambda bench: bench.jointly(JointLearning, bench.stage(1.0, bench.config.lr, 0.9)),
    "kd": Bench.distill,
    "kd-softmax": Bench.distill,
    "one-stage": Bench.in_one_stage,
    "one-stage-nofam": Bench.in_one_stage,
    "supervised": Bench.learn_labels,
}
