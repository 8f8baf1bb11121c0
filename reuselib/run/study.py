"""Studies: a paper's tasks, rows and scales are declared; running a row with a seed and recording it is written once.

A :class:`Study` declares rows, each with its :class:`Settings`; a :class:`Job` is one row with one seed, with the
networks and images that its methods share; what comes out is a :class:`Result` with its record.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from reuselib import checks, home, report
from reuselib.errors import BadValue, ReuseError, unknown
from reuselib.run.cost import Prediction, predict
from reuselib.run.described import describe
from reuselib.run.device import device as choose_device
from reuselib.run.device import precision as choose_precision
from reuselib.run.device import threads
from reuselib.run.loop import History, run
from reuselib.run.method import Method
from reuselib.run.needs import Needs

SCALES = report.SCALES
REPORT_EVERY = 50
"""Updates between two reports, at most."""


class Settings(Mapping[str, Any]):
    """Everything that decides the result of a row, beside the seed: named values, read as attributes, never changed.

    Args:
        entries: the values; whatever JSON can hold, or other settings.
    """

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __getattr__(self, name: str) -> Any:
        raise unknown("setting", name, self.__dict__) if not name.startswith("__") else AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("settings are not changed; but(...) gives others")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __hash__(self) -> int:
        return hash(repr(self))

    def but(self, **changes: Any) -> Settings:
        """The same settings with some values changed.

        Raises:
            UnknownName: there is no such setting; the message gives the nearest.
        """
        for name in changes:
            if name not in self:
                raise unknown("setting", name, self)
        return Settings(**{**self, **changes})

    def plain(self) -> dict[str, Any]:
        """The settings as JSON holds them: dictionaries and lists, functions and classes by name."""
        return {name: _plain(value) for name, value in self.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.__name__ if callable(value) else value


@dataclass(kw_only=True)
class Result:
    """What a run gives; each study adds the networks and images that its figures need.

    Attributes:
        metrics: final values by name.
        history: the reports, round by round, and the cost.
        curves: which reports the record keeps.
        stride: student updates per iteration; recorded curves count student updates.
        device: where it ran.
        precision: of the run.
        pictures: samples (n, C, H, W) of what was made, to be kept beside the record; None for none.
        record: what is kept, filled in by :meth:`Study.run`.
    """

    metrics: dict[str, float]
    history: History = field(default_factory=History)
    curves: tuple[str, ...] = ()
    stride: int = 1
    device: torch.device = torch.device("cpu")
    precision: str = "fp32"
    pictures: Tensor | None = None
    record: report.Record = field(init=False, repr=False)

    def points(self, name: str) -> list[tuple[float, float]]:
        """A curve of the record: (student updates, value)."""
        return [(x * self.stride, round(y, 5)) for x, y in zip(*self.history.curve(name), strict=True)]

    def save(self) -> None:
        """Save the record, and the pictures of seed 0, eight a row in a PNG, at the scales of the papers' own data."""
        record = self.record
        record.save()
        if self.pictures is not None and record.seed == 0 and record.scale in SCALES[2:]:
            write_sheet(home.path("pictures", record.paper, f"{record.scale}-{record.row}.png"), self.pictures)


def write_sheet(path: Path, images: Tensor, across: int = 8) -> Path:
    """Write images (n, C, H, W) as a PNG, so many a row: 8-bit ones as they are, others stretched to their range."""
    from torchvision.utils import save_image  # takes a while

    whole, buffer = not images.is_floating_point(), io.BytesIO()
    shown = images.detach().float().cpu() / (255 if whole else 1)
    save_image(shown, buffer, "PNG", nrow=across, padding=1, pad_value=1.0, normalize=not whole)
    home.write_atomic(path, buffer.getvalue())
    return path


class Job:
    """One row with one seed. Subclasses hold what the methods of a study share, and say what is trained and measured.

    Args:
        settings: of the row; its method is ``settings.method``.
        seed: of initial weights and of all that is drawn.
        device: where to run; chosen by :func:`~reuselib.run.device` if left out.
        checkpoint: file to resume from and to write to.
        progress: whether to show a bar.
        title: of the bar.

    Attributes:
        parts: further checkpoints, of what is trained after the first; they go when the row is finished.
    """

    def __init__(
        self,
        settings: Settings,
        seed: int = 0,
        *,
        device: str | torch.device | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
        title: str = "",
    ) -> None:
        checks.whole(0, checks.SEEDS, seed=seed)
        self.settings, self.seed, self.device = settings, seed, choose_device(device)
        self.precision = choose_precision(self.device, settings.get("precision")).name
        self.checkpoint, self.progress, self.title = checkpoint, progress, title
        self.parts: list[Path] = []

    @property
    def described(self) -> dict[str, str]:
        """In words, by its place, what decides the result."""
        return dict(describe({**self.settings.plain(), "seed": self.seed}))

    def plan(self) -> Iterator[tuple[Method, int]]:
        """What the row trains, in order: methods with their numbers of updates. On ``meta`` it costs nothing."""
        yield from ()

    def result(self) -> Result:
        """Train and measure."""
        raise TypeError(f"{type(self).__name__} has no result()")

    def train(self, method: Method, updates: int, *, part: str = "", **options: Any) -> History:
        """Drive a method; a checkpoint belongs to these settings and this seed alone.

        Args:
            method: what learns.
            updates: calls of its ``step()``.
            part: name of what is trained after the first: it has a checkpoint of its own beside the job's.
            options: of :func:`~reuselib.run.run`; ``evaluations`` is 1 if left out.
        """
        options = {"report_every": REPORT_EVERY, "evaluations": 1} | options
        checkpoint = self.checkpoint
        if checkpoint and part:
            checkpoint = Path(checkpoint).with_name(f"{part}-{Path(checkpoint).name}")
            self.parts.append(checkpoint)
        shown: Any = {"progress": self.progress, "title": self.title}
        return run(method, updates, checkpoint=checkpoint, settings=self.described, **shown, **options)


class Study:
    """A paper's rows at one scale, and how to run one. Subclasses give ``name``, ``title``, ``declare`` and ``jobs``.

    Args:
        scale: "smoke", "laptop", "colab" or "paper".

    Raises:
        UnknownName: there is no such scale.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    jobs: ClassVar[type[Job]] = Job
    live: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By scale: changes that make a row short enough to run while one reads; ``run(row, seed, **study.shortened)``."""

    def __init__(self, scale: str = "laptop") -> None:
        self.scale = report.known_scale(scale)
        self.settings = dict(self.declare(scale))

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Row → settings, in the order of running, the first task first."""
        raise TypeError(f"{cls.__name__} declares no rows")

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> Job:
        """The job of some settings; ``options`` are those of :class:`Job`."""
        return self.jobs(settings, seed, **options)

    @property
    def rows(self) -> list[str]:
        """The rows of this scale."""
        return list(self.settings)

    @property
    def shortened(self) -> dict[str, Any]:
        """The changes of ``live`` at this scale."""
        return dict(self.live.get(self.scale, {}))

    def row(self, name: str) -> str:
        """The full name of a row: a bare method name means the study's first task.

        Raises:
            UnknownName: there is no such row at this scale.
        """
        if name not in self.settings:
            name = next((row for row in self.settings if row.split("-", 1)[-1] == name), name)
        if name not in self.settings:
            raise unknown(f"row of {self.name} at scale {self.scale}", name, self.settings)
        return name

    def run(
        self,
        row: str,
        seed: int = 0,
        *,
        resume: bool = False,
        checkpoint: str | Path | None = None,
        progress: bool = True,
        device: str | torch.device | None = None,
        title: str = "",
        **changes: Any,
    ) -> Result:
        """Run a row with a seed. The record is returned, not saved; ``result.save()`` keeps it.

        Args:
            row: a row, or a method of the first task.
            seed: of initial weights and of all that is drawn.
            resume: whether to write :meth:`checkpoint` now and then, in place of another, to go on from it where a run
                was cut, and to remove it when the run is finished.
            checkpoint: file to resume from and to write to.
            progress: whether to show a bar.
            device: where to run.
            title: of the bar; row and seed if left out.
            changes: settings to change for this run; such a record is for looking at, not for saving: it would take
                the place of the row's own.

        Raises:
            UnknownName: there is no such row or setting.
        """
        row = self.row(row)
        settings = self.settings[row].but(**changes)
        checkpoint = self.checkpoint(row, seed, **changes) if resume else checkpoint
        options: dict[str, Any] = {"device": device, "checkpoint": checkpoint, "progress": progress}
        job = self.job(settings, seed, title=title or f"{row} seed {seed}", **options)
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        result = job.result()
        result.record = self._record(row, seed, settings, result)
        for file in job.parts:
            file.unlink(missing_ok=True)
        if resume:
            self.checkpoint(row, seed, **changes).unlink(missing_ok=True)
        return result

    def run_all(self, rows: Iterable[str] | None = None, seed: int = 0, progress: bool = True) -> list[report.Record]:
        """Run rows one after the other, a line each, and keep what is finished in the data room's ``runs``.

        Called again after a cut it reads back what was finished and goes on where the cut was. The book's own records,
        in ``results``, are neither read nor changed.

        Args:
            rows: all of this scale if left out.
            seed: of every row.
            progress: whether to show a bar for each row, and a line with its numbers when it is finished.

        Returns:
            A record a row, in their order, to be set beside those of the book with ``report.table(..., beside=...)``.

        Raises:
            UnknownName: there is no such row.
        """
        wanted, finished = [self.row(row) for row in (self.rows if rows is None else rows)], []
        for number, row in enumerate(wanted, 1):
            record = report.find_own(self.name, self.scale, row, seed, self.settings[row])
            again = "" if record is None else ", read back"
            if record is None:
                title = f"{number} of {len(wanted)}: {row} seed {seed}"
                record = self.run(row, seed, resume=True, progress=progress, title=title).record
                record.keep()
            if progress:
                numbers = ", ".join(f"{name} {value:.3g}" for name, value in list(record.metrics.items())[:4])
                print(f"{number} of {len(wanted)}: {row}: {numbers}; {record.wall_seconds:.0f} s{again}")
            finished.append(record)
        return finished

    def checkpoint(self, row: str, seed: int = 0, **changes: Any) -> Path:
        """Where the checkpoint of a run lies in the data room until the run is finished; other changes, other files.

        Raises:
            UnknownName: there is no such row.
        """
        place = report.scratch(self.name, self.scale, self.row(row), seed)
        mark = f"{report.config_hash(Settings(**changes).plain())[:16]}-" if changes else ""
        return place.with_name(f"{mark}{place.name}.pt")

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """The image sets and the networks of the zoo that a row reads: a study that reads some says so here."""
        return set(), set()

    def needs(self, rows: Iterable[str] | None = None) -> Needs:
        """What rows read, all of this scale if left out; worlds, which are drawn, are no image sets.

        Raises:
            UnknownName: there is no such row.
        """
        each = [self.needed(self.settings[self.row(row)]) for row in (self.rows if rows is None else rows)]
        images, pieces = (tuple(sorted(set().union(*(both[kind] for both in each)))) for kind in (0, 1))
        return Needs(images, pieces)

    def fetch(self, rows: Iterable[str] | None = None, progress: bool = True) -> None:
        """Fetch what rows read and this machine has not: see :meth:`~reuselib.run.Needs.fetch`.

        Raises:
            UnknownName: there is no such row.
            ReuseError: something cannot be had, or is not what was published.
        """
        self.needs(rows).fetch(progress)

    def choose(self, rows: Iterable[str] | None = None, seed: int = 0) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        """What is found for rows whose options are to be chosen before a run: a study that has such rows says how.

        Raises:
            BadValue: there is none in this study.
        """
        raise BadValue(
            f"{self.name} leaves nothing to choose ahead: its rows have their options, or choose them as they run, on "
            f"every split. Fix: reuselib run {self.name} --scale {self.scale}"
        )

    def predict(self, row: str, **changes: Any) -> Prediction:
        """What a row would cost: the operations of every method's ``step()``, counted on ``meta``, times its updates.

        Raises:
            UnknownName: there is no such row or setting.
        """
        job = self.job(self.settings[self.row(row)].but(**changes), device="meta")
        return predict(job.plan())

    def bill(self) -> tuple[Prediction, list[str]]:
        """What all rows would cost for one seed, and the rows of which nothing can be predicted, left out there.

        Networks that they read and that have to be trained first are counted too.
        """
        total, silent = self.needs().predict(), list[str]()
        for row in self.rows:
            try:
                cost = self.predict(row)
            except ReuseError:
                cost = Prediction(0.0, 0.0)
            total += cost
            silent += [] if cost.operations else [row]
        return total, silent

    def _record(self, row: str, seed: int, settings: Settings, result: Result) -> report.Record:
        where, instructions = result.device, torch.backends.cpu.get_cpu_capability()  # both decide how sums are rounded
        processor = f"{where.type} ({platform.machine()}, {instructions})"
        measured: dict[str, Any] = {
            "metrics": result.metrics,
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else processor,
            "precision": result.precision,
            "curves": {name: result.points(name) for name in result.curves},
            **vars(result.history.cost),
        }
        with threads() as count:
            return report.Record.new(self.name, self.scale, row, seed, settings=settings, threads=count, **measured)
