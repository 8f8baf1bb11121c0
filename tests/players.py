"""Tiny networks, and every method of the library on them, for the tests of the engine and of the methods.

method = players.make("dfad")                      # ready for method.step()
method = players.make("zskt", where="meta")        # the same, all tensors on the meta device
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reuselib import attribution, data, netgraft, nets, one_stage_gan, qfsl, run, selective
from reuselib.adaptive import ComponentLearning, Ensemble, Lesson, TargetLearning
from reuselib.attribution.learning import TaskLearning, compact
from reuselib.cmi import FAMILY, Inversion, Studio
from reuselib.data import ImageSet, MultiLabelSet, SegmentationSet
from reuselib.data.augment import crop_and_flip
from reuselib.dfad import DAFL, DFAD, ZSKT, Distillation, losses, sources
from reuselib.layerwise import (
    AmalgamationKD,
    ClassSets,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    OneStageAmalgamation,
    Stage,
    Teachers,
    make_encoders,
)
from reuselib.nets import blank, zoo
from reuselib.nets.supervised import (
    MultiTaskSupervised,
    SegmentationTraining,
    Supervised,
    segmentation_scores,
    task_accuracies,
)
from reuselib.one_stage_gan import OneStageDFAD, OneStageGAN, TwoStageGAN
from reuselib.qfsl.rivals.trained import CodewordNetwork, SCoReTraining
from reuselib.worlds import rooms

IMAGE = (1, 8, 8)
CLASSES = 4
KNOWN = ((0, 1, 2), (3, 1))
BATCH = 6


@dataclass
class Cast:
    """Who takes part: the teachers are always the same, the others come from a seed.

    `teachers` are two plain networks that share one class; `plain` is a student for them.
    """

    teacher: nn.Module
    student: nn.Module
    generator: nets.Generator
    discriminator: nets.Discriminator
    plain: nn.Module
    teachers: list[nn.Module]
    images: ImageSet


def cast(where: str = "cpu", seed: int = 0, batch_norm: bool = True, dropout: float = 0.0) -> Cast:
    device = torch.device(where)
    with run.seeded(99):
        teacher = nets.conv3(width=4, classes=CLASSES, batch_norm=batch_norm)
        pixels = torch.randint(256, (40, *IMAGE), dtype=torch.uint8)
        labels = torch.randint(CLASSES, (40,))
        teachers = [nets.conv3(width=width, classes=len(known)) for width, known in zip((4, 5), KNOWN, strict=True)]
    with run.seeded(seed):
        student = nets.conv3(width=2, classes=CLASSES, batch_norm=batch_norm)
        generator = nets.upsampling_generator(image=IMAGE, latent=5, width=4)
        discriminator = nets.dcgan_discriminator(image=IMAGE, width=4, groups=4)
        plain = nets.conv3(width=6, classes=CLASSES)
    for network in (student, plain):
        network.pool.append(nn.Dropout(dropout))
    images = ImageSet("tiny", pixels, labels, tuple("abcd"), (0.5,), (0.25,)).to(device)
    networks = (teacher, student, generator, discriminator, plain)
    moved = [run.on_device(network, device) for network in teachers]
    return Cast(*(run.on_device(network, device) for network in networks), moved, images)


def space(image: tuple[int, int, int] = IMAGE, mean: Any = (0.5,), std: Any = (0.25,)) -> ImageSet:
    """No images at all, but what such images would look like."""
    none = torch.zeros(0, *image, dtype=torch.uint8)
    return ImageSet("none", none, none[:, 0, 0, 0].long(), tuple("abcd"), mean, std)


def _adversarial(method: type, **options: Any) -> Callable[..., run.Method]:
    return lambda cast, **more: method(cast.teacher, cast.student, cast.generator, **options | more)


def _distilled(source: Callable[[Cast], sources.Source]) -> Callable[..., run.Method]:
    return lambda cast, **more: Distillation(cast.teacher, cast.student, source(cast), **more)


def _inverting(name: str, learns: bool = True, **changes: Any) -> Callable[..., Inversion]:
    """A method of CMI's family on tiny images; its student learns alongside, unless told otherwise."""

    def build(cast: Cast, batch: int = BATCH, **more: Any) -> Inversion:
        studio = Studio(cast.images, latent=5, width=2)
        settings: dict[str, Any] = {"image_steps": 2, "bank": 2 * batch, "negatives": 8, "embedding": 3}
        if learns:
            settings |= {"student": cast.student, "learning": {"batch": batch, "student_steps": 2}}
        return studio.inversion(name, cast.teacher, studio.pool(12 * batch), changes, batch=batch, **settings | more)

    return build


def _gan(scheme: type, **options: Any) -> Callable[..., run.Method]:
    return lambda cast, **more: scheme(
        cast.generator, cast.discriminator, one_stage_gan.in_tanh_range(cast.images), **options | more
    )


def _supervised(cast: Cast, **options: Any) -> Supervised:
    augmentation = {"crop": 1, "flip": True, "mixup": True, "noise": 0.1}
    return Supervised(cast.student, cast.images, **augmentation, **options)


def _few(method: type, shared: bool = False, plain: bool = False, **options: Any) -> Callable[..., netgraft.FewShot]:
    """A method that distils with a few images: the student has the teacher's first block, or layers with biases."""

    def build(cast: Cast, **more: Any) -> netgraft.FewShot:
        with run.seeded(0):
            if shared:
                cast.student.blocks[0] = nets.conv3(width=4, batch_norm=True).blocks[0]
                cast.student.blocks[1][0] = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            if plain:
                cast.student = nets.conv3(width=2, classes=CLASSES)
        cast.student = run.on_device(cast.student, cast.images.device)
        return method(cast.teacher, cast.student, cast.images, **options | {"shared": int(shared)} | more)

    return build


def grafts(steps: int, shared: int = 0) -> list[netgraft.Graft]:
    """Both stages for the four blocks of the cast."""
    stages = (netgraft.block_grafting, netgraft.network_grafting)
    return [graft for stage in stages for graft in stage(4, steps, 1e-3, 2e-3, shared=shared)]


TASKS = {"a": 3, "b": 2}
WIDTHS = (3, 2)


def multi_label(cast: Cast) -> MultiLabelSet:
    """The cast's images with two labels each; of the second task a few are not asked."""
    count = torch.arange(len(cast.images), device=cast.images.device)
    names = {task: tuple("xyz"[:classes]) for task, classes in TASKS.items()}
    return MultiLabelSet(cast.images, torch.stack([count % 3, count % 4 % 3 - 1], 1), names)


def pool(cast: Cast) -> dict[str, nets.MultiHead]:
    """Three sources of two architectures: two know task a, two know task b. Always the same."""
    with run.seeded(98):
        sources = {
            "s1": nets.multi_head_conv({"a": 3, "c": 2}, widths=(4, 6)),
            "s2": nets.multi_head_residual(TASKS, widths=(5, 4)),
            "s3": nets.multi_head_conv({"b": 2}, widths=(4, 6)),
        }
    return {name: run.on_device(source, cast.images.device) for name, source in sources.items()}


def pupil(cast: Cast, seed: int, tasks: dict[str, int]) -> nets.MultiHead:
    """A network with heads that learns; it drops out as the cast's student does."""
    with run.seeded(seed):
        network = nets.multi_head_conv(tasks, widths=(3, 5))
    network.pool.append(nn.Dropout(cast.student.pool[-1].p))
    return run.on_device(network, cast.images.device)


def lessons(cast: Cast, sources: dict[str, nets.MultiHead], task: str) -> list[Lesson]:
    """The two sources of a task, on two parts of the images, one of them small."""
    parts = torch.arange(len(cast.images), device=cast.images.device).split([32, 8])
    chosen = [source for source in sources.values() if task in source.tasks]
    return [Lesson(source, task, part) for source, part in zip(chosen, parts, strict=True)]


def _component(tasks: tuple[str, ...] = ("a",), **changes: Any) -> Callable[..., run.Method]:
    def build(cast: Cast, seed: int = 0, **more: Any) -> ComponentLearning:
        sources, student = pool(cast), pupil(cast, seed, {task: TASKS[task] for task in tasks})
        taught = [lesson for task in tasks for lesson in lessons(cast, sources, task)]
        settings = {"widths": WIDTHS, "noise": 0.1, "seed": seed} | changes | more
        return ComponentLearning(student, taught, cast.images, **settings)

    return build


def _averaged(cast: Cast, seed: int = 0, **more: Any) -> ComponentLearning:
    ensemble = Ensemble([source for source in pool(cast).values() if "b" in source.tasks], "b")
    student = pupil(cast, seed, {"b": 2})
    return ComponentLearning(student, [Lesson(ensemble, "b")], cast.images, features=0.0, seed=seed, **more)


def _target(**changes: Any) -> Callable[..., run.Method]:
    def build(cast: Cast, seed: int = 0, **more: Any) -> TargetLearning:
        components = {task: source for task, source in zip(TASKS, pool(cast).values(), strict=False)}
        return TargetLearning(pupil(cast, seed, TASKS), components, cast.images, seed=seed, **changes | more)

    return build


def _multi_task(cast: Cast, seed: int = 0, **more: Any) -> MultiTaskSupervised:
    return MultiTaskSupervised(pupil(cast, seed, TASKS), multi_label(cast), noise=0.1, seed=seed, **more)


def masked(cast: Cast) -> SegmentationSet:
    """The cast's images with a class for every pixel; a few pixels have none."""
    masks = (cast.images.images[:, 0] // 64).long()
    ignored = torch.arange(masks.shape[2], device=masks.device) % 5 == 0
    return SegmentationSet(cast.images, masks.masked_fill(ignored, 255), tuple("abcd"))


def segmenter(cast: Cast, seed: int, width: int = 2) -> nets.Segmenter:
    """A network that segments the cast's images; it drops out as the cast's student does."""
    with run.seeded(seed):
        network = nets.small_segmenter(width, CLASSES, channels=1)
    network.decoder.append(nn.Dropout(cast.student.pool[-1].p))
    return run.on_device(network, cast.images.device)


def _segmenting(build: Callable[..., run.Method]) -> Callable[..., run.Method]:
    """A method whose teacher, always the same, and whose student segment."""
    return lambda cast, seed=0, **more: build(cast, segmenter(cast, 97, 4), segmenter(cast, seed), seed=seed, **more)


UNSEEN, ATTRIBUTES = 2, 5


def _zero_shot(build: Callable[..., run.Method], network: type = qfsl.ZeroShotNetwork) -> Callable[..., Any]:
    """A method that learns the cast's classes by their codes, always the same; two more classes are not seen."""

    def made(cast: Cast, seed: int = 0, **more: Any) -> run.Method:
        seen, features = torch.arange(CLASSES), cast.student.head.in_features
        backbone = nn.Sequential(cast.student.blocks, cast.student.pool)
        with run.seeded(96):
            codes = qfsl.class_codes(torch.rand(CLASSES + UNSEEN, ATTRIBUTES), seen)
        with run.seeded(seed):
            if issubclass(network, selective.AugmentedNetwork):
                student = network(codes, seen, features, width=3, backbone=backbone)
            else:
                known = {"seen": seen} if issubclass(network, CodewordNetwork) else {}
                student = network(codes, **known, bridge=qfsl.bridge(features, ATTRIBUTES), backbone=backbone)
        return build(run.on_device(student, cast.images.device), cast.images, seed=seed, **more)

    return made


def _quasi_fully(student: qfsl.ZeroShotNetwork, images: ImageSet, **more: Any) -> qfsl.QFSL:
    return qfsl.QFSL(student, images, images.subset(slice(20, None)), range(CLASSES), **more)


def _from_teachers(build: Callable[..., run.Method]) -> Callable[..., run.Method]:
    """A method that learns from several teachers."""
    return lambda cast, **more: build(
        cast, Teachers(cast.teachers, ClassSets(KNOWN)), **{"noise": 0.1, "stage": Stage(8, 1e-2)} | more
    )


def _of_a_student(method: Callable[..., run.Method]) -> Callable[..., run.Method]:
    return lambda cast, teachers, **more: method(teachers, cast.plain, cast.images, **more)


def _features(cast: Cast, teachers: Teachers, seed: int = 0, **more: Any) -> FeatureLearning:
    encoders = make_encoders(teachers, cast.plain, cast.images, seed=seed)
    return FeatureLearning(teachers, encoders, cast.images, seed=seed, **more)


def _layers(cast: Cast, teachers: Teachers, **more: Any) -> LayerLearning:
    encoders = make_encoders(teachers, cast.plain, cast.images)  # given, and so the same for every seed
    return LayerLearning(teachers, encoders, cast.plain, cast.images, **more)


def _three_stages(cast: Cast, teachers: Teachers, stage: Stage, **more: Any) -> LayerwiseAmalgamation:
    stages = {"encoding": Stage(3, 1e-2), "layers": Stage(3, 1e-2), "joint": Stage(2, 1e-2)}
    return LayerwiseAmalgamation(teachers, cast.plain, cast.images, **stages | more)


def _two_stages(cast: Cast, teachers: Teachers, **more: Any) -> LayerwiseAmalgamation:
    return _three_stages(cast, teachers, encoding=None, layers=Stage(4, 1e-2), joint=Stage(4, 1e-2), **more)


def _room_task(task: str, cast: Cast, seed: int = 0, readout: bool = False, **more: Any) -> TaskLearning:
    """A network learns a task of the rooms, or a readout does from a frozen encoder's representations."""
    asked, found, where = rooms.task(task), rooms.rooms("zoo", 12), cast.images.device
    with run.seeded(95):
        rows = torch.rand(12, 8, 8, 8) if readout else found.images.images
    with run.seeded(seed):
        student = (nets.readout if readout else nets.task_network)(asked.shape[0], asked.dense)
    lesson = attribution.learning.Lesson(task, rows.to(where), compact(task, found.labels(task)).to(where))
    return TaskLearning(run.on_device(student, where), lesson, seed=seed, **{"updates": 8} | more)


AMALGAMATING: dict[str, Callable[..., run.Method]] = {
    "amalgamation-features": _from_teachers(_features),
    "amalgamation-layers": _from_teachers(_layers),
    "amalgamation-layers-nofam": _from_teachers(lambda *cast, **more: _layers(*cast, fam=False, **more)),
    "amalgamation-joint": _from_teachers(_of_a_student(JointLearning)),
    "amalgamation-kd": _from_teachers(_of_a_student(AmalgamationKD)),
    "amalgamation-one-stage": _from_teachers(_of_a_student(OneStageAmalgamation)),
}
ADAPTIVE: dict[str, Callable[..., run.Method]] = {
    "component": _component(),
    "component-logits": _component(features=0.0, widths=None),
    "component-one-step": _component(("a", "b")),
    "component-averaged": _averaged,
    "target": _target(),
    "target-logits": _target(features=0.0),
}
DISTILLING: dict[str, Callable[..., run.Method]] = {
    "kd-images": _distilled(lambda cast: sources.from_images(cast.images)),
    "kd-noise": _distilled(lambda cast: sources.gaussian_noise(IMAGE, cast.images.device)),
    "kd-generator": _distilled(lambda cast: sources.from_generator(cast.generator)),
    "dfad": _adversarial(DFAD),
    "dfad-kl": _adversarial(DFAD, discrepancy=losses.kl_divergence),
    "dfad-log": _adversarial(DFAD, generation=losses.negative_log),
    "dfad-one-stage": _adversarial(OneStageDFAD, student_steps=3),
    "dafl": _adversarial(DAFL),
    "zskt": lambda cast, **more: _adversarial(ZSKT)(cast, **{"student_steps": 3} | more),
}
SEGMENTING: dict[str, Callable[..., run.Method]] = {
    "segmentation-kd": _segmenting(
        lambda cast, *both, **more: Distillation(*both, sources.from_images(cast.images, crop_and_flip), **more)
    ),
    "segmentation-dfad": _segmenting(
        lambda cast, *both, **more: DFAD(*both, cast.generator, generation=losses.negative_log, **more)
    ),
    "segmentation-dafl": _segmenting(lambda cast, *both, **more: DAFL(*both, cast.generator, layer="decoder", **more)),
}
GANS: dict[str, Callable[..., run.Method]] = {
    "gan-one-stage": _gan(OneStageGAN),
    "gan-one-stage-least-squares": _gan(OneStageGAN, loss=one_stage_gan.LEAST_SQUARES, ratio="autograd"),
    "gan-one-stage-wasserstein": _gan(OneStageGAN, loss=one_stage_gan.WASSERSTEIN, clip=0.01),
    **{f"gan-two-stage-{variant}": _gan(TwoStageGAN, variant=variant) for variant in one_stage_gan.VARIANTS},
}
INVERTING: dict[str, Callable[..., run.Method]] = {
    **{f"inversion-{name}": _inverting(name) for name in FAMILY},
    "inversion-adversary": lambda cast, **more: _inverting("cmi")(cast, **{"learning": None} | more),
    "inversion-alone": _inverting("cmi", learns=False, adversarial=0.0),
}
GRAFTING: dict[str, Callable[..., run.Method]] = {
    "netgraft": _few(netgraft.NetGraft, plan=grafts(5)),
    "netgraft-shared": _few(netgraft.NetGraft, plan=grafts(1, shared=1), shared=True, epochs=True),
    "netgraft-features": _few(netgraft.NetGraft, plan=grafts(1), local=True, augment=crop_and_flip),
    "few-kd": _few(netgraft.KnowledgeDistillation, augment=partial(crop_and_flip, padding=1, flip=False)),
    "few-kd-shared": _few(netgraft.KnowledgeDistillation, shared=True, epochs=True),
    "fitnet": _few(netgraft.FitNet, hint_steps=3),
    "fitnet-shared": _few(netgraft.FitNet, hint_steps=3, shared=True),
    "fskd": _few(netgraft.FSKD, plain=True),
    "cross-distillation": _few(netgraft.CrossDistillation, plain=True, steps=12),
}
STAGED: dict[str, Callable[..., run.Method]] = {
    "amalgamation": _from_teachers(_three_stages),
    "amalgamation-closed-form": _from_teachers(_two_stages),
}
"""Methods of several stages: what a step does depends on the iteration."""
TAUGHT = DISTILLING | SEGMENTING | INVERTING | GRAFTING | AMALGAMATING | ADAPTIVE
"""The methods that have a teacher."""
LABELLED: dict[str, Callable[..., run.Method]] = {
    "supervised": _supervised,
    "supervised-multi-task": _multi_task,
    "supervised-segmentation": lambda cast, seed=0, **more: SegmentationTraining(
        segmenter(cast, seed),
        masked(cast),
        **{"seed": seed, "window": 4, "flip": True, "focal": 2.0, "mixup": True, "noise": 0.1} | more,
    ),
}
ZERO_SHOT: dict[str, Callable[..., run.Method]] = {
    "zero-shot-seen": _zero_shot(partial(qfsl.SeenTraining, seen=range(CLASSES))),
    "zero-shot-qfsl": _zero_shot(_quasi_fully),
    "zero-shot-qfsl-entropy": _zero_shot(partial(_quasi_fully, term=qfsl.losses.entropy)),
    "zero-shot-codewords": _zero_shot(SCoReTraining, CodewordNetwork),
    "zero-shot-augmented": _zero_shot(
        partial(selective.AugmentedTraining, task="decorrelated", backbone_lr=0.1), selective.AugmentedNetwork
    ),
}
ROOMS: dict[str, Callable[..., run.Method]] = {
    "rooms-task": partial(_room_task, "denoise"),
    "rooms-classes": partial(_room_task, "semseg"),
    "rooms-readout": partial(_room_task, "depth", readout=True),
}
MAKERS = TAUGHT | GANS | LABELLED | ZERO_SHOT | ROOMS
METHODS = list(MAKERS)
"""Every method of the library, but those of several stages, whose stages are methods of their own."""


def make(name: str, where: str = "cpu", seed: int = 0, dropout: float = 0.0, **options: Any) -> run.Method:
    """Make a method on a tiny cast; fp32 unless told otherwise, two steps a round."""
    options = {"batch": BATCH, "seed": seed, "precision": "fp32"} | options
    method = (MAKERS | STAGED)[name](cast(where, seed, dropout=dropout), **options)
    method.steps_per_round = 2
    return method


def drive(method: run.Method, reports: int, **options: Any) -> run.History:
    """Run a method for some reports of ``method.steps_per_round`` updates, a checkpoint after each, no bar."""
    every = method.steps_per_round
    options = {"save_every": 0, "progress": False} | options
    return run.run(method, updates=every * reports, report_every=every, **options)


def learner(method: run.Method) -> nn.Module:
    """The network that a method is there for: its student or, where no student learns, its generator or encoders."""
    student = getattr(method, "student", None)
    if isinstance(method, FeatureLearning | LayerLearning):
        return method.adapted if isinstance(method, LayerLearning) else method.encoders
    only_watches = student is not None and student is getattr(method, "adversary", None)
    return method.generator if student is None or only_watches else student


def copied(method: run.Method) -> list[nn.Module]:
    """The student's blocks that are copies of the teacher's and never learn."""
    return netgraft.blocks_of(method.student)[: method.shared] if getattr(method, "shared", 0) else []


def evaluation(method: run.Method) -> Callable[[], dict[str, float]]:
    """What an engine's run may measure on the way: the student's accuracy, or a mean where it is no classifier."""
    network = learner(method)
    if isinstance(network, nets.Generator) or isinstance(method, FeatureLearning | LayerLearning | TaskLearning):
        return lambda: {"mean": torch.cat([p.detach().flatten() for p in network.parameters()]).mean().item()}
    if isinstance(network, nets.Segmenter):
        return lambda: segmentation_scores(network, masked(cast()))
    if isinstance(network, nets.MultiHead):
        return lambda: task_accuracies(network, multi_label(cast()))
    return lambda: {"accuracy": run.accuracy(network, cast().images)}


def kept(method: run.Method) -> list[nn.Module]:
    """The networks that a method must leave as they are: its teacher, its teachers, its sources."""
    return [network for name, network in method.networks().items() if name in method.fixed]


def state(value: Any) -> Any:
    """Everything that a method, a network or an optimizer holds and that changes, copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if hasattr(value, "state_dict"):
        return state(value.state_dict())
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [state(item) for item in value]
    if isinstance(value, run.Method):
        kept = {key: state(item) for key, item in vars(value).items() if key != "described"}
        return {"iteration": value.iteration} | kept
    return value if isinstance(value, int | float | str | bool | None) else None


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Name every place where two states are not equal bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from differences(a.get(key), b.get(key), f"{place}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, f"{place}/{index}")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a, b):
            yield place
    elif a != b:
        yield place


def hooks(network: nn.Module) -> int:
    """How many hooks hang on a network and its parts."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def stand_in(monkeypatch: Any, count: int = 40) -> None:
    """Put random networks and random images of the true form in place of the zoo's and of every image set's."""
    to_load = zoo.load

    def load(name: str, where: Any = None) -> nn.Module:
        with run.seeded(0):
            blank_one = to_load(name, "meta").to_empty(device="cpu")
            for module in blank_one.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return run.on_device(blank_one.eval(), torch.device("cpu"))

    def drawn(name: str, split: str = "train", size: int | None = None, channels: int | None = None) -> ImageSet:
        shape, random = blank.images(name, size).shape, torch.Generator().manual_seed(len(split))
        shape = (channels or shape[0], *shape[1:])
        pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=random)
        half, classes = (0.5,) * shape[0], tuple(map(str, range(blank.SPACES[name].classes)))
        return ImageSet(name, pixels, torch.arange(count) % len(classes), classes, half, half)

    def card(name: str) -> dict[str, Any]:
        images = drawn(zoo.dataset(name), size=zoo.RECIPES[name].size)
        return {"image": images.shape, "mean": images.mean, "std": images.std}

    monkeypatch.setattr(zoo, "load", lambda name, where=None: (to_load if str(where) == "meta" else load)(name, where))
    images = lambda name, split, where=None: drawn(zoo.dataset(name), split, zoo.RECIPES[name].size)  # noqa: E731
    monkeypatch.setattr(zoo, "images", images)
    monkeypatch.setattr(zoo, "card", card)
    monkeypatch.setattr(data, "load", drawn)


class Explosion(Exception):
    """What a rigged function raises."""


def cut(patch: pytest.MonkeyPatch, once: Callable[[], Any], at: int) -> None:
    """Run a row that writes a checkpoint after every update, and cut it at one of them (0 is the first)."""
    patch.setattr("reuselib.run.study.run", partial(run.run, save_every=0))
    with patch.context() as interrupted, pytest.raises(Explosion):
        interrupted.setattr("reuselib.run.checkpoint.save_checkpoint", rigged(run.save_checkpoint, at=at))
        once()


def rigged(function: Callable[..., Any], at: int | None = None) -> Callable[..., Any]:
    """A function that counts its calls in `.calls` and explodes at one of them (0 is the first)."""

    def call(*arguments: Any, **options: Any) -> Any:
        call.calls += 1
        if call.calls - 1 == at:
            raise Explosion
        return function(*arguments, **options)

    call.calls = 0
    return call
