"""What methods share: freezing, memory format, optimizers, schedules, rounds."""

from __future__ import annotations

import math

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import run

CPU = torch.device("cpu")


def mixed() -> nn.Sequential:
    """A network whose modules and parameters are not all in one state."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    network[1].eval()
    network[0].bias.requires_grad_(False)
    return network


def modes(network: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]


def test_frozen_freezes_each_part_restores_it_also_after_an_exception_and_lets_gradients_through() -> None:
    network, other, x = mixed(), nn.Linear(2, 2), torch.randn(5, 3, requires_grad=True)
    before = modes(network)
    for evaluate in (True, False):
        with pytest.raises(players.Explosion), run.frozen(network, other, evaluate=evaluate):
            training, learning = modes(network)
            assert not any(learning) and not other.weight.requires_grad
            assert training == ([False] * len(training) if evaluate else before[0])
            network(x).sum().backward()
            raise players.Explosion
        assert modes(network) == before and other.weight.requires_grad and other.training
    assert x.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in network.parameters())


def test_on_device_puts_convolutions_in_channels_last() -> None:
    network = run.on_device(nn.Conv2d(3, 4, 3), CPU)
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_sgd_is_torchs_bit_for_bit(kind: torch.dtype) -> None:
    decayed = {"nesterov": True, "weight_decay": 0.1, "maximize": True}
    for options in ({}, {"nesterov": True}, decayed, {"momentum": 0.0}, {"dampening": 0.3}, {"fused": False}):
        networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)) for _ in range(2)]
        networks[1].load_state_dict(networks[0].state_dict())
        ours, plain = (run.on_device(network.to(kind), CPU) for network in networks)
        optimizers = (
            run.sgd(ours.parameters(), CPU, lr=0.1, **options),
            torch.optim.SGD(plain.parameters(), lr=0.1, **{"momentum": 0.9, "fused": True} | options),
        )
        for _ in range(5):
            x = torch.randn(6, 3, 5, 5, dtype=kind)
            for network, optimizer in zip((ours, plain), optimizers, strict=True):
                optimizer.zero_grad()
                network(x).square().mean().backward()
                optimizer.step()
            assert not list(players.differences(players.state(ours), players.state(plain)))
            assert not list(players.differences(*(players.state(optimizer)["state"] for optimizer in optimizers)))


def test_sgd_remembers_from_the_start_where_it_is_fused() -> None:
    weights = [nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)), nn.Parameter(torch.ones(2))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "momentum": 0.0}]
    memory = run.sgd(groups, CPU, lr=0.1).state
    assert list(memory) == weights[:1]
    buffer = memory[weights[0]]["momentum_buffer"]
    assert not buffer.any() and not buffer.requires_grad and buffer.stride() == weights[0].stride()
    for options in ({"dampening": 0.3}, {"fused": False}, {"momentum": 0.0}):
        assert not run.sgd(weights, CPU, lr=0.1, **options).state
    meta = torch.device("meta")
    for make in (run.sgd, run.adam):
        optimizer = make([nn.Parameter(torch.ones(2, device=meta))], meta, lr=0.1)
        assert not optimizer.state and not optimizer.defaults["fused"] and make(weights, CPU).defaults["fused"]


def test_schedules() -> None:
    assert [run.constant(i) for i in (0, 10**6)] == [1, 1] and run.step_decay([])(100) == 1
    assert [run.step_decay([3, 5], 0.3)(i) for i in range(7)] == pytest.approx([1, 1, 1, 0.3, 0.3, 0.09, 0.09])
    cosine = run.cosine(12, warmup=2)
    assert [cosine(i) for i in (0, 1, 2, 7, 12, 20)] == pytest.approx([0.5, 1, 1, 0.5, 0, 0])
    assert run.cosine(8)(2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


class Counting(run.Method):
    """Reports the number of the step, and its square on even steps."""

    steps_per_round = 4
    count = 0

    def step(self) -> dict[str, Tensor]:
        self.count += 1
        return {"number": torch.tensor(float(self.count)), "square": torch.tensor(self.count**2)}


def test_a_round_is_the_mean_of_its_steps() -> None:
    method = Counting()
    rounds = method.rounds()
    assert next(rounds) == {"number": 2.5, "square": 7.5} and method.iteration == 4
    assert next(rounds) == {"number": 6.5, "square": 43.5} and method.iteration == 8
    with pytest.raises(TypeError, match="Method has no step"):
        run.Method().step()


def test_the_rate_goes_as_pytorchs_one_cycle() -> None:
    for updates in (12, 150):
        optimizer, own = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), run.one_cycle(updates)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=updates, cycle_momentum=False)
        for iteration in range(updates):
            assert own(iteration) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6, abs=1e-9)
            optimizer.step()
            theirs.step() if iteration < updates - 1 else None
        assert own(updates + 5) == own(updates - 1)
