"""Tiny networks, and every method of the library on them, for the tests of the engine and of the methods.

    method = players.make("dfad")                      # ready for method.step()
    method = players.make("zskt", where="meta")        # the same, all tensors on the meta device
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import engine, gan, grafting, models
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.datafree import DAFL, DFAD, FAMILY, ZSKT, Distillation, Inversion, Studio, losses, sources
from reuselib.gan import OneStageDFAD, OneStageGAN, TwoStageGAN
from reuselib.supervised import Supervised

IMAGE = (1, 8, 8)
CLASSES = 4
BATCH = 6


@dataclass
class Cast:
    """Who takes part: the teacher is always the same, the others come from a seed."""

    teacher: nn.Module
    student: nn.Module
    generator: models.Generator
    discriminator: models.Discriminator
    images: ImageSet


def cast(where: str = "cpu", seed: int = 0, batch_norm: bool = True, dropout: float = 0.0) -> Cast:
    device = torch.device(where)
    with engine.seeded(99):
        teacher = models.conv3(width=4, classes=CLASSES, batch_norm=batch_norm)
        pixels = torch.randint(256, (40, *IMAGE), dtype=torch.uint8)
        labels = torch.randint(CLASSES, (40,))
    with engine.seeded(seed):
        student = models.conv3(width=2, classes=CLASSES, batch_norm=batch_norm)
        generator = models.upsampling_generator(image=IMAGE, latent=5, width=4)
        discriminator = models.dcgan_discriminator(image=IMAGE, width=4, groups=4)
    student.pool.append(nn.Dropout(dropout))
    images = ImageSet("tiny", pixels, labels, tuple("abcd"), (0.5,), (0.25,)).to(device)
    networks = (teacher, student, generator, discriminator)
    return Cast(*(engine.on_device(network, device) for network in networks), images)


def _adversarial(method: type, **options: Any) -> Callable[..., engine.Method]:
    return lambda cast, **more: method(cast.teacher, cast.student, cast.generator, **options | more)


def _distilled(source: Callable[[Cast], sources.Source]) -> Callable[..., engine.Method]:
    return lambda cast, **more: Distillation(cast.teacher, cast.student, source(cast), **more)


def _inverting(name: str, learns: bool = True, **changes: Any) -> Callable[..., Inversion]:
    """A method of CMI's family on tiny images; its student learns alongside, unless told otherwise."""

    def build(cast: Cast, batch: int = BATCH, **more: Any) -> Inversion:
        studio = Studio(IMAGE, (0.5,), (0.25,), latent=5, width=2)
        settings = {"image_steps": 2, "student_steps": 2, "bank": 2 * batch, "negatives": 8, "embedding": 3}
        settings |= {"student": cast.student if learns else None, "student_options": {"batch": batch}}
        pool = studio.pool(12 * batch, cast.images.device)
        return studio.inversion(name, cast.teacher, pool, changes, batch=batch, **settings | more)

    return build


def _gan(scheme: type, **options: Any) -> Callable[..., engine.Method]:
    return lambda cast, **more: scheme(
        cast.generator, cast.discriminator, gan.in_tanh_range(cast.images), **options | more
    )


def _supervised(cast: Cast, **options: Any) -> Supervised:
    augmentation = {"crop": 1, "flip": True, "mixup": True, "noise": 0.1, "label_smoothing": 0.1}
    return Supervised(cast.student, cast.images, **augmentation, **options)


def _few(method: type, shared: bool = False, plain: bool = False, **options: Any) -> Callable[..., grafting.FewShot]:
    """A method that distils with a few images: the student has the teacher's first block, or layers with biases."""

    def build(cast: Cast, **more: Any) -> grafting.FewShot:
        with engine.seeded(0):
            if shared:
                cast.student.blocks[0] = models.conv3(width=4, batch_norm=True).blocks[0]
                cast.student.blocks[1][0] = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            if plain:
                cast.student = models.conv3(width=2, classes=CLASSES)
        cast.student = engine.on_device(cast.student, cast.images.device)
        return method(cast.teacher, cast.student, cast.images, **options | {"shared": int(shared)} | more)

    return build


def grafts(steps: int, shared: int = 0) -> list[grafting.Graft]:
    """Both stages for the four blocks of the cast."""
    stages = (grafting.block_grafting, grafting.network_grafting)
    return [graft for stage in stages for graft in stage(4, steps, 1e-3, 2e-3, shared=shared)]


DISTILLING: dict[str, Callable[..., engine.Method]] = {
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
GANS: dict[str, Callable[..., engine.Method]] = {
    "gan-one-stage": _gan(OneStageGAN),
    "gan-one-stage-least-squares": _gan(OneStageGAN, loss=gan.LEAST_SQUARES, ratio="autograd"),
    "gan-one-stage-wasserstein": _gan(OneStageGAN, loss=gan.WASSERSTEIN, clip=0.01),
    **{f"gan-two-stage-{variant}": _gan(TwoStageGAN, variant=variant) for variant in gan.VARIANTS},
}
INVERTING: dict[str, Callable[..., engine.Method]] = {
    **{f"inversion-{name}": _inverting(name) for name in FAMILY},
    "inversion-adversary": lambda cast, **more: _inverting("cmi")(cast, **{"student_steps": 0} | more),
    "inversion-alone": _inverting("cmi", learns=False, adversarial=0.0),
}
GRAFTING: dict[str, Callable[..., engine.Method]] = {
    "netgraft": _few(grafting.NetGraft, plan=grafts(5)),
    "netgraft-shared": _few(grafting.NetGraft, plan=grafts(1, shared=1), shared=True, draw="epochs"),
    "netgraft-features": _few(grafting.NetGraft, plan=grafts(1), local=True, bias=True, augment=crop_and_flip),
    "few-kd": _few(grafting.KnowledgeDistillation, augment=partial(crop_and_flip, padding=1, flip=False)),
    "few-kd-shared": _few(grafting.KnowledgeDistillation, shared=True, draw="epochs"),
    "fitnet": _few(grafting.FitNet, hint_steps=3),
    "fitnet-shared": _few(grafting.FitNet, hint_steps=3, shared=True),
    "fskd": _few(grafting.FSKD, plain=True),
    "cross-distillation": _few(grafting.CrossDistillation, plain=True, steps=3),
}
TAUGHT = DISTILLING | INVERTING | GRAFTING
"""The methods that have a teacher."""
MAKERS = TAUGHT | GANS | {"supervised": _supervised}
METHODS = list(MAKERS)
"""Every method of the library."""


def make(name: str, where: str = "cpu", seed: int = 0, dropout: float = 0.0, **options: Any) -> engine.Method:
    """Make a method on a tiny cast; fp32 unless told otherwise, two steps a round."""
    options = {"batch": BATCH, "seed": seed, "precision": "fp32"} | options
    method = MAKERS[name](cast(where, seed, dropout=dropout), **options)
    method.steps_per_round = 2
    return method


def learner(method: engine.Method) -> nn.Module:
    """The network that a method is there for: its student or, where no student learns, its generator."""
    student = getattr(method, "student", None)
    only_watches = student is not None and student is getattr(method, "adversary", None)
    return method.generator if student is None or only_watches else student


def copied(method: engine.Method) -> list[nn.Module]:
    """The student's blocks that are copies of the teacher's and never learn."""
    return grafting.blocks_of(method.student)[: method.shared] if getattr(method, "shared", 0) else []


def evaluation(method: engine.Method) -> Callable[[], dict[str, float]]:
    """What an engine's run may measure on the way: the student's accuracy, or the mean of a generator's images."""
    network, images = learner(method), cast().images

    @torch.no_grad()
    def mean() -> float:
        with engine.frozen(network):
            return network(torch.ones(2, network.latent)).mean().item()

    if isinstance(network, models.Generator):
        return lambda: {"mean": mean()}
    return lambda: {"accuracy": engine.accuracy(network, images)}


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
    if isinstance(value, engine.Method):
        return {"iteration": value.iteration} | {key: state(item) for key, item in vars(value).items()}
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


class Explosion(Exception):
    """What a rigged function raises."""


def rigged(function: Callable[..., Any], at: int | None = None) -> Callable[..., Any]:
    """A function that counts its calls in `.calls` and explodes at one of them (0 is the first)."""

    def call(*arguments: Any, **options: Any) -> Any:
        call.calls += 1
        if call.calls - 1 == at:
            raise Explosion
        return function(*arguments, **options)

    call.calls = 0
    return call
