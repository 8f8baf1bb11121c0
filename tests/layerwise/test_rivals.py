"""The one-stage port: its losses, what they reach, and how layers are paired."""

from __future__ import annotations

import copy
from typing import Any

import players
import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.layerwise import AmalgamationKD, ClassSets, OneStageAmalgamation, Stage, Teachers
from reuselib.layerwise.rivals import GroupBlocks, amalgamation_loss, convolutions, separate_reconstruction_loss
from reuselib.nets.imitation import kl_divergence


def make(cast: players.Cast, **options: Any) -> OneStageAmalgamation:
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    settings = {"stage": Stage(5, 0.1, momentum=0.0, cosine=False), "batch": 4, "precision": "fp32"}
    return OneStageAmalgamation(teachers, cast.plain, cast.images, **settings | options)


def test_the_losses_by_hand() -> None:
    adapted, code = torch.randn(3, 4, 2, 2, requires_grad=True), torch.randn(3, 4, 2, 2, requires_grad=True)
    loss = amalgamation_loss(adapted, code)
    torch.testing.assert_close(loss, (adapted - code).square().mean())
    loss.backward()
    assert code.grad is None and adapted.grad is not None
    features, returned = [torch.randn(3, c, 2, 2) for c in (4, 6)], [torch.randn(3, c, 2, 2) for c in (4, 6)]
    expected = sum(((f - r) ** 2).mean() for f, r in zip(features, returned, strict=True))
    torch.testing.assert_close(separate_reconstruction_loss(features, returned), expected)


def test_the_blocks_by_hand() -> None:
    blocks = GroupBlocks([(2, 3), (4, 1)], (6, 3), (True, False))
    taught = [[torch.randn(2, 2, 3, 3), torch.randn(2, 3, 3, 3)], [torch.randn(2, 4), torch.randn(2, 1)]]
    learned = [torch.randn(2, 6, 3, 3), torch.randn(2, 3)]
    for number, (adapted, code, returned) in enumerate(blocks(taught, learned)):
        autoencoder, adapter = blocks.autoencoders[number], blocks.adapters[number]
        assert torch.equal(code, autoencoder.encoder(torch.cat(taught[number], 1)))
        assert torch.equal(torch.cat(returned, 1), autoencoder.decoder(code))
        assert [each.shape for each in returned] == [each.shape for each in taught[number]]
        assert torch.equal(adapted, adapter(learned[number])) and adapted.shape == code.shape
    plain = GroupBlocks([(2, 3)], (6,), (True,), fam=False)
    assert torch.equal(plain(taught[:1], learned[:1])[0][0], learned[0])


def test_all_convolutions_are_paired_in_order() -> None:
    cast = players.cast()
    method = make(cast)
    names = ["blocks.0.0", "blocks.1.0", "blocks.2.0"]
    assert method.own == names and method.layers == [(name, name) for name in names]
    first, second = nets.small_resnet((1, 1, 1), width=4), nets.small_resnet((1, 1, 1), width=6)
    groups = convolutions(first, [second])
    assert len(groups) == sum(isinstance(module, nn.Conv2d) for module in first.modules())
    assert all(own == theirs[0] for own, theirs in groups)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, 3.0)])
def test_one_update_by_hand(weights: tuple[float, float, float]) -> None:
    cast = players.cast()
    method = make(cast, weights=weights)
    student, blocks = copy.deepcopy(cast.plain), copy.deepcopy(method.blocks)
    images = method.draw()
    method.random.manual_seed(0)
    taught, scores = method.teachers(images, method.layers)
    maps, value = [], images
    for block in student.blocks:
        maps.append(block[0](value))
        value = block[1:](maps[-1])
    logits = student.head(student.pool(value))
    results = blocks(taught, maps)
    terms = {
        "kd": kl_divergence(scores, logits),
        "amalgamation": sum((adapted - code.detach()).square().mean() for adapted, code, _ in results),
        "reconstruction": sum(
            (returned - feature).square().mean()
            for features, (_, _, both) in zip(taught, results, strict=True)
            for feature, returned in zip(features, both, strict=True)
        ),
    }
    loss = sum(weight * term for weight, term in zip(weights, terms.values(), strict=True))
    loss.backward()
    report = method.step()
    for name, wanted in ({"loss": loss} | terms).items():
        assert report[name].item() == pytest.approx(wanted.item(), rel=1e-5)
    for own, other in ((cast.plain, student), (method.blocks, blocks)):
        for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, atol=1e-5, rtol=1e-5)


def reached(method: OneStageAmalgamation, weights: tuple[float, float, float]) -> set[str]:
    """The parts that move under some of the terms."""
    parts = {
        "student": method.student,
        "autoencoders": method.blocks.autoencoders,
        "adapters": method.blocks.adapters,
        "teachers": method.teachers,
    }
    before = {name: players.state(part) for name, part in parts.items()}
    method.weights = weights
    method.step()
    return {name for name, part in parts.items() if list(players.differences(before[name], players.state(part)))}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1.0, 0.0, 0.0), {"student"}), ((0.0, 1.0, 0.0), {"student", "adapters"}), ((0.0, 0.0, 1.0), {"autoencoders"})],
)
def test_what_each_term_reaches(weights: tuple[float, float, float], expected: set[str]) -> None:
    assert reached(make(players.cast()), weights) == expected


def test_with_the_weights_of_distillation_it_is_distillation() -> None:
    states = []
    for number in range(2):
        cast = players.cast()
        if number:
            method = make(cast, weights=(1.0, 0.0, 0.0))
        else:
            teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
            stage = Stage(5, 0.1, momentum=0.0, cosine=False)
            method = AmalgamationKD(teachers, cast.plain, cast.images, stage=stage, batch=4, precision="fp32")
        for _ in range(3):
            method.step()
        states.append(players.state(cast.plain))
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b)


def test_networks_with_residual_blocks_and_batch_norm_are_amalgamated() -> None:
    cast = players.cast()
    teachers = [nets.small_resnet((1, 1), width=width, classes=2) for width in (4, 6)]
    student = nets.small_resnet((1, 1), width=5, classes=4)
    before = players.state(nn.ModuleList(teachers))
    method = OneStageAmalgamation(teachers, student, cast.images, stage=Stage(3, weight_decay=1e-4), batch=4)
    assert len(method.own) == sum(isinstance(module, nn.Conv2d) for module in student.modules())
    assert all(value.isfinite() for value in method.step().values())
    assert not list(players.differences(before, players.state(nn.ModuleList(teachers))))
    assert {group["weight_decay"] for each in method.optimizers for group in each.param_groups} == {1e-4}


def test_groups_may_be_chosen_also_linear_ones() -> None:
    cast = players.cast()
    method = make(cast, groups=[("blocks.1.0", ("blocks.1.0", "blocks.1.0")), ("pool", ("pool", "pool"))])
    assert [type(a.encoder).__name__ for a in method.blocks.autoencoders] == ["Conv2d", "Linear"]
    assert method.step()["loss"].isfinite()


def test_groups_that_do_not_fit_are_refused() -> None:
    cast = players.cast()
    with pytest.raises(ReuseError, match=r"student has 3 convolutions, its teachers \[2, 3\].*Give groups"):
        short = nets.plain_vgg(((3,), (4,)), hidden=4, classes=3, size=8)
        OneStageAmalgamation([short, cast.teachers[1]], cast.plain, cast.images, stage=Stage(1))
    with pytest.raises(ShapeMismatch, match=r"'blocks.0.0' have the sizes .*\(8, 8\), \(4, 4\).*groups of layers"):
        make(cast, groups=[("blocks.0.0", ("blocks.0.0", "blocks.1.0"))])
    with pytest.raises(UnknownName, match="blocks.9"):
        make(cast, groups=[("blocks.9", ("blocks.0.0", "blocks.1.0"))])
    with pytest.raises(ShapeMismatch, match="its teachers know 5 classes"):
        OneStageAmalgamation(cast.teachers, cast.plain, cast.images, stage=Stage(1))
    cast.plain.to("meta")
    with pytest.raises(DeviceError, match="meta"):
        make(cast)
