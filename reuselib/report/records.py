"""Records: one run of one row with one seed, a file each."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from reuselib import __version__, home
from reuselib.errors import DamagedFile, NonFinite, OldSchema, unknown
from reuselib.report.papers import SCALES, published
from reuselib.report.schema import validate

SCHEMA = 1


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal contents give equal text; NaN raises `ValueError`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(config: Any) -> str:
    """Return the SHA-256 of a configuration's canonical JSON, 64 hexadecimal digits.

    Args:
        config: A mapping or a dataclass. Its key `seed` is left out: all seeds of a row share one hash.
    """
    content = {key: value for key, value in _content(config).items() if key != "seed"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _content(config: Any) -> dict[str, Any]:
    return asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)


@dataclass(frozen=True)
class Record:
    """One run of one row of a chapter's table with one seed.

    `metrics` are final values; `curves` hold `[iteration, value]` pairs; `passes` counts forward and backward
    passes; times are in seconds, memory in MiB. `dirty` is None where there is no git.
    """

    chapter: str
    scale: str
    row: str
    seed: int
    version: int
    metrics: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    cpu: str
    threads: int
    precision: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    passes: dict[str, int]
    finished: str
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def new(
        cls,
        chapter: str,
        scale: str,
        row: str,
        seed: int,
        *,
        metrics: Mapping[str, float],
        config: Any,
        device: str,
        threads: int,
        precision: str,
        wall_seconds: float,
        cpu_seconds: float,
        peak_memory_mb: float,
        passes: Mapping[str, int] | None = None,
        curves: Mapping[str, Iterable[Sequence[float]]] | None = None,
    ) -> Record:
        """Make the record of a run that has just finished; commit, versions, CPU and time are filled in.

        Args:
            chapter, scale, row, seed: Which run it is.
            metrics: Final values by name; "accuracy" is a fraction of one.
            config: Everything that decides the result, a mapping or a dataclass of JSON values.
            device: Name of the device in words, for example "cpu" or "Tesla T4".
            threads, precision: CPU threads, and "fp32", "bf16" or "fp16".
            wall_seconds, cpu_seconds, peak_memory_mb: What the run cost, in seconds and MiB.
            passes: Forward and backward passes by network, for example {"teacher_forward": 1200}.
            curves: Metrics over the run, as (iteration, value) pairs.

        Raises:
            NonFinite: If a number is NaN or infinite.
            UnknownName: If there is no such chapter or scale.
        """
        pairs = {name: [list(pair) for pair in curve] for name, curve in (curves or {}).items()}
        measured = {
            "metrics": dict(metrics),
            "passes": dict(passes or {}),
            "curves": pairs,
            "wall_seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "peak_memory_mb": peak_memory_mb,
        }
        try:
            parts = json.loads(canonical({"config": _content(config), **measured}))
        except ValueError as error:
            run = f"{chapter}/{scale}/{row} seed {seed}"
            raise NonFinite(
                f"{run}: a number is NaN or infinite ({error}), nothing was recorded. "
                "Fix: lower the learning rate, or run in fp32"
            ) from error
        return cls(
            chapter=chapter,
            scale=known_scale(scale),
            row=row,
            seed=seed,
            version=published(chapter).version,
            config_hash=config_hash(config),
            device=device,
            threads=threads,
            precision=precision,
            **parts,
            **_provenance(),
        )

    @property
    def path(self) -> Path:
        """The record's file below `data/results/`."""
        return _record_path(self.chapter, self.scale, self.row, self.seed)

    @property
    def stale(self) -> bool:
        """Whether another behaviour version of the chapter made it: its numbers no longer count."""
        return self.version != published(self.chapter).version

    def save(self) -> Path:
        """Check the record against its schema, write it atomically and return its path."""
        content = asdict(self)
        validate(content, "record", self.path, "report it: a record that was just made should be valid")
        lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items())
        home.write_atomic(self.path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return self.path

    def value(self, name: str) -> float:
        """Return a metric, a count `passes.<name>`, or a cost.

        The costs are `minutes`, `wall_seconds`, `cpu_seconds` and `peak_memory_mb`.

        Raises:
            UnknownName: If the record holds no such number.
        """
        numbers = self._numbers()
        if name not in numbers:
            raise unknown(f"metric of {self.row}", name, numbers)
        return numbers[name]

    def has(self, name: str) -> bool:
        """Return whether `value(name)` is there."""
        return name in self._numbers()

    def _numbers(self) -> dict[str, float]:
        costs = {name: getattr(self, name) for name in ("wall_seconds", "cpu_seconds", "peak_memory_mb")}
        passes = {f"passes.{name}": count for name, count in self.passes.items()}
        minutes = {"minutes": self.wall_seconds / 60, "cpu_minutes": self.cpu_seconds / 60}
        return {**minutes, **costs, **passes, **self.metrics}


def records(chapter: str, scale: str | None = None) -> list[Record]:
    """Read a chapter's records, the stale ones included, sorted by scale, row and seed.

    Raises:
        DamagedFile: If a file is not a whole, valid record.
        OldSchema: If another version of the schema wrote it.
    """
    published(chapter)
    folder = home.path("results", chapter)
    files = folder.glob(f"{known_scale(scale) if scale else '*'}/*/seed*.json")
    return sorted(map(_read_record, files), key=lambda r: (SCALES.index(r.scale), r.row, r.seed))


def find(chapter: str, scale: str, row: str, seed: int, config_hash: str | None = None) -> Record | None:
    """Return the record of one run; None if there is none, it is stale, or its `config_hash` is another."""
    path = _record_path(chapter, known_scale(scale), row, seed)
    record = _read_record(path) if path.is_file() else None
    if record is None or record.stale or config_hash not in (None, record.config_hash):
        return None
    return record


def values(chapter: str, scale: str, row: str, metric: str) -> list[float]:
    """Return a metric of a row for every recorded seed, stale records left out."""
    return [record.value(metric) for record in records(chapter, scale) if record.row == row and not record.stale]


def curve(chapter: str, scale: str, row: str, metric: str) -> tuple[list[float], list[list[float]]]:
    """Return a recorded curve of a row, stale records left out.

    Returns:
        The iterations, and one list of values for every seed; both empty where nothing is recorded.
    """
    found = [r.curves[metric] for r in records(chapter, scale) if r.row == row and not r.stale and metric in r.curves]
    iterations = [x for x, _ in found[0]] if found else []
    return iterations, [[y for _, y in points] for points in found]


def _record_path(chapter: str, scale: str, row: str, seed: int) -> Path:
    return home.path("results", chapter, scale, row, f"seed{seed}.json")


def known_scale(name: str) -> str:
    """Return the name of a scale unchanged, or raise `UnknownName`."""
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return name


def _read_record(path: Path) -> Record:
    stat = path.stat()
    return _parse_record(path, stat.st_mtime_ns, stat.st_ino, stat.st_size)


@lru_cache(maxsize=4096)
def _parse_record(path: Path, *_stamp: int) -> Record:
    """Read and check one record; the stamp of its file keeps an unchanged one from being parsed again."""
    chapter, scale, row, name = path.parts[-4:]
    fix = f"delete it, then reuselib run {chapter} --scale {scale} --seeds {name.removeprefix('seed')[:-5]}"
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise DamagedFile(path, f"not valid JSON ({error})", fix) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise OldSchema(f"{path} has record schema {schema}, this library reads {SCHEMA}. Fix: {fix}")
    validate(content, "record", path, fix)
    record = Record(**content)
    if record.path.parts[-4:] != path.parts[-4:]:
        raise DamagedFile(path, f"it holds the record of {'/'.join(record.path.parts[-4:])}", fix)
    if config_hash(record.config) != record.config_hash:
        raise DamagedFile(path, "config and config_hash disagree", fix)
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _provenance() -> dict[str, Any]:
    """Return what a record says about where it was made and when."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "absent"
    commit, dirty = _git()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), "torch": torch, "reuselib": __version__},
        "cpu": _cpu_name(),
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _git() -> tuple[str, bool | None]:
    """Return the clone's commit and whether code or data that decide results changed since, or ("unknown", None)."""
    if not home.in_clone():
        return "unknown", None
    try:
        changes = _run_git("status", "--porcelain", "--", "reuselib", "data", ":(exclude)data/results")
        return _run_git("rev-parse", "HEAD").strip(), bool(changes.strip())
    except (OSError, subprocess.SubprocessError):
        return "unknown", None


def _run_git(*arguments: str) -> str:
    command = ["git", "-C", str(home.CLONE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"
