"""Data-free distillation in one stage: its gradients are those of the two-stage game on the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import run
from reuselib.dfad import DFAD, losses
from reuselib.one_stage_gan import OneStageDFAD

DISCREPANCIES = {  # the library's own are computed in float32
    "l1": lambda t, s: (t - s).abs().mean(),
    "l2": lambda t, s: (t - s).square().mean(),
    "kl": lambda t, s: F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean"),
}


def make(scheme: type[DFAD], **options: Any) -> Any:
    """A method on players in float64, with batch norm in the student; noise is drawn in float32 and widened."""
    cast = players.cast(seed=2)
    parts = [network.double() for network in (cast.teacher, cast.student, cast.generator)]
    cast.generator.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return scheme(*parts, **{"batch": 8, "student_steps": 1, "seed": 4, "precision": "fp32"} | options)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("generation", [losses.negative, losses.negative_log])
@pytest.mark.parametrize("discrepancy", DISCREPANCIES.values(), ids=list(DISCREPANCIES))
def test_one_stage_gives_the_gradients_of_two_on_the_same_noise(
    generation: Callable[[Tensor], Tensor], discrepancy: Callable[[Tensor, Tensor], Tensor]
) -> None:
    options = {"generation": generation, "discrepancy": discrepancy}
    fused, imitating, generating = (make(scheme, **options) for scheme in (OneStageDFAD, DFAD, DFAD))
    fused.fused_stage(), imitating.imitation_stage(), generating.generation_stage()
    for player, alone in (("student", imitating), ("generator", generating)):
        found, expected = (gradients(getattr(method, player)) for method in (fused, alone))
        assert expected.norm() > 1e-6 and (found - expected).norm() < 1e-10 * expected.norm()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_iteration_has_one_generator_update_within_as_many_student_updates(steps: int) -> None:
    method: Any = players.make("dfad-one-stage", student_steps=steps)
    updates: list[torch.optim.Optimizer] = []
    for optimizer in (method.student_optimizer, method.generator_optimizer):
        optimizer.register_step_post_hook(lambda which, *_: updates.append(which))
    with run.count_passes(method.networks()) as passes:
        method.step()
    assert updates.count(method.student_optimizer) == steps and updates.count(method.generator_optimizer) == 1
    forward = {f"{player}_forward": steps for player in ("teacher", "student", "generator")}
    assert passes == forward | {"teacher_backward": 1, "student_backward": steps, "generator_backward": 1}


@pytest.mark.parametrize("steps", [1, 3])
def test_the_report_is_the_mean_over_the_student_updates(steps: int) -> None:
    whole, parts = (make(OneStageDFAD, student_steps=steps) for _ in range(2))
    report = whole.step()
    seen = [parts.imitation_stage(1) for _ in range(steps - 1)]
    last, generation = parts.fused_stage()
    for name in ("imitation", "teacher_logits"):
        mean = sum(each[name].item() for each in [*seen, last]) / steps
        assert report[name].item() == pytest.approx(mean, rel=1e-6)
    assert torch.equal(report["generation"], generation)
    assert report.keys() == make(DFAD).step().keys() and not any(value.requires_grad for value in report.values())
