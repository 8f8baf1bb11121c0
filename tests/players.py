"""Tiny networks, and every method of the library on them, for the tests of the engine and of the methods.

    method = players.make("dfad")                      # ready for method.step()
    method = players.make("zskt", where="meta")        # the same, all tensors on the meta device
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import engine, models
from reuselib.data import ImageSet
from reuselib.datafree import DAFL, DFAD, ZSKT, Distillation, losses, sources
from reuselib.supervised import Supervised

IMAGE = (1, 8, 8)
CLASSES = 4
BATCH = 6


@dataclass
class Cast:
    """Who takes part: the teacher is always the same, student and generator come from a seed."""

    teacher: nn.Module
    student: nn.Module
    generator: models.Generator
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
    student.pool.append(nn.Dropout(dropout))
    images = ImageSet("tiny", pixels, labels, tuple("abcd"), (0.5,), (0.25,)).to(device)
    return Cast(*(engine.on_device(network, device) for network in (teacher, student, generator)), images)


def _adversarial(method: type, **options: Any) -> Callable[..., engine.Method]:
    return lambda cast, **more: method(cast.teacher, cast.student, cast.generator, **options, **more)


def _distilled(source: Callable[[Cast], sources.Source]) -> Callable[..., engine.Method]:
    return lambda cast, **more: Distillation(cast.teacher, cast.student, source(cast), **more)


def _supervised(cast: Cast, **options: Any) -> Supervised:
    augmentation = {"crop": 1, "flip": True, "mixup": True, "noise": 0.1, "label_smoothing": 0.1}
    return Supervised(cast.student, cast.images, **augmentation, **options)


DISTILLING: dict[str, Callable[..., engine.Method]] = {
    "kd-images": _distilled(lambda cast: sources.from_images(cast.images)),
    "kd-noise": _distilled(lambda cast: sources.gaussian_noise(IMAGE, cast.images.device)),
    "kd-generator": _distilled(lambda cast: sources.from_generator(cast.generator)),
    "dfad": _adversarial(DFAD),
    "dfad-kl": _adversarial(DFAD, discrepancy=losses.kl_divergence),
    "dfad-log": _adversarial(DFAD, generation=losses.negative_log),
    "dafl": _adversarial(DAFL),
    "zskt": lambda cast, **more: _adversarial(ZSKT)(cast, **{"student_steps": 3} | more),
}
MAKERS = DISTILLING | {"supervised": _supervised}
METHODS = list(MAKERS)
"""Every method of the library."""


def make(name: str, where: str = "cpu", seed: int = 0, dropout: float = 0.0, **options: Any) -> engine.Method:
    """Make a method on a tiny cast; fp32 unless told otherwise, two steps a round."""
    options = {"batch": BATCH, "seed": seed, "precision": "fp32"} | options
    method = MAKERS[name](cast(where, seed, dropout=dropout), **options)
    method.steps_per_round = 2
    return method


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
