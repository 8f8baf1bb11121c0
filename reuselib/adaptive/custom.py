"""The pool as a menu: choose tasks, and get one network that does them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reuselib import checks, run
from reuselib.adaptive import losses, selection
from reuselib.adaptive.method import ComponentLearning, Lesson, TargetLearning
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, unknown

Builder = Callable[[dict[str, int]], nn.Module]
"""Task → number of classes, to a network with a head for each."""

TARGET = "target"
"""The name of stage 2 in reports."""


class InTurn(run.Method):
    """Several methods, one after the other, as one: a run reports, checkpoints and resumes them as a whole.

    A later method may use the networks of an earlier one, which are trained by then.

    Args:
        methods: by the name that their reports get.
        updates: of each.
        given: networks that none of them trains; a checkpoint made with others is refused.

    Attributes:
        steps_per_round: as long as no round belongs to two methods, 50 at most.
    """

    fixed = ("given",)

    def __init__(
        self, methods: Mapping[str, run.Method], updates: Mapping[str, int], given: Iterable[nn.Module] = ()
    ) -> None:
        self.names, self.methods, self.given = list(methods), list(methods.values()), nn.ModuleList(given)
        self.updates = [updates[name] for name in self.names]
        for name in self.names:
            checks.whole(**{f"updates of {name}": updates[name]})
        self.steps_per_round = run.divisor(math.gcd(*self.updates), 50)

    def step(self) -> dict[str, Tensor]:
        """One update of the method whose turn it is; its report, each name after the method's and a slash."""
        number = bisect_right(list(accumulate(self.updates[:-1])), self.iteration)
        return {f"{self.names[number]}/{name}": value for name, value in self.methods[number].step().items()}

    def networks(self) -> dict[str, nn.Module]:
        """The networks of all methods, each name after the method's and a slash."""
        return {
            f"{name}/{key}": network
            for name, method in zip(self.names, self.methods, strict=True)
            for key, network in method.networks().items()
        }


@dataclass(frozen=True, eq=False)
class Choice:
    """Who teaches a task, and which images.

    Attributes:
        task: its name.
        names: of the sources that have a head for it, in the pool's order.
        sources: those networks.
        index: int64 (N,), for each image the position of its source among them.
    """

    task: str
    names: list[str]
    sources: Sequence[nn.Module]
    index: Tensor

    @property
    def classes(self) -> int:
        """How many classes the task has."""
        return self.sources[0].tasks[self.task]  # type: ignore[index, return-value]

    def lessons(self) -> list[Lesson]:
        """The lessons of stage 1: each source on the images assigned to it."""
        parts = selection.subsets(self.index, len(self.sources))
        return [Lesson(source, self.task, part) for source, part in zip(self.sources, parts, strict=True)]


@dataclass(frozen=True, eq=False)
class Custom:
    """A network made to order.

    Attributes:
        student: the target network, with a head for each chosen task.
        components: task → its component network.
        choices: task → who taught it.
        history: of both stages; the reports of stage 1 begin with the task's name, those of stage 2 with "target".
    """

    student: nn.Module
    components: dict[str, nn.Module]
    choices: dict[str, Choice]
    history: run.History


def menu(pool: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """What a pool of sources can teach: task → the names of the sources that have a head for it.

    Args:
        pool: sources by name, each with ``tasks`` as :class:`~reuselib.nets.MultiHead` has them.

    Raises:
        ReuseError: a source has none.
    """
    found: dict[str, list[str]] = {}
    for name, source in pool.items():
        if not isinstance(getattr(source, "tasks", None), Mapping):
            raise ReuseError(
                f"{name!r} does not say its tasks: use a nets.MultiHead, or set tasks = {{name: classes}}."
            )
        for task in source.tasks:  # type: ignore[union-attr]
            found.setdefault(task, []).append(name)
    return found


def choose(pool: Mapping[str, nn.Module], task: str, images: ImageSet) -> Choice:
    """Select a source for every image by the smallest entropy of its softmax.

    Args:
        pool: sources by name.
        task: one of their heads.
        images: unlabelled, on the sources' device.

    Returns:
        Who teaches which image; its ``lessons()`` are what :class:`~reuselib.adaptive.ComponentLearning` learns.

    Raises:
        UnknownName: no source has such a head; the message lists the menu.
        ShapeMismatch: the sources differ in that head's number of classes.

    Example:
        >>> from reuselib import adaptive, data, nets
        >>> pool = {name: nets.multi_head_conv({"digit": 10}, widths=(4, 8, 8)) for name in ("a", "b")}
        >>> adaptive.choose(pool, "digit", data.load("digits").take(8, seed=0)).index.shape
        torch.Size([8])
    """
    offered = menu(pool)
    if task not in offered:
        raise unknown("task of the pool", task, offered)
    sources = [pool[name] for name in offered[task]]
    logits = selection.predictions(sources, task, images)
    return Choice(task, offered[task], sources, losses.select(losses.entropy(logits)))


def customise(
    pool: Mapping[str, nn.Module],
    tasks: Sequence[str],
    images: ImageSet,
    *,
    component: Builder,
    target: Builder,
    widths: Sequence[int],
    updates: tuple[int, int] = (300, 300),
    component_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Custom:
    """Make one network for the chosen tasks from a pool of sources and unlabelled images, in two stages.

    Args:
        pool: sources by name; they are left as they were.
        tasks: chosen from :func:`menu`, each once; none may be called "target".
        images: unlabelled, on the sources' device.
        component: builds a component network, from a dict with its one task.
        target: builds the target network, from a dict with all tasks.
        widths: channels of stage 1's common space, one for each block.
        updates: of each component network, and of the target network.
        component_options: of :class:`~reuselib.adaptive.method.ComponentLearning`.
        target_options: of :class:`~reuselib.adaptive.method.TargetLearning`.
        seed: of the initial weights and of the images drawn.
        checkpoint: file to write to and to resume from.
        progress: whether to show a bar.

    Returns:
        The target network, the component networks, who taught what, and the history of both stages.

    Raises:
        ReuseError: no task is chosen, or one twice; see also the methods of both stages.
        UnknownName: no source teaches a task; the message lists the menu.

    Example:
        >>> from functools import partial
        >>> from reuselib import adaptive, data, nets
        >>> build = partial(nets.multi_head_conv, widths=(4, 8, 8))
        >>> pool = {"a": build({"digit": 10, "parity": 2}), "b": build({"digit": 10})}  # yours are trained
        >>> adaptive.menu(pool)
        {'digit': ['a', 'b'], 'parity': ['a']}
        >>> images = data.load("digits").take(64, seed=0)
        >>> options = {"component": build, "target": build, "widths": (4, 8, 8), "updates": (2, 2), "progress": False}
        >>> adaptive.customise(pool, ["digit", "parity"], images, **options).student.tasks
        {'digit': 10, 'parity': 2}

    Source: Shen et al. 2019 (ICCV).
    """
    if not tasks or len({*tasks, TARGET}) <= len(tasks):
        raise ReuseError(f"Choose each task once, at least one of {', '.join(menu(pool))}; not {list(tasks)}.")
    choices = {task: choose(pool, task, images) for task in tasks}
    classes = {task: choice.classes for task, choice in choices.items()}
    with run.seeded(seed):
        components = {task: run.on_device(component({task: classes[task]}), images.device) for task in tasks}
        student = run.on_device(target(classes), images.device)
    methods: dict[str, run.Method] = {
        task: ComponentLearning(
            components[task], choice.lessons(), images, widths=widths, seed=seed, **(component_options or {})
        )
        for task, choice in choices.items()
    }
    methods[TARGET] = TargetLearning(student, components, images, seed=seed, **(target_options or {}))
    stages = InTurn(methods, {task: updates[0] for task in tasks} | {TARGET: updates[1]}, pool.values())
    options: Mapping[str, Any] = {"report_every": stages.steps_per_round, "title": "customise", "progress": progress}
    history = run.run(stages, updates=sum(stages.updates), checkpoint=checkpoint, **options)
    return Custom(student, components, choices, history)
