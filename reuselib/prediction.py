"""What a preset would cost on a GPU: operations counted on the ``meta`` device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reuselib import nets, run
from reuselib.adaptive import pools
from reuselib.adaptive import study as amalgamation_adaptive
from reuselib.adaptive.method import ComponentLearning, Lesson, TargetLearning
from reuselib.data import ImageSet, MultiLabelSet
from reuselib.layerwise import study as amalgamation_layerwise
from reuselib.layerwise.learning import Stage, Teachers
from reuselib.layerwise.method import LayerwiseAmalgamation
from reuselib.layerwise.scores import ClassSets
from reuselib.nets.supervised import MultiTaskSupervised, Supervised

SUSTAINED = {"T4, fp16": 12e12, "A100, bf16": 80e12}
"""Operations per second that small convolutions are assumed to sustain: about a fifth of each card's peak."""


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of one run.

    Attributes:
        operations: floating-point operations of the whole run, a multiply-add counted as two.
        memory: bytes of weights, optimizer states and one step's saved activations.
    """

    operations: float
    memory: float

    def hours(self, device: str) -> float:
        """Hours on a device of ``SUSTAINED``."""
        return self.operations / SUSTAINED[device] / 3600


SPACES = {
    "fashion_mnist": (10, 1, 28),
    "shapes": (4, 1, 16),
    "shape_cells": (32, 1, 16),
    "symbols": (10, 1, 16),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "tiny_imagenet": (200, 3, 64),
    "imagenet": (1000, 3, 224),
}
"""Image set → classes, channels, pixels a side."""


def predict_layerwise(config: amalgamation_layerwise.Config) -> dict[str, Prediction]:
    """Predict the cost of a student by layer-wise amalgamation at a configuration that trains its auto-encoders.

    Returns:
        Operations and memory of all "teachers" and of the stages "encoding", "layers" and "joint", the evaluation left
        out, the image set not counted; trust them to a factor of two.
    """
    stages = {"encoding": config.encoder_share, "layers": config.layer_share, "joint": 1 - config.layer_share}
    updates = {name: share * config.updates for name, share in stages.items()}
    updates["teachers"] = config.teacher.updates * len(config.classes)
    found = {}
    for name, method in _layerwise_methods(config).items():
        learned = 3 if config.released or name == "teachers" else 4
        kept = {network: 1 if key in method.fixed else learned for key, network in method.networks().items()}
        weights = 4 * sum(numbers * nets.parameter_count(network) for network, numbers in kept.items())
        found[name] = Prediction(float(_operations(method.step)) * updates[name], weights + saved_bytes(method.step))
    return found


def _layerwise_methods(config: amalgamation_layerwise.Config) -> dict[str, run.Method]:
    """The training of one teacher, and the three stages, on ``meta``."""
    classes, plan = ClassSets(config.classes), config.teacher
    with torch.device("meta"):
        networks = [amalgamation_layerwise.build(plan.network, len(known), plan.image) for known in config.classes]
        student = amalgamation_layerwise.build(config.student, len(classes.union), plan.image)
        pixels, labels = torch.zeros(2, *plan.image, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    half = (0.5,) * plan.image[0]
    images = ImageSet("none", pixels, labels, ("none",), half, half)
    whole = LayerwiseAmalgamation(
        Teachers(networks, classes),
        student,
        images,
        encoding=Stage(1),
        fam=config.fam,
        batch=config.batch,
        incremental=config.incremental,
    )
    assert whole.encoding is not None
    return {
        "teachers": Supervised(networks[0], images, batch=plan.batch),
        "encoding": whole.encoding,
        "layers": whole.layerwise,
        "joint": whole.joint,
    }


def predict_adaptive(config: amalgamation_adaptive.Config) -> dict[str, Prediction]:
    """Predict the cost of a target network at a configuration whose pictures have three channels.

    Returns:
        Operations and memory of all "sources", of all "components" and of the "target", the choice of sources and the
        evaluation left out, the image set not counted; trust them to a factor of two.
    """
    plan, found = config.pool, {}
    updates = {
        "sources": plan.updates * len(plan.sources),
        "components": config.updates * len(config.chosen),
        "target": config.target_updates,
    }
    for name, method in _adaptive_methods(config).items():
        kept = {network: 1 if key in method.fixed else 4 for key, network in method.networks().items()}
        weights = 4 * sum(numbers * nets.parameter_count(network) for network, numbers in kept.items())
        operations = float(_operations(method.step)) * updates[name]
        found[name] = Prediction(operations, weights + saved_bytes(method.step))
    return found


def _adaptive_methods(config: amalgamation_adaptive.Config) -> dict[str, run.Method]:
    """The training of one source, of one component network and of the target network, on ``meta``."""
    plan, task = config.pool, config.chosen[0]
    classes = dict.fromkeys(config.chosen, 2 if plan.auxiliary is None else 100)
    one, side = {task: classes[task]}, plan.size or 224
    teachers = sum(task in source.tasks for source in plan.sources)
    with torch.device("meta"):
        sources = [pools.build_network(plan.network, plan.arguments, one, 3) for _ in range(teachers)]
        components = {
            name: pools.build_network(config.component, config.component_arguments, {name: count}, 3)
            for name, count in classes.items()
        }
        target = pools.build_network(config.target, config.target_arguments, classes, 3)
        pixels, labels = torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
        parts = torch.zeros(teachers, 10_000, dtype=torch.int64)
    images = ImageSet("none", pixels, labels, ("none",), (0.5,) * 3, (0.5,) * 3)
    named = MultiLabelSet(images, labels.unsqueeze(1), {task: ("none",) * classes[task]})
    lessons = [Lesson(source, task, part) for source, part in zip(sources, parts, strict=True)]
    return {
        "sources": MultiTaskSupervised(sources[0], named, batch=plan.batch),
        "components": ComponentLearning(components[task], lessons, images, widths=config.widths, batch=config.batch),
        "target": TargetLearning(target, components, images, batch=config.target_batch),
    }


def _operations(work: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()


def saved_bytes(work: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd keeps for the backward passes of some work."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(kept.values())
