"""The one-stage port: one update by hand, how layers are paired, and what does not fit."""

from __future__ import annotations

import copy
from typing import Any

import players
import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.layerwise import AmalgamationKD, ClassSets, OneStageAmalgamation, Stage, Teachers, losses
from reuselib.layerwise.rivals import convolutions

STAGE = Stage(5, 0.1, momentum=0.0, cosine=False)


def make(cast: players.Cast, **options: Any) -> OneStageAmalgamation:
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    return OneStageAmalgamation(teachers, cast.plain, cast.images, STAGE, batch=4, precision="fp32", **options)


@pytest.mark.parametrize("fam", [True, False])
def test_one_update_by_hand(fam: bool) -> None:
    cast = players.cast()
    method = make(cast, fam=fam)
    student, encoders, adapters = (
        copy.deepcopy(part) for part in (cast.plain, method.blocks.encoders, method.blocks.adapters)
    )
    images = method.draw()
    method.random.manual_seed(0)
    taught, scores = method.teachers(images, encoders.layers)
    maps, value = [], images
    for block in student.blocks:
        maps.append(block[0](value))
        value = block[1:](maps[-1])
    groups = []
    for features, amalgam, adapter, own in zip(taught, encoders.amalgams, adapters, maps, strict=True):
        code, returned = amalgam.autoencoders[0](torch.cat(features, 1))
        groups.append((features, code, returned, adapter(own)))
    wanted = losses.port_loss(scores, student.head(student.pool(value)), groups)
    wanted["loss"].backward()
    report = method.step()
    for name, each in wanted.items():
        assert report[name].item() == pytest.approx(each.item(), rel=1e-5)
    for own, other in ((cast.plain, student), (method.blocks.encoders, encoders), (method.blocks.adapters, adapters)):
        for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, atol=1e-5, rtol=1e-5)
    assert bool(list(method.blocks.adapters.parameters())) == fam


def test_without_its_features_it_is_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    whole = losses.port_loss
    monkeypatch.setattr(losses, "port_loss", lambda *a: (found := whole(*a)) | {"loss": found["kd"]})
    for kind in (OneStageAmalgamation, AmalgamationKD):
        cast = players.cast()
        teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
        method = kind(teachers, cast.plain, cast.images, STAGE, batch=4, precision="fp32")
        for _ in range(3):
            method.step()
        states.append(players.state(cast.plain))
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b)


def test_all_convolutions_are_paired_in_order_residual_ones_too() -> None:
    cast = players.cast()
    networks = [nets.small_resnet((1, 1), width=width, classes=2) for width in (8, 12)]
    student, before = nets.small_resnet((1, 1), width=10, classes=4), players.state(nn.ModuleList(networks))
    groups = convolutions(student, networks)
    assert len(groups) == sum(isinstance(module, nn.Conv2d) for module in student.modules())
    assert all(own == first == second for own, (first, second) in groups)
    teachers, stage = Teachers(networks, ClassSets.divide(range(4), 2)), Stage(3, weight_decay=1e-4)
    method = OneStageAmalgamation(teachers, student, cast.images, stage, batch=4)
    assert method.own == [own for own, _ in groups] and all(value.isfinite() for value in method.step().values())
    assert not list(players.differences(before, players.state(nn.ModuleList(networks))))
    assert {group["weight_decay"] for group in method.optimizer.param_groups} == {1e-4}


def test_groups_may_be_chosen_also_linear_ones() -> None:
    method = make(players.cast(), groups=[("blocks.1.0", ("blocks.1.0", "blocks.1.0")), ("pool", ("pool", "pool"))])
    kinds = [type(amalgam.autoencoders[0].encoder).__name__ for amalgam in method.blocks.encoders.amalgams]
    assert kinds == ["Conv2d", "Linear"] and method.step()["loss"].isfinite()


def test_groups_that_do_not_fit_are_refused() -> None:
    cast = players.cast()
    with pytest.raises(ReuseError, match=r"student has 3 convolutions, its teachers \[2, 3\].*Give groups"):
        short = nets.plain_vgg(((3,), (4,)), hidden=4, classes=3, size=8)
        teachers = Teachers([short, cast.teachers[1]], ClassSets(players.KNOWN))
        OneStageAmalgamation(teachers, cast.plain, cast.images, Stage(1))
    with pytest.raises(ShapeMismatch, match=r"'blocks.0.0' the student has maps of 8x8 .*'4x4'.*groups of layers"):
        make(cast, groups=[("blocks.0.0", ("blocks.0.0", "blocks.1.0"))])
    with pytest.raises(UnknownName, match="blocks.9"):
        make(cast, groups=[("blocks.9", ("blocks.0.0", "blocks.1.0"))])
    cast.plain.to("meta")
    with pytest.raises(DeviceError, match="meta"):
        make(cast)
