"""What all chapters share: rows with frozen configurations, and one way to run a row and record it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from reuselib import report
from reuselib import run as engine
from reuselib.errors import unknown

SCALES = report.SCALES


@dataclass
class Run:
    """A finished run: its record, and what figures need.

    Attributes:
        record: what the ledger keeps.
        history: the reports, round by round.
        kept: networks, images and samples by name, as the chapter documents.
    """

    record: report.Record
    history: engine.History
    kept: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """Give what was kept as an attribute: ``run.student``."""
        kept = self.__dict__.get("kept", {})
        if name in kept:
            return kept[name]
        raise AttributeError(f"this run kept no {name!r}, only {sorted(kept)}")


@dataclass
class Outcome:
    """What a chapter's own code gives back for one run; :class:`Chapter` makes the record of it.

    Attributes:
        metrics: final values by name.
        history: the reports, round by round.
        device: where it ran.
        precision: of the run.
        kept: what figures need.
        curves: which reports the record keeps.
        updates: student updates per iteration; curves are recorded against student updates.
    """

    metrics: dict[str, float]
    history: engine.History
    device: torch.device
    precision: str
    kept: dict[str, Any]
    curves: tuple[str, ...] = ()
    updates: int = 1

    def points(self, name: str) -> list[tuple[float, float]]:
        """A curve of the record: (student updates, value)."""
        return [(x * self.updates, round(y, 5)) for x, y in zip(*self.history.curve(name), strict=True)]


class Chapter:
    """A chapter at one scale: its rows, their configurations, and how to run them.

    Subclasses give ``name``, ``title``, ``presets`` (scale → row → frozen configuration) and :meth:`perform`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    shortened: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By scale: what a notebook changes in a row so that it can be run while one reads."""

    def __init__(self, scale: str = "laptop") -> None:
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        self.scale = scale
        self.configs = dict(self.presets(scale))

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Any]:
        """The configuration of every row at a scale."""
        raise TypeError(f"{cls.__name__} has no presets")

    def perform(self, config: Any, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Run one configuration with one seed."""
        raise TypeError(f"{type(self).__name__} cannot perform")

    @property
    def settings(self) -> dict[str, Any]:
        """The configurations, as a study calls them."""
        return self.configs

    @property
    def shortened_run(self) -> dict[str, Any]:
        """As a study calls it."""
        return self.live

    @property
    def live(self) -> dict[str, Any]:
        """Changes that make a row short enough to run in the notebook; ``run(row, seed, **chapter.live)``."""
        return dict(self.shortened.get(self.scale, {}))

    @property
    def rows(self) -> list[str]:
        """The rows of this scale."""
        return list(self.configs)

    def row(self, name: str) -> str:
        """The full name of a row: a bare method name means the chapter's first task.

        Raises:
            UnknownName: there is no such row at this scale.
        """
        if name not in self.configs:
            name = next((row for row in self.configs if row.split("-", 1)[-1] == name), name)
        if name not in self.configs:
            raise unknown(f"row of {self.name} at scale {self.scale}", name, self.configs)
        return name

    def config(self, row: str, **changes: Any) -> Any:
        """The configuration of a row, with some fields changed."""
        return replace(self.configs[self.row(row)], **changes)

    def run(
        self, row: str, seed: int = 0, *, checkpoint: str | Path | None = None, progress: bool = True, **changes: Any
    ) -> Run:
        """Run a row with a seed. The record is returned, not saved; ``run.record.save()`` keeps it.

        Args:
            row: a row, or a method of the first task.
            seed: of initial weights and of all that is drawn.
            checkpoint: file to resume from and to write to.
            progress: whether to show a bar.
            changes: fields of the configuration to change for this run; such a record is for looking at, not for
                saving: it would take the place of the row's own.

        Raises:
            UnknownName: there is no such row.
        """
        row = self.row(row)
        config = self.config(row, **changes)
        outcome = self.perform(config, seed, checkpoint, progress, f"{row} seed {seed}")
        cost = outcome.history.cost
        with engine.threads() as threads:
            record = report.Record.new(
                self.name,
                self.scale,
                row,
                seed,
                metrics=outcome.metrics,
                settings=config,
                device=_device_name(outcome.device),
                threads=threads,
                precision=outcome.precision,
                wall_seconds=cost.wall_seconds,
                cpu_seconds=cost.cpu_seconds,
                peak_memory_mb=cost.peak_memory_mb,
                passes=cost.passes,
                curves={name: outcome.points(name) for name in outcome.curves},
            )
        return Run(record, outcome.history, outcome.kept)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
