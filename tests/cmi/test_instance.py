"""Telling images apart: how often an image is found again from another view."""

from __future__ import annotations

import plain_inversion
import players
import pytest
import torch
from torch import Tensor

from reuselib.cmi import InstanceHead, instance
from reuselib.cmi.instance import instance_accuracy, watched_features


def views(count: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    """Features (5, count, width) of two kinds of views of images, each around its image's own place."""
    random = torch.Generator().manual_seed(0)
    places = torch.randn(count, width, generator=random)
    first, second = (places + noise * torch.randn(5, count, width, generator=random) for _ in range(2))
    return first, second


def test_instance_accuracy_goes_from_chance_to_one_with_how_distinct_the_images_are() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():  # measuring code often switches gradients off
        values = [instance_accuracy(*views(200, 16, noise), steps=100) for noise in (0.05, 0.05, 0.6, 3.0)]
    assert torch.equal(torch.get_rng_state(), state)
    assert values[0] == values[1] > 0.9 and values[1] > values[2] + 0.1 > values[3] + 0.2
    same = torch.randn(1, 1, 16).expand(5, 300, 16)
    assert instance_accuracy(same, same, steps=5) == pytest.approx(1 / 300)


def test_instance_accuracy_is_measured_on_views_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Listening(InstanceHead):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(features)
            return super().forward(features)

    monkeypatch.setattr(instance, "InstanceHead", Listening)
    first, second = views(20, 8, 0.1)
    instance_accuracy(first, second, steps=6, batch=10)
    learned, tested = seen[:-2], seen[-2:]
    assert torch.equal(tested[0], first[-1]) and torch.equal(tested[1], second[-1])
    for step, (a, b) in enumerate(zip(learned[::2], learned[1::2], strict=True)):
        places = [int((first[step % 4] == row).all(1).nonzero()) for row in a]
        assert len(set(places)) == 10 and torch.equal(b, second[step % 4, places])


def test_watched_features_are_the_contrasts_own() -> None:
    teacher, images = players.cast().teacher.train(), torch.randn(1100, *players.IMAGE)
    before = players.state(teacher)
    found = watched_features(teacher, images)
    assert teacher.training and not list(players.differences(before, players.state(teacher)))
    torch.testing.assert_close(found, plain_inversion.inspect(teacher.eval(), images)[2].detach())
    assert watched_features(teacher, images[:5], ("blocks.2",)).shape == (5, 8)
