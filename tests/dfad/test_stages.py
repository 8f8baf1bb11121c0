"""What one iteration of each method does, beside plain versions; what is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import plain
import players
import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.dfad import DAFL, DFAD, ZSKT, Distillation, losses, sources
from reuselib.errors import BadValue, DeviceError, ShapeMismatch

PARTS = ("teacher", "student", "generator")


@pytest.mark.parametrize(
    ("method", "by_hand", "lr", "steps"),
    [(DFAD, plain.dfad, 0.05, 5), (DAFL, plain.dafl, 0.05, 3), (ZSKT, plain.zskt, 2e-3, 10)],
)
def test_a_plain_version_gives_the_same_networks(
    method: type[DFAD], by_hand: Callable[..., None], lr: float, steps: int
) -> None:
    ours, theirs = ([getattr(players.cast(seed=3), part) for part in PARTS] for _ in range(2))
    start = players.state(ours[1])
    made = method(*ours, batch=16, lr=lr, seed=7, student_steps=steps, precision="fp32")
    for _ in range(3):
        made.step()
    # DAFL's generator learns with every update of the student.
    options = {"iterations": 9} if method is DAFL else {"iterations": 3, "student_steps": steps}
    by_hand(*theirs, batch=16, lr=lr, seed=7, **options)
    assert len(list(players.differences(start, players.state(ours[1])))) > 10
    torch.testing.assert_close(ours[1].state_dict(), theirs[1].state_dict(), rtol=0, atol=2e-5)
    # Adam blows up the rounding errors of biases before a batch norm: compare the images.
    noise = torch.randn(16, ours[2].latent)
    torch.testing.assert_close(ours[2](noise), theirs[2](noise), rtol=0, atol=1e-3)


def test_dafl_for_segmentation_takes_every_pixel_as_a_case_and_the_layer_that_is_named() -> None:
    method: Any = players.make("segmentation-dafl")
    t, features = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)
    rows = t.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = losses.one_hot_loss(rows) + 5 * losses.information_entropy_loss(rows) - 0.1 * features.abs().mean()
    torch.testing.assert_close(method.generation_loss(t, features), expected)
    seen = []
    method.generation_loss = lambda t, features: seen.append(features) or features.mean()
    method.step()
    assert seen[0].shape == (players.BATCH, 2, 8, 8)


@pytest.mark.parametrize("name", [name for name in players.METHODS if name != "fskd"])  # which draws nothing
def test_a_seed_decides_everything(name: str) -> None:
    results = []
    for chosen in (1, 1, 2):
        method = players.make(name, seed=5)
        method.random.manual_seed(chosen)
        method.step()
        results.append((players.state(method), players.state(players.learner(method))))
    assert not list(players.differences(list(results[0]), list(results[1])))
    assert list(players.differences(results[0][1], results[2][1]))


def test_networks_that_do_not_fit_are_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, players.CLASSES))
    large = nets.upsampling_generator(image=(1, 16, 16), latent=5, width=4)
    cast = {part: getattr(players.cast(), part) for part in PARTS}
    for error, message, changes in (
        (ShapeMismatch, "same number of classes", {"student": nets.conv3(2, classes=players.CLASSES + 1)}),
        (ShapeMismatch, "do not fit the teacher", {"teacher": flat, "generator": large}),
        (BadValue, "Sequential does not say how long its noise is", {"generator": cast["generator"].layers}),
        *((DeviceError, f"{part} on meta", {part: copy.deepcopy(cast[part]).to("meta")}) for part in PARTS),
    ):
        for method in (DFAD, DAFL):
            with pytest.raises(error, match=message):
                method(**cast | changes)


def test_a_teacher_that_gives_probabilities_is_warned_of() -> None:
    cast = players.cast()
    with pytest.warns(UserWarning, match="probabilities, not logits.*last softmax"):
        Distillation(nn.Sequential(cast.teacher, nn.Softmax(1)), cast.student, sources.from_images(cast.images))
    with warnings.catch_warnings(action="error"):
        Distillation(cast.teacher, cast.student, sources.from_images(cast.images))
