"""What methods share: freezing, memory format, optimizers, schedules."""

from __future__ import annotations

import math

import players
import pytest
import torch
from torch import nn

from reuselib import run

CPU = torch.device("cpu")


def test_frozen_freezes_each_part_restores_it_also_after_an_exception_and_lets_gradients_through() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    network[1].eval()
    network[0].bias.requires_grad_(False)

    def modes() -> tuple[list[bool], list[bool]]:
        return [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]

    other, x, before = nn.Linear(2, 2), torch.randn(5, 3, requires_grad=True), modes()
    for evaluate in (True, False):
        with pytest.raises(players.Explosion), run.frozen(network, other, evaluate=evaluate):
            training, learning = modes()
            assert not any(learning) and not other.weight.requires_grad
            assert training == ([False] * len(training) if evaluate else before[0])
            network(x).sum().backward()
            raise players.Explosion
        assert modes() == before and other.weight.requires_grad and other.training
    assert x.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in network.parameters())


def test_sgd_is_torchs_bit_for_bit_and_remembers_from_the_start_where_it_is_fused() -> None:
    decayed = {"nesterov": True, "weight_decay": 0.1, "maximize": True}
    for options in ({}, decayed, {"momentum": 0.0}, {"dampening": 0.3}, {"fused": False}):
        networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)) for _ in range(2)]
        networks[1].load_state_dict(networks[0].state_dict())
        ours, plain = (run.on_device(network, CPU) for network in networks)
        optimizers = (
            run.sgd(ours.parameters(), CPU, lr=0.1, **options),
            torch.optim.SGD(plain.parameters(), lr=0.1, **{"momentum": 0.9, "fused": True} | options),
        )
        memory = [state["momentum_buffer"] for state in optimizers[0].state.values()]
        assert len(memory) == (4 if options in ({}, decayed) else 0)
        assert not any(buffer.any() or buffer.requires_grad for buffer in memory)
        for _ in range(5):
            x = torch.randn(6, 3, 5, 5)
            for network, optimizer in zip((ours, plain), optimizers, strict=True):
                optimizer.zero_grad()
                network(x).square().mean().backward()
                optimizer.step()
            assert not list(players.differences(players.state(ours), players.state(plain)))
            assert not list(players.differences(*(players.state(optimizer)["state"] for optimizer in optimizers)))
    assert ours[0].weight.is_contiguous(memory_format=torch.channels_last)
    meta = torch.device("meta")
    assert not run.adam([nn.Parameter(torch.ones(2, device=meta))], meta, lr=0.1).defaults["fused"]


def test_schedules() -> None:
    assert [run.constant(i) for i in (0, 10**6)] == [1, 1] and run.step_decay([])(100) == 1
    assert [run.step_decay([3, 5], 0.3)(i) for i in range(7)] == pytest.approx([1, 1, 1, 0.3, 0.3, 0.09, 0.09])
    cosine = run.cosine(12, warmup=2)
    assert [cosine(i) for i in (0, 1, 2, 7, 12, 20)] == pytest.approx([0.5, 1, 1, 0.5, 0, 0])
    assert run.cosine(8)(2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    optimizer, own = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), run.one_cycle(40)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=40, cycle_momentum=False)
    for iteration in range(40):
        assert own(iteration) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6, abs=1e-9)
        optimizer.step()
        theirs.step() if iteration < 39 else None
    assert own(45) == own(39)
