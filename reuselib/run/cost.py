"""What a run costs: seconds, memory, and forward and backward passes of each network."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from reuselib import checks
from reuselib.report.papers import duration
from reuselib.run.method import Method
from reuselib.run.outputs import one_tensor


@dataclass
class Cost:
    """Cost of a run, summed over its resumed parts.

    Attributes:
        wall_seconds: seconds on the clock, evaluation included.
        cpu_seconds: processor seconds of this process.
        peak_memory_mb: the device's peak on a GPU, otherwise the process's peak, in MiB.
        passes: counts named ``<network>_forward`` and ``<network>_backward``, evaluation not included. Only calls of a
            whole network count: 0 where a method calls its blocks, as grafting does.
    """

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    passes: dict[str, int] = field(default_factory=dict)

    def add(self, more: Cost, passes: bool = True) -> None:
        """Add another cost to this one, its passes too if asked."""
        self.wall_seconds += more.wall_seconds
        self.cpu_seconds += more.cpu_seconds
        self.peak_memory_mb = max(self.peak_memory_mb, more.peak_memory_mb)
        for name, count in more.passes.items() if passes else ():
            self.passes[name] = self.passes.get(name, 0) + count


def _peak_memory_mb() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def measured(cost: Cost) -> Iterator[Callable[[], None]]:
    """Add the seconds and the peak memory of a block to ``cost``, at its end and whenever what it gives is called."""
    wall, cpu = time.perf_counter(), time.process_time()

    def lap() -> None:
        nonlocal wall, cpu
        before, (wall, cpu) = (wall, cpu), (time.perf_counter(), time.process_time())
        cost.wall_seconds += wall - before[0]
        cost.cpu_seconds += cpu - before[1]
        cost.peak_memory_mb = max(cost.peak_memory_mb, _peak_memory_mb())

    try:
        yield lap
    finally:
        lap()


@contextmanager
def count_passes(networks: Mapping[str, nn.Module], counts: dict[str, int] | None = None) -> Iterator[dict[str, int]]:
    """Count forward and backward passes of networks by hooks, which are removed on leaving.

    A backward pass is counted each time that a gradient arrives at an output of the network, once for all outputs of a
    network that gives a dict.

    Args:
        networks: networks by name.
        counts: counts to add to; a new dict if left out.

    Yields:
        ``{"<name>_forward": n, "<name>_backward": n}``, filled as the passes happen.
    """
    counts = {} if counts is None else counts

    def hook(name: str) -> Any:
        def count(network: nn.Module, _: Any, output: Any) -> None:
            if hasattr(output, "_fields"):  # as GoogLeNet, in training mode only
                one_tensor(output, network)
            counts[f"{name}_forward"] += 1
            outputs = output.values() if isinstance(output, Mapping) else [output]
            if learning := [each for each in outputs if isinstance(each, Tensor) and each.requires_grad]:
                register_multi_grad_hook(learning, back, mode="any")

        def back(_: Tensor) -> None:
            counts[f"{name}_backward"] += 1

        return count

    handles = []
    try:
        for name, network in networks.items():
            counts.setdefault(f"{name}_forward", 0)
            counts.setdefault(f"{name}_backward", 0)
            handles.append(network.register_forward_hook(hook(name)))
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Timing:
    """Seconds of every turn of one piece of work.

    Attributes:
        wall: on the clock.
        cpu: of this process; on an accelerator only what it takes to start the work.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleaved(works: Mapping[str, Callable[[], object]], turns: int, warmup: int = 5) -> dict[str, Timing]:
    """Time pieces of work turn by turn, so that whatever slows the machine for a while slows all of them.

    Every second turn runs them in reverse order. Compare medians: single turns are disturbed.

    Args:
        works: what to time, by name.
        turns: how often each is timed.
        warmup: turns before those, not counted.

    Returns:
        The seconds of each, by name.
    """
    checks.whole(turns=turns)
    checks.whole(0, warmup=warmup)
    timings = {name: Timing() for name in works}
    for turn in range(-warmup, turns):
        for name in works if turn % 2 == 0 else reversed(list(works)):
            cost = Cost()
            _finish()
            with measured(cost):
                works[name]()
                _finish()
            if turn >= 0:
                timings[name].wall.append(cost.wall_seconds)
                timings[name].cpu.append(cost.cpu_seconds)
    return timings


def _finish() -> None:
    """Wait for an accelerator that still works."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


SUSTAINED = {"T4, fp16": 12e12, "A100, bf16": 80e12}
"""Operations per second that small convolutions are assumed to sustain: about a fifth of each card's peak."""
PROCESSOR = 5e10
"""The same of a processor on the book's small networks."""
HEADS = "".join(f"{card:>14}" for card in SUSTAINED) + f"{'memory':>14}"
"""What stands above the columns of a printed :class:`Prediction`."""


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of a run; evaluation is left out, and a factor of two is to be expected.

    Attributes:
        operations: floating-point operations, a multiply-add counted as two.
        memory: bytes of weights, gradients, optimizer states and the most that one update saves for its backward pass.
        checkpoint: bytes of the largest checkpoint.
    """

    operations: float
    memory: float
    checkpoint: float = 0.0

    def __add__(self, other: Prediction) -> Prediction:
        """Both, one after the other."""
        largest = (max(self.memory, other.memory), max(self.checkpoint, other.checkpoint))
        return Prediction(self.operations + other.operations, *largest)

    def hours(self, card: str) -> float:
        """Hours on a card of ``SUSTAINED``."""
        return self.operations / SUSTAINED[card] / 3600

    def seconds(self, kind: str) -> float:
        """Seconds on a kind of device: "cpu", or any other, which is taken for a T4."""
        return self.operations / (PROCESSOR if kind == "cpu" else SUSTAINED["T4, fp16"])

    def __str__(self) -> str:
        """Return the times and the memory in columns, rounded as such a guess deserves."""
        gibibytes = self.memory / 2**30
        memory = f"{gibibytes:.1f} GiB" if gibibytes >= 0.05 else "< 0.1 GiB"
        return "".join(f"{duration(3600 * self.hours(card)):>14}" for card in SUSTAINED) + f"{memory:>14}"


def predict(plan: Iterable[tuple[Method, int]]) -> Prediction:
    """Ask every method what one ``step()`` costs, and multiply by its updates.

    Args:
        plan: methods on the ``meta`` device, where nothing is computed, with their numbers of updates. One that is
            yielded again, at a later stage, is asked again.
    """
    from reuselib.run.checkpoint import state_of  # which knows what a run costs

    total = Prediction(0.0, 0.0)
    for method, updates in plan:
        with FlopCounterMode(display=False) as counter, saved_bytes() as saved:
            method.step()
        operations = float(counter.get_total_flops()) * updates
        total += Prediction(operations, held_bytes(method) + saved.most, _bytes(state_of(method)))
    return total


def _bytes(state: Any) -> int:
    if isinstance(state, Mapping):
        return sum(map(_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_bytes, state))
    return state.nbytes if isinstance(state, Tensor) else 0


def held_bytes(method: Method) -> int:
    """Bytes of a method's weights, of the gradients of those that learn, and of its optimizers' states."""
    optimizers = method.held(Optimizer)
    weights = {p for network in method.held(nn.Module) for p in network.parameters()}
    learning = {p for each in optimizers for group in each.param_groups for p in group["params"]}
    return sum(t.nbytes for t in [*(weights | learning), *learning]) + _bytes([each.state for each in optimizers])


class Saved:
    """Bytes that autograd holds for backward passes to come.

    Attributes:
        now: held at the moment.
        most: held at any moment so far.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self._holders: dict[int, int] = {}

    def hold(self, tensor: Tensor) -> _Held:
        """Count a saved tensor; what is given back counts it off when it goes."""
        storage = tensor.untyped_storage()
        self._holders[storage._cdata] = self._holders.get(storage._cdata, 0) + 1
        if self._holders[storage._cdata] == 1:
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return _Held(self, tensor)

    def drop(self, tensor: Tensor) -> None:
        """Count a saved tensor off."""
        storage = tensor.untyped_storage()
        self._holders[storage._cdata] -= 1
        if not self._holders[storage._cdata]:
            self.now -= storage.nbytes()


class _Held:
    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor

    def __del__(self) -> None:
        self.saved.drop(self.tensor)


@contextmanager
def saved_bytes() -> Iterator[Saved]:
    """Watch what autograd saves in a block."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.hold, lambda held: held.tensor):
        yield saved
