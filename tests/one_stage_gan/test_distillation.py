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

FORMS = {"negative": losses.negative, "negative-log": losses.negative_log}
DISCREPANCIES = {  # the library's own are computed in float32
    "l1": lambda t, s: (t - s).abs().mean(),
    "l2": lambda t, s: (t - s).square().mean(),
    "kl": lambda t, s: F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean"),
}
by_form = pytest.mark.parametrize("generation", FORMS.values(), ids=list(FORMS))
by_discrepancy = pytest.mark.parametrize("discrepancy", DISCREPANCIES.values(), ids=list(DISCREPANCIES))


def cast() -> players.Cast:
    """Players in float64, with batch norm in the student; their noise is drawn in float32 and widened."""
    cast = players.cast(seed=2)
    for network in (cast.teacher, cast.student, cast.generator):
        network.double()
    cast.generator.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return cast


def one_stage(cast: players.Cast, **options: Any) -> OneStageDFAD:
    options = {"batch": 8, "student_steps": 1, "seed": 4, "precision": "fp32"} | options
    return OneStageDFAD(cast.teacher, cast.student, cast.generator, **options)


def two_stage(cast: players.Cast, **options: Any) -> DFAD:
    options = {"batch": 8, "student_steps": 1, "seed": 4, "precision": "fp32"} | options
    return DFAD(cast.teacher, cast.student, cast.generator, **options)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-6, "an error relative to nothing"
    return ((found - expected).norm() / expected.norm()).item()


@by_form
@by_discrepancy
def test_one_stage_gives_the_gradients_of_two_on_the_same_noise(
    generation: Callable[[Tensor], Tensor], discrepancy: Callable[[Tensor, Tensor], Tensor]
) -> None:
    options = {"generation": generation, "discrepancy": discrepancy}
    fused, imitating, generating = cast(), cast(), cast()
    one_stage(fused, **options).fused_stage()
    two_stage(imitating, **options).imitation_stage()
    two_stage(generating, **options).generation_stage()
    assert error(gradients(fused.student), gradients(imitating.student)) < 1e-10
    assert error(gradients(fused.generator), gradients(generating.generator)) < 1e-10
    assert all(parameter.grad is None for parameter in fused.teacher.parameters())


@by_form
def test_the_joint_update_is_the_two_updates_of_a_plain_simultaneous_step(
    generation: Callable[[Tensor], Tensor],
) -> None:
    ours, theirs = cast(), cast()
    one_stage(ours, generation=generation, lr=0.05).step()
    student_optimizer = torch.optim.SGD(theirs.student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    generator_optimizer = torch.optim.Adam(theirs.generator.parameters(), 1e-3)
    theirs.teacher.eval(), theirs.student.train(), theirs.generator.train()
    images = theirs.generator(torch.randn(8, theirs.generator.latent, generator=torch.Generator().manual_seed(4)))
    loss = losses.mean_absolute_error(theirs.teacher(images), theirs.student(images))
    of_generator = torch.autograd.grad(generation(loss), list(theirs.generator.parameters()), retain_graph=True)
    loss.backward()
    for parameter, gradient in zip(theirs.generator.parameters(), of_generator, strict=True):
        parameter.grad = gradient
    student_optimizer.step(), generator_optimizer.step()
    torch.testing.assert_close(ours.student.state_dict(), theirs.student.state_dict(), rtol=1e-9, atol=1e-12)
    noise = torch.randn(8, theirs.generator.latent)
    # Adam blows up the rounding errors of biases before a batch norm: compare the images.
    torch.testing.assert_close(ours.generator(noise), theirs.generator(noise), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_iteration_has_one_generator_update_within_as_many_student_updates(steps: int) -> None:
    method = players.make("dfad-one-stage", student_steps=steps)
    counts = {"student": 0, "generator": 0}
    for name, optimizer in (("student", method.student_optimizer), ("generator", method.generator_optimizer)):
        optimizer.register_step_post_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    with run.count_passes(method.networks()) as passes:
        method.step()
    assert counts == {"student": steps, "generator": 1}
    assert passes == {
        "teacher_forward": steps,
        "teacher_backward": 1,
        "student_forward": steps,
        "student_backward": steps,
        "generator_forward": steps,
        "generator_backward": 1,
    }


@pytest.mark.parametrize("steps", [1, 3])
def test_the_report_is_the_mean_over_the_student_updates(steps: int) -> None:
    whole, parts = one_stage(cast(), student_steps=steps), one_stage(cast(), student_steps=steps)
    report = whole.step()
    seen = [parts.imitation_stage(1) for _ in range(steps - 1)]
    last, generation = parts.fused_stage()
    for name in ("imitation", "teacher_logits"):
        mean = sum(each[name].item() for each in [*seen, last]) / steps
        assert report[name].item() == pytest.approx(mean, rel=1e-6)
    assert torch.equal(report["generation"], generation)
    assert report.keys() == two_stage(cast()).step().keys()
    assert not any(value.requires_grad for value in report.values())
