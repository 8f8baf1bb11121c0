"""Driving a method: rounds, progress, evaluation, checkpoints, and the guard against NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch
from reuselib.run.checkpoint import Checkpoint
from reuselib.run.cost import Cost, count_passes, measured
from reuselib.run.device import quickest_kernels, threads
from reuselib.run.method import Method, frozen, settle
from reuselib.run.outputs import one_tensor
from reuselib.run.progress import Progress

LARGE = 50.0
"""Megabytes of a checkpoint from which on its size is said."""
LOOK = 5.0
"""Seconds between two looks at the numbers of a round that is under way."""


@dataclass
class History:
    """What a run reported, round by round, and what it cost.

    Attributes:
        rounds: one dict per round: ``iteration``, the mean of each quantity that ``step()`` returned, and what
            ``evaluate`` returned in the rounds where it was called.
        cost: seconds, memory and passes, over all the resumed parts.
    """

    rounds: list[dict[str, float]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Iterations and values of one quantity, where it was reported."""
        points = [(entry["iteration"], entry[name]) for entry in self.rounds if name in entry]
        return [x for x, _ in points], [y for _, y in points]

    def last(self, name: str) -> float:
        """The last value of one quantity."""
        return self.curve(name)[1][-1]


class Labelled(Protocol):
    """What :func:`accuracy` needs of an image set: ordered batches of images (normalised) and labels."""

    def batches(self, batch: int) -> Any:
        """Yield ``(images, labels)``."""


@torch.no_grad()
def accuracy(model: nn.Module, images: Labelled, batch: int = 1000) -> float:
    """Share of images whose largest logit is the label's, in evaluation mode and float32.

    Args:
        model: a classifier; its mode and gradients come back as they were.
        images: an image set, on the model's device.
        batch: images at a time.

    Returns:
        A share between 0 and 1.

    Raises:
        NonFinite: a logit is NaN or infinite.
        ShapeMismatch: a label is none of the model's classes.
        ReuseError: there are no images, or the model gives more than one tensor.

    Example:
        >>> from reuselib import data, run
        >>> from reuselib.nets import zoo
        >>> run.accuracy(zoo.load("digits8-conv3", "cpu"), data.load("digits", "test")) > 0.95
        True
    """
    checks.whole(batch=batch)
    found, count = [], 0
    with frozen(model):
        for x, y in images.batches(batch):
            logits = one_tensor(model(x), model)
            found.append([logits.argmax(1) == y, ~logits.isfinite().all(1), y >= logits.shape[1]])
            count += len(y)
    if not count:
        raise BadValue("There are no images to measure the accuracy on. Give at least one.")
    hits, odd, beyond = torch.stack([torch.stack([each.sum() for each in batch]) for batch in found]).sum(0).tolist()
    if odd:
        raise NonFinite(f"The network gives NaN or infinity for {odd} of {count} images: look at its weights.")
    if beyond:
        raise ShapeMismatch(f"{beyond} of {count} labels are none of the network's {logits.shape[1]} classes: relabel.")
    return hits / count


def run(
    method: Method,
    updates: int,
    *,
    report_every: int = 50,
    checkpoint: str | Path | None = None,
    save_every: float = 60.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluations: int | None = None,
    settings: Any = None,
    progress: bool = True,
    title: str | None = None,
) -> History:
    """Drive a method for a number of updates; go on where a checkpoint left off.

    Args:
        method: what to run.
        updates: calls of ``step()`` in all, those of earlier parts included.
        report_every: updates between two reports: the largest divisor of ``updates`` up to this.
        checkpoint: file to write now and then, and at the end, and to resume from if it is there. A run that was
            killed and resumed gives bit for bit what an uninterrupted one gives on the same CPU.
        save_every: seconds between checkpoints, more where writing one takes long; 0 writes one after every update.
        evaluate: returns named numbers, for instance a test accuracy. It must leave the method as it finds it.
        evaluations: how often it is called at least, after whole reports, the last time at the end; after every one if
            left out.
        settings: whatever decides the result beside the arguments that the method was built with. A checkpoint of
            others is refused.
        progress: whether to show a bar.
        title: text before the bar; the method's name if left out.

    Returns:
        The history, earlier parts included.

    Raises:
        BadValue: a number that cannot be meant.
        NonFinite: a reported quantity, a measured one or a weight became NaN or infinite; the last good checkpoint is
            kept.
        DeviceError: the device ran out of memory.
        ReuseError: the checkpoint belongs to another method, teacher, architecture or settings, or cannot be written;
            or the method changes its teacher.

    Example:
        >>> import tempfile
        >>> from reuselib import data, nets, run
        >>> from reuselib.nets.supervised import Supervised
        >>> student = nets.conv3(width=4)
        >>> method = Supervised(student, data.load("digits"), batch=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = {"checkpoint": f"{folder}/a.ckpt", "report_every": 4, "progress": False}
        ...     half = run.run(method, updates=4, **options)
        ...     whole = run.run(method, updates=8, **options)  # goes on where it was
        >>> [each["iteration"] for each in whole.rounds]
        [4, 8]
    """
    checks.whole(0, updates=updates)
    checks.whole(report_every=report_every, **({} if evaluations is None else {"evaluations": evaluations}))
    checks.number(save_every=save_every)
    if evaluate is not None and not callable(evaluate):
        raise BadValue(f"evaluate must be a function that returns named numbers, not {evaluate!r}.")
    if not method.described:
        settle(method)
    method.steps_per_round, method.sums, method.counted = divisor(updates, report_every), {}, 0
    file = None if checkpoint is None else Checkpoint(checkpoint, method, settings, save_every)
    saved = file.resume(updates) if file else None
    history = History(saved["rounds"], Cost(**saved["cost"])) if saved else History()
    title = title or type(method).__name__
    done = len(history.rounds) * method.steps_per_round + method.counted
    bar = Progress(total=updates, initial=done, disable=not progress, desc=title, unit="update")
    if saved:
        bar.say(f"{title}: resumed at update {done} of {updates}")
    going = _Going(method, history, bar, file, rounds=updates // method.steps_per_round)
    try:
        with threads(), quickest_kernels():
            going.on(evaluate, evaluations)
    except torch.OutOfMemoryError as error:
        batch = getattr(method, "batch", None)
        hint = f"Try a batch of {batch // 2} instead of {batch}." if batch and batch > 1 else "Try smaller images."
        raise DeviceError(f"The device ran out of memory in update {method.iteration + 1}. {hint}") from error
    finally:
        bar.close()
    return history


def divisor(updates: int, most: int) -> int:
    """The largest number up to ``most`` that divides ``updates``: so many updates fit between two reports."""
    return next(n for n in range(min(most, updates), 0, -1) if updates % n == 0) if updates > 0 else 1


class _Going:
    """A run that is under way."""

    def __init__(self, method: Method, history: History, bar: Progress, file: Checkpoint | None, rounds: int) -> None:
        self.method, self.history, self.bar, self.file, self.rounds = method, history, bar, file, rounds
        self.fixed, self.looked = method.fixed_networks(), -math.inf
        self.stamps = _stamps(self.fixed)
        self.buffers = [(b, b.clone()) for network in self.fixed.values() for b in network.buffers()]
        self.measured: dict[str, float] = {}

    def on(self, evaluate: Callable[[], dict[str, float]] | None, evaluations: int | None) -> None:
        """Go on until all rounds are done."""
        every = max(1, self.rounds // evaluations) if evaluations else 1
        reports, history = self.method.rounds(self.between), self.history
        for done in range(len(history.rounds) + 1, self.rounds + 1):
            with measured(history.cost) as self.lap, count_passes(self.method.networks(), history.cost.passes):
                entry = _to_floats(next(reports))
            self.check(entry)
            shown = dict(list(entry.items())[:1])
            entry["iteration"] = self.method.iteration
            if evaluate is not None and (done % every == 0 or done == self.rounds):
                with measured(history.cost):
                    self.measured = self.finite(evaluate())
                entry.update(self.measured)
            history.rounds.append(entry)
            if self.file and (self.file.due() or done == self.rounds):
                self.save(self.file)
            self.show(shown, refresh=False)
            self.bar.update()

    def between(self) -> None:
        """After an update inside a round: move the bar; now and then look at the numbers and write a checkpoint."""
        self.bar.update()
        if time.monotonic() - self.looked >= LOOK:
            name, total = next(iter(self.method.sums.items()), ("", torch.zeros(())))
            self.show({name: float(total) / self.method.counted} if name else {})
        if self.file and self.file.due():
            self.lap()
            self.check(_to_floats(self.method.sums))
            self.save(self.file)

    def save(self, file: Checkpoint) -> None:
        """Write the checkpoint; the first time, say how large it is if it is large."""
        first = not file.megabytes
        file.write(self.history.rounds, self.history.cost)
        if first and file.megabytes > LARGE:
            self.bar.say(f"a checkpoint of {file.megabytes:,.0f} MB, written by the clock: {file.path}")

    def show(self, numbers: Mapping[str, float], refresh: bool = True) -> None:
        """Write numbers, and what was measured last, behind the bar."""
        self.looked = time.monotonic()
        shown = {name: f"{value:.3g}" for name, value in {**numbers, **self.measured}.items()}
        self.bar.set_postfix(shown, refresh=refresh)

    def check(self, numbers: Mapping[str, float]) -> None:
        """Refuse numbers and weights that are not finite, and a teacher that changed: its buffers are put back."""
        self.finite(numbers)
        self.finite(_largest_weights(self.method))
        if written := [place for place, stamp in _stamps(self.fixed).items() if self.stamps.get(place) != stamp]:
            for buffer, before in self.buffers:
                buffer.copy_(before)
            raise ReuseError(
                f"{', '.join(written[:3])} must not change, but a step writes it; buffers were put back. Take what "
                "writes it out of the network's forward pass, at least in evaluation mode."
            )

    def finite(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The numbers, if each is finite."""
        if not isinstance(numbers, Mapping):
            raise BadValue(f"evaluate must return named numbers, not {numbers!r}: give it a name, {{'accuracy': …}}.")
        for name, value in numbers.items():
            if not math.isfinite(value):
                kept = self.file.kept if self.file else "Nothing was saved."
                raise NonFinite(
                    f"{name!r} became {value} by update {self.method.iteration}. {kept} Lower the learning rate, or "
                    "run in fp32 (REUSELIB_PRECISION=fp32)."
                )
        return dict(numbers)


def _stamps(networks: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """How often each parameter and buffer was written, by its place: known without waiting for the device."""
    found = {}
    for name, network in networks.items():
        for path, value in chain(network.named_parameters(), network.named_buffers()):
            found[f"{name}.{path}"] = (id(value), 0 if value.is_inference() else value._version)
    return found


def _to_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Read all of a round's numbers off the device at once: the only synchronisation of a round."""
    if not metrics:
        return {}
    return dict(zip(metrics, torch.stack([value.detach().float() for value in metrics.values()]).tolist(), strict=True))


def _largest_weights(method: Method) -> dict[str, float]:
    """The largest magnitude in each network that learns: not finite as soon as one weight is not."""
    learning = {name: net for name, net in method.networks().items() if name not in method.fixed}
    largest = {name: [p.detach().abs().amax().float() for p in net.parameters()] for name, net in learning.items()}
    return _to_floats({f"a weight of the {name}": torch.stack(each).amax() for name, each in largest.items() if each})
