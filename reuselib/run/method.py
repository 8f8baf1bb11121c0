"""What a run asks of a method, and the few tools that methods share."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reuselib import checks
from reuselib.errors import BadValue
from reuselib.run.described import describe, resolved, signature
from reuselib.run.device import Precision

Network = TypeVar("Network", bound=nn.Module)
Kind = TypeVar("Kind")
Some = TypeVar("Some", bound=Optimizer)


class Method:
    """A procedure: it holds networks, optimizers and memory, and improves them one update at a time.

    Subclasses write :meth:`step`. Whatever they keep as attributes and that has a ``state_dict`` (or is a tensor, a
    ``torch.Generator`` or a list of those) is checkpointed. As a method is built, its options are compared with those
    that there are, and what learns with what must not change.

    Attributes:
        steps_per_round: updates between two reports.
        fixed: names of attributes that never change (the teacher); of those only a fingerprint is checkpointed.
        iteration: updates done so far.
        counted: updates of the round that is under way.
        sums: of what these returned.
        described: in words, by its place, everything that was asked of it: a checkpoint is of these settings alone.
        defaults: options that a class passes on unless it is given others, by name.

    Raises:
        UnknownName: there is no such option.
        BadValue: what learns is part of what must not change.
    """

    steps_per_round: int = 50
    fixed: tuple[str, ...] = ("teacher",)
    iteration: int = 0
    counted: int = 0
    sums: Mapping[str, Tensor] = MappingProxyType({})
    described: Mapping[str, str] = MappingProxyType({})
    defaults: Mapping[str, Any] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _at_the_door(cls.__init__)  # type: ignore[method-assign]
        cls.__signature__ = signature(cls)  # type: ignore[attr-defined]

    def step(self) -> dict[str, Tensor]:
        """Do one update and return named scalar tensors, still on the device."""
        raise TypeError(f"{type(self).__name__} has no step()")

    def rounds(self, between: Callable[[], object] | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield, once per round, the mean over the round of what :meth:`step` returned.

        Args:
            between: called after every update but the last of a round.
        """
        while True:
            while self.counted < self.steps_per_round:
                update = {name: value.detach().float() for name, value in self.step().items()}
                held = {name: self.sums[name] + value for name, value in update.items() if name in self.sums}
                self.sums = {**self.sums, **update, **held}
                self.iteration += 1
                self.counted += 1
                if between and self.counted < self.steps_per_round:
                    between()
            means = {name: value / self.steps_per_round for name, value in self.sums.items()}
            self.sums, self.counted = {}, 0
            yield means

    def networks(self) -> dict[str, nn.Module]:
        """The networks this method holds, by attribute name; those of a method that it holds are among them."""
        held = [value for value in vars(self).values() if isinstance(value, Method)]
        inner = {name: network for method in held for name, network in method.networks().items()}
        return inner | {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def held(self, kind: type[Kind]) -> list[Kind]:
        """Everything of a kind among its attributes, in their lists, and in the methods that it holds."""
        values = [each for value in vars(self).values() for each in (value if isinstance(value, list) else [value])]
        inner = [each for value in values if isinstance(value, Method) for each in value.held(kind)]
        return [*inner, *(value for value in values if isinstance(value, kind))]

    def fixed_networks(self) -> dict[str, nn.Module]:
        """The networks that never change, by name."""
        named = {name: getattr(self, name, None) for name in self.fixed}
        return {name: network for name, network in named.items() if isinstance(network, nn.Module)}


def _at_the_door(build: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps in words what is asked, and refuses what no method can be asked."""

    @wraps(build)
    def checked(self: Method, *arguments: Any, **options: Any) -> None:
        if type(self).__init__ is not checked:  # that of a subclass stands at the door
            return build(self, *arguments, **options)
        asked = resolved(type(self), arguments, options)
        checks.whole(**{name: value for name, value in asked.items() if name == "batch"})
        self.described = dict(describe(asked))
        build(self, *arguments, **options)
        settle(self)

    return checked


def settle(method: Method) -> None:
    """Add to what was asked of a method what it made of that, and refuse one that would change what must not change.

    Raises:
        BadValue: what learns is part of what must not change.
    """
    optimizers, precisions = method.held(Optimizer), method.held(Precision)
    made = {"optimizers": optimizers, "precision": [each.name for each in precisions]}
    method.described = {"method": type(method).__name__, **method.described, **dict(describe(made))}
    learning = {p for each in optimizers for group in each.param_groups for p in group["params"]}
    for name, network in method.fixed_networks().items():
        shared = [path for path, parameter in network.named_parameters() if parameter in learning]
        if shared:
            raise BadValue(
                f"What learns is part of the {name}, which must not change: they share {', '.join(shared[:3])}"
                f"{' and more' * (len(shared) > 3)}. Give copies: copy.deepcopy({name})."
            )


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


def sgd(parameters: Iterable[Any], where: torch.device, momentum: float = 0.9, **options: Any) -> torch.optim.SGD:
    """``torch.optim.SGD``, fused where the device can.

    Fused, the momentum of every parameter is there from the start, as zeros, and the first update is torch's own.

    Args:
        parameters: what learns, or groups of it with options of their own.
        where: its device.
        momentum: of SGD.
        options: those of :class:`torch.optim.SGD`.

    Raises:
        BadValue: an option cannot be meant, or no parameter learns.
    """
    optimizer = _optimizer(torch.optim.SGD, parameters, where, {"momentum": momentum, **options})
    for group in optimizer.param_groups:
        # Torch makes the memory in the first step and, where the gradient scaler skips that step, never writes to it.
        # With dampening the first update from zeros would be another one.
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer


def adam(parameters: Iterable[Any], where: torch.device, **options: Any) -> torch.optim.Adam:
    """``torch.optim.Adam``, fused where the device can; raises as :func:`sgd` does.

    Args:
        parameters: what learns, or groups of it with options of their own.
        where: its device.
        options: those of :class:`torch.optim.Adam`.
    """
    return _optimizer(torch.optim.Adam, parameters, where, options)


def _optimizer(kind: type[Some], parameters: Iterable[Any], where: torch.device, options: dict[str, Any]) -> Some:
    checks.number(**{name: options[name] for name in ("lr", "weight_decay") if name in options})
    try:
        optimizer = kind(parameters, **{"fused": where.type in ("cpu", "cuda"), **options})
    except ValueError as error:
        raise BadValue(f"{error}. Look at what the optimizer is given.") from error
    for group in optimizer.param_groups:
        checks.number(lr=group["lr"], weight_decay=group["weight_decay"])
    if not any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"]):
        raise BadValue("Nothing can learn: every parameter is frozen. Use network.requires_grad_(True).")
    return optimizer


Schedule = Callable[[int], float]
"""Iteration → factor on the learning rate."""


def constant(iteration: int) -> float:
    """The schedule that never changes."""
    return 1.0


def step_decay(milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """Multiply the learning rate by ``factor`` at each of the milestones (iterations, ascending)."""
    checks.number(factor=factor)
    if any(later < earlier for earlier, later in itertools.pairwise(milestones)):
        raise BadValue(f"Milestones must ascend, not {list(milestones)}. Sort them.")
    return lambda iteration: factor ** bisect.bisect_right(milestones, iteration)


def cosine(iterations: int, warmup: int = 0) -> Schedule:
    """Half a cosine from 1 to 0 over ``iterations``, after a linear rise over the first ``warmup``."""
    checks.whole(0, iterations=iterations, warmup=warmup)

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / warmup
        done = (iteration - warmup) / max(1, iterations - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def one_cycle(updates: int) -> Schedule:
    """Half a cosine up from 1/25 to 1 over 0.3 of the updates, then half a cosine down to 1/250,000.

    Source: Smith & Topin 2018, in PyTorch's form and with its defaults, but momentum stays as it is.
    """
    checks.whole(0, updates=updates)
    summit = max(0.0, 0.3 * updates - 1)

    def factor(iteration: int) -> float:
        low, share = 1 / 25, iteration / summit if summit else 1.0
        if iteration >= summit:
            low, share = 1 / 250_000, max(0.0, updates - 1 - iteration) / max(1.0, updates - 1 - summit)
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2

    return factor
