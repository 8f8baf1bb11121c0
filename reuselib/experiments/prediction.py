"""What a preset would cost on a GPU: operations counted on the ``meta`` device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reuselib import engine, models, zoo
from reuselib.experiments import dfad

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


def predict(config: dfad.Config) -> Prediction:
    """Predict the cost of DFAD with a configuration, its teacher given.

    Returns:
        Operations and memory; trust them to a factor of two.
    """
    recipe, meta = zoo.RECIPES[config.teacher], torch.device("meta")
    with meta:
        teacher = models.build(
            recipe.architecture, **recipe.arguments, classes=config.classes, channels=config.image[0]
        )
        student, generator = dfad.build_players(config)
    method = dfad.DFAD(teacher, student, generator, batch=config.batch, student_steps=config.student_steps)
    counter = FlopCounterMode(display=False)
    with counter:
        method.step()
    with engine.frozen(teacher):
        saved = saved_bytes(method.generation_stage)
    # Adam keeps two numbers a weight, momentum one; weights and gradients are one each.
    weights = 4 * sum(
        copies * models.parameter_count(network) for copies, network in ((1, teacher), (3, student), (4, generator))
    )
    return Prediction(float(counter.get_total_flops()) * config.iterations, weights + saved)


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
