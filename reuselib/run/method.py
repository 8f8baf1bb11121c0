"""What a run asks of a method, and the few tools that methods share."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Method:
    """A procedure: it holds networks, optimizers and memory, and improves them one update at a time.

    Subclasses write :meth:`step`. Whatever they keep as attributes and that has a ``state_dict`` (or is a tensor, a
    ``torch.Generator`` or a list of those) is checkpointed.

    Attributes:
        steps_per_round: updates between two reports.
        fixed: names of attributes that never change (the teacher); of those only a fingerprint is checkpointed.
        iteration: updates done so far.
    """

    steps_per_round: int = 50
    fixed: tuple[str, ...] = ("teacher",)
    iteration: int = 0

    def step(self) -> dict[str, Tensor]:
        """Do one update and return named scalar tensors, still on the device."""
        raise TypeError(f"{type(self).__name__} has no step()")

    def rounds(self) -> Iterator[dict[str, Tensor]]:
        """Yield, once per round, the mean over the round of what :meth:`step` returned."""
        while True:
            sums: dict[str, Tensor] = {}
            for _ in range(self.steps_per_round):
                for name, value in self.step().items():
                    value = value.detach().float()
                    sums[name] = sums[name] + value if name in sums else value
                self.iteration += 1
            yield {name: value / self.steps_per_round for name, value in sums.items()}

    def networks(self) -> dict[str, nn.Module]:
        """The networks this method holds, by attribute name; those of a method that it holds are among them."""
        held = [value for value in vars(self).values() if isinstance(value, Method)]
        inner = {name: network for method in held for name, network in method.networks().items()}
        return inner | {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}


@contextmanager
def frozen(*networks: nn.Module, evaluate: bool = True) -> Iterator[None]:
    """Freeze networks for a while: no parameter gradients and, if ``evaluate``, evaluation mode; then restore.

    Gradients still flow *through* the networks to their inputs. The mode of every module and the ``requires_grad`` of
    every parameter that this changed come back, also after an exception.
    """
    modules = [module for network in networks for module in _parts(network)]
    learning = [p for module in modules for p in module._parameters.values() if p is not None and p.requires_grad]
    training = [module for module in modules if module.training] if evaluate else []
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        for module in training:
            _set_training(module, False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module in training:
            _set_training(module, True)


def _set_training(module: nn.Module, value: bool) -> None:
    # The module's own way of setting takes far longer, but a scripted one keeps its mode elsewhere.
    (setattr if isinstance(module, torch.jit.ScriptModule) else object.__setattr__)(module, "training", value)


def _parts(network: nn.Module) -> list[nn.Module]:
    """A network and all modules in it; ``modules()`` takes four times as long, and steps freeze often."""
    found = [network]
    for module in found:
        found.extend(part for part in module._modules.values() if part is not None)
    return found


def on_device(network: Network, where: torch.device) -> Network:
    """Move a network to a device, convolutions in the memory format (channels last) that is quickest there."""
    return network.to(where).to(memory_format=torch.channels_last)


def sgd(parameters: Iterable[Tensor], where: torch.device, **options: Any) -> torch.optim.SGD:
    """``torch.optim.SGD`` with momentum 0.9 unless told otherwise, fused where the device can.

    Fused, the momentum of every parameter is there from the start, as zeros, and the first update is torch's own.
    """
    optimizer = torch.optim.SGD(parameters, **{"momentum": 0.9, "fused": where.type in ("cpu", "cuda"), **options})
    for group in optimizer.param_groups:
        # Torch makes the memory in the first step and, where the gradient scaler skips that step, never writes to it.
        # With dampening the first update from zeros would be another one.
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer


def adam(parameters: Iterable[Tensor], where: torch.device, **options: Any) -> torch.optim.Adam:
    """``torch.optim.Adam``, fused where the device can."""
    return torch.optim.Adam(parameters, **{"fused": where.type in ("cpu", "cuda"), **options})


Schedule = Callable[[int], float]
"""Iteration → factor on the learning rate."""


def constant(iteration: int) -> float:
    """The schedule that never changes."""
    return 1.0


def step_decay(milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """Multiply the learning rate by ``factor`` at each of the milestones (iterations, ascending)."""
    return lambda iteration: factor ** bisect.bisect_right(milestones, iteration)


def cosine(iterations: int, warmup: int = 0) -> Schedule:
    """Half a cosine from 1 to 0 over ``iterations``, after a linear rise over the first ``warmup``."""

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / warmup
        done = (iteration - warmup) / max(1, iterations - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def one_cycle(updates: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4) -> Schedule:
    """Half a cosine up from 1/start to 1 over a share of the updates, then half a cosine down to 1/(start end).

    Source: Smith & Topin 2018, in PyTorch's form and with its defaults, but momentum stays as it is.
    """
    summit = max(0.0, rise * updates - 1)

    def factor(iteration: int) -> float:
        low, share = 1 / start, iteration / summit if summit else 1.0
        if iteration >= summit:
            low, share = 1 / (start * end), max(0.0, updates - 1 - iteration) / max(1.0, updates - 1 - summit)
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2

    return factor
