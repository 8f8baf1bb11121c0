"""Driving a method: rounds, progress, evaluation, checkpoints, and the guard against NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reuselib.errors import DeviceError, NonFinite, ReuseError
from reuselib.run.checkpoint import capture, load_checkpoint, put_back, save_checkpoint
from reuselib.run.cost import Cost, count_passes, measured
from reuselib.run.device import quickest_kernels, threads
from reuselib.run.method import Method, frozen
from reuselib.run.progress import Progress


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
    """
    with frozen(model):
        hits = [(model(x).argmax(1) == y).float().sum() for x, y in images.batches(batch)]
    return float(torch.stack(hits).sum()) / len(images)  # type: ignore[arg-type]


def run(
    method: Method,
    updates: int,
    *,
    report_every: int = 50,
    checkpoint: str | Path | None = None,
    save_every: float = 60.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluations: int | None = None,
    settings: str = "",
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
        save_every: seconds between checkpoints; 0 writes one after every report.
        evaluate: returns named numbers, for instance a test accuracy. It must leave the method as it finds it.
        evaluations: how often it is called, the last time at the end; after every report if left out.
        settings: names everything that decides the result; a checkpoint made with other settings is refused.
        progress: whether to show a bar.
        title: text before the bar; the method's name if left out.

    Returns:
        The history, earlier parts included.

    Raises:
        NonFinite: a reported quantity or a weight became NaN or infinite; the last good checkpoint is kept.
        DeviceError: the device ran out of memory.
        ReuseError: the checkpoint belongs to another method, teacher, architecture or settings.
    """
    method.steps_per_round = divisor(updates, report_every)
    rounds = updates // method.steps_per_round
    history = History()
    if checkpoint is not None and Path(checkpoint).is_file():
        history = _resume(method, checkpoint, settings)
    done, saved = len(history.rounds), time.monotonic()
    every = max(1, rounds // evaluations) if evaluations else 1
    bar = Progress(total=rounds, initial=done, disable=not progress, desc=title or type(method).__name__, unit="round")
    shown: dict[str, float] = {}
    steps = islice(method.rounds(), max(rounds - done, 0))
    try:
        with threads(), quickest_kernels():
            while (metrics := _next_round(method, steps, history.cost)) is not None:
                done += 1
                entry = _finite(metrics, done, checkpoint)
                _finite(_largest_weights(method), done, checkpoint)
                entry["iteration"] = method.iteration
                if evaluate is not None and (done % every == 0 or done == rounds):
                    with measured(history.cost):
                        shown = evaluate()
                    entry.update(shown)
                history.rounds.append(entry)
                if checkpoint is not None and (time.monotonic() - saved >= save_every or done == rounds):
                    content = {"history": _plain(history), "settings": settings}
                    save_checkpoint(checkpoint, capture(method) | content)
                    saved = time.monotonic()
                first = dict(list(metrics.items())[:1])
                bar.set_postfix({name: f"{value:.3g}" for name, value in {**first, **shown}.items()}, refresh=False)
                bar.update()
    except torch.OutOfMemoryError as error:
        batch = getattr(method, "batch", None)
        hint = f"Try a batch of {batch // 2} instead of {batch}." if batch and batch > 1 else "Try smaller images."
        raise DeviceError(f"The device ran out of memory in round {done + 1}. {hint}") from error
    finally:
        bar.close()
    return history


def divisor(updates: int, most: int) -> int:
    """The largest number up to ``most`` that divides ``updates``: so many updates fit between two reports."""
    return next(n for n in range(min(most, updates), 0, -1) if updates % n == 0) if updates > 0 else 1


def _next_round(method: Method, steps: Any, cost: Cost) -> dict[str, float] | None:
    with measured(cost), count_passes(method.networks(), cost.passes):
        metrics = next(steps, None)
        return None if metrics is None else _to_floats(metrics)


def _to_floats(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Read all of a round's numbers off the device at once: the only synchronisation of a round."""
    if not metrics:
        return {}
    return dict(zip(metrics, torch.stack([value.detach().float() for value in metrics.values()]).tolist(), strict=True))


def _largest_weights(method: Method) -> dict[str, float]:
    """The largest magnitude in each network that learns: not finite as soon as one weight is not."""
    learning = {name: list(net.parameters()) for name, net in method.networks().items() if name not in method.fixed}
    return _to_floats(
        {
            f"a weight of the {name}": torch.stack([p.detach().abs().amax().float() for p in parameters]).amax()
            for name, parameters in learning.items()
            if parameters
        }
    )


def _finite(metrics: dict[str, float], number: int, checkpoint: str | Path | None) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            saved = checkpoint is not None and Path(checkpoint).is_file()
            kept = f"The last good checkpoint is kept in {checkpoint}." if saved else "Nothing was saved."
            raise NonFinite(
                f"{name!r} became {value} in round {number}. {kept} Lower the learning rate, or run in fp32 "
                "(REUSELIB_PRECISION=fp32)."
            )
    return dict(metrics)


def _plain(history: History) -> dict[str, Any]:
    return {"rounds": history.rounds, "cost": vars(history.cost)}


def _resume(method: Method, checkpoint: str | Path, settings: str) -> History:
    device = next((p.device for network in method.networks().values() for p in network.parameters()), "cpu")
    content = load_checkpoint(checkpoint, device)
    if content.get("settings", settings) != settings:
        raise ReuseError(
            f"The checkpoint {checkpoint} was made with other settings. Delete it, or give the run another one."
        )
    put_back(method, content, checkpoint)
    saved = content["history"]
    return History(rounds=saved["rounds"], cost=Cost(**saved["cost"]))
