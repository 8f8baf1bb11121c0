"""Records: one run of one row with one seed, a line each in `data/results/<paper>.jsonl`."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reuselib import __version__, checks, home
from reuselib.errors import BadValue, DamagedFile, NonFinite, OldSchema, ReuseError, unknown
from reuselib.report.papers import SCALES, published, validate

if TYPE_CHECKING:
    import pandas

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SCHEMA = 2
MOST_SEEDS = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal contents give equal text; NaN raises `ValueError`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(config: Any) -> str:
    """Return the SHA-256 of a configuration's canonical JSON, its key `seed` left out; goes at the end."""
    content = {key: value for key, value in _content(config).items() if key != "seed"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _content(settings: Any) -> dict[str, Any]:
    """Return settings as a mapping of what JSON holds: those of a study, or a mapping."""
    return settings.plain() if hasattr(settings, "plain") else dict(settings)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """One run of one row of a paper's tables with one seed.

    Attributes:
        paper, scale, row, seed: Which run it is; there is one record of each.
        version: The paper's behaviour version that made it.
        metrics: Final values by name.
        settings: Everything that decided the result, beside the seed.
        commit: The clone's commit, or "unknown".
        dirty: Whether code or inputs that decide results differed from the commit: files of `reuselib/`, or shipped
            files of `data/`. Records and networks that runs themselves make do not count. None where there is no git.
        versions: Of Python, torch and reuselib.
        device, cpu, threads, precision: Where and how it ran.
        wall_seconds, cpu_seconds, peak_memory_mb: What it cost, in seconds and MiB.
        passes: Forward and backward passes by network.
        finished: When, in UTC.
        curves: Metrics over the run, as `[iteration, value]` pairs.
        schema: Version of this list.
    """

    paper: str
    scale: str
    row: str
    seed: int
    version: int
    metrics: dict[str, float]
    settings: dict[str, Any]
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

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart from other records, or would be a path outside their folder."""
        known_scale(self.scale)
        checks.whole(0, checks.SEEDS, seed=self.seed)
        for name in (self.paper, self.row):
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise BadValue(f"{name!r} is no name of a paper or row. Fix: take letters, digits, '-', '_' and '.'")

    @classmethod
    def new(cls, paper: str, scale: str, row: str, seed: int, *, settings: Any, **measured: Any) -> Record:
        """Make the record of a run that has just finished; version, commit, versions, CPU and time are filled in.

        Args:
            paper, scale, row, seed: Which run it is.
            settings: Everything that decides the result: of a study, or a mapping of JSON values.
            measured: The other attributes: `metrics`, where "accuracy" is a fraction of one; `device` in words, for
                example "cpu" or "Tesla T4"; `threads`; `precision`, "fp32", "bf16" or "fp16"; `wall_seconds`,
                `cpu_seconds`, `peak_memory_mb`; and, where there are some, `passes` and `curves`.

        Raises:
            NonFinite: If a number is NaN or infinite.
            UnknownName: If there is no such paper or scale.
            BadValue: If the row or the seed cannot be meant.
        """
        try:
            content = json.loads(canonical({"passes": {}, **measured, "settings": _content(settings)}))
        except ValueError as error:
            raise NonFinite(
                f"{paper}/{scale}/{row} seed {seed}: a number is NaN or infinite ({error}), nothing was recorded. "
                "Fix: lower the learning rate, or run in fp32"
            ) from error
        commit, dirty = git_state()
        versions = {"python": platform.python_version(), "torch": metadata.version("torch"), "reuselib": __version__}
        finished = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        content |= {"commit": commit, "dirty": dirty, "versions": versions, "cpu": cpu_name(), "finished": finished}
        return cls(paper, scale, row, seed, published(paper).version, **content)

    @property
    def key(self) -> tuple[int, str, int]:
        """What records are sorted by: scale from small to large, row, seed."""
        return SCALES.index(self.scale), self.row, self.seed

    @property
    def stale(self) -> bool:
        """Whether another behaviour version of the paper's study made it: its numbers no longer count."""
        return self.version != published(self.paper).version

    def counts(self, settings: Any = None) -> bool:
        """Return whether it is not stale and was made with the given settings, where some are given."""
        return not self.stale and (settings is None or canonical(self.settings) == canonical(_content(settings)))

    def content(self) -> dict[str, Any]:
        """Return what a line of the paper's file holds: every attribute, and the digest of them."""
        return {**vars(self), "digest": _digest(vars(self))}

    def save(self) -> Path:
        """Check the record against its schema, write it, and take it into the paper's file, whose path is returned.

        It is written to the scratch folder first: whatever keeps the paper's file from being read or written, the
        record is there, and the next :func:`merge` takes it in.
        """
        content, file = self.content(), scratch(self.paper, self.scale, self.row, self.seed)
        validate(content, "record", file, "report it: a record that was just made should be valid")
        # The digest in the name: a run saved twice at once is two files, and neither is deleted unread.
        home.write_atomic(file.with_name(f"{file.name}-{content['digest']}.json"), _lines([self]))
        return merge(self.paper)

    def keep(self) -> Path:
        """Keep it as a reader's own run, beside the book's records, and return its path."""
        file = own(self.paper, self.scale, self.row, self.seed)
        home.write_atomic(file, _lines([self]))
        return file

    def differences(self, other: Record) -> list[str]:
        """Return the names of metrics and curves that are not equal bit for bit in two runs; times are left out."""
        found = []
        for mine, others in ((self.metrics, other.metrics), (self.curves, other.curves)):
            names = {name for name in {*mine, *others} if "seconds" not in name and not name.endswith("_ms")}
            found += sorted(name for name in names if mine.get(name) != others.get(name))
        return found

    def value(self, name: str) -> float:
        """Return a metric, a count `passes.<name>`, or a cost.

        The costs are `minutes`, `cpu_minutes`, `wall_seconds`, `cpu_seconds` and `peak_memory_mb`.

        Raises:
            UnknownName: If the record holds no such number.
        """
        numbers = self.numbers()
        if name not in numbers:
            raise unknown(f"metric of {self.row}", name, numbers)
        return numbers[name]

    def has(self, name: str) -> bool:
        """Return whether `value(name)` is there."""
        return name in self.numbers()

    def numbers(self) -> dict[str, float]:
        """Return everything that `value` can give, by name."""
        costs = {name: getattr(self, name) for name in ("wall_seconds", "cpu_seconds", "peak_memory_mb")}
        passes = {f"passes.{name}": count for name, count in self.passes.items()}
        minutes = {"minutes": self.wall_seconds / 60, "cpu_minutes": self.cpu_seconds / 60}
        return {**minutes, **costs, **passes, **self.metrics}


def records(paper: str, scale: str | None = None) -> list[Record]:
    """Read a paper's records, the stale ones included, sorted by scale, row and seed.

    What lies finished in the scratch folder is taken in first, so that no record is passed over.

    Raises:
        DamagedFile: If a line is not a whole, unaltered record, or a record stands twice.
        OldSchema: If another version of the schema wrote one.
    """
    published(paper)
    wanted = None if scale is None else known_scale(scale)
    if _finished(paper):
        merge(paper)
    return [record for record in _read(home.results(paper), paper) if wanted in (None, record.scale)]


def find(paper: str, scale: str, row: str, seed: int, settings: Any = None) -> Record | None:
    """Return the record of one run; None if there is none, it is stale, or it has other settings than the given."""
    checks.whole(0, checks.SEEDS, seed=seed)
    found = (record for record in records(paper, scale) if (record.row, record.seed) == (row, seed))
    return next((record for record in found if record.counts(settings)), None)


def find_own(paper: str, scale: str, row: str, seed: int, settings: Any = None) -> Record | None:
    """Return the same of a reader's own runs, which :meth:`Record.keep` has kept."""
    checks.whole(0, checks.SEEDS, seed=seed)
    found = _read(own(paper, scale, row, seed), paper)
    return next((record for record in found if record.counts(settings)), None)


def shared_seeds(paper: str, scale: str, rows: Iterable[str]) -> set[int]:
    """Return the seeds with which all rows are recorded, stale records left out: means over others do not compare."""
    return set.intersection(*({record.seed for record in _fresh(paper, scale, row)} for row in rows))


def values(paper: str, scale: str, row: str, metric: str, seeds: Collection[int] | None = None) -> list[float]:
    """Return a metric of a row for every recorded seed, or for those given; stale records left out.

    Raises:
        UnknownName: If a record lacks the metric, or nothing that is recorded or published has such a row.
    """
    return [record.value(metric) for record in _fresh(paper, scale, row, seeds)]


def curve(
    paper: str, scale: str, row: str, metric: str, seeds: Collection[int] | None = None
) -> tuple[list[float], list[list[float]]]:
    """Return a recorded curve of a row, stale records left out.

    Returns:
        The iterations, and one list of values for every seed, or for those given; both empty where nothing is recorded.

    Raises:
        UnknownName: If no record of the row has the curve, or nothing that is recorded or published has such a row.
    """
    found = _fresh(paper, scale, row, seeds)
    curves = [record.curves[metric] for record in found if metric in record.curves]
    if found and not curves:
        raise unknown(f"curve of {row}", metric, {name for record in found for name in record.curves})
    return [x for x, _ in curves[0]] if curves else [], [[y for _, y in points] for points in curves]


def _fresh(paper: str, scale: str, row: str, seeds: Collection[int] | None = None) -> list[Record]:
    """Return the records of a row that count; none where it was not run, which a misspelt name must not look like."""
    every, scale = records(paper), known_scale(scale)
    found = [record for record in every if (record.scale, record.row) == (scale, row)]
    if not found:
        rows = {record.row for record in every} | published(paper).rows()
        # A task and a method that are known, but were not run together, are no mistake.
        parts = [{part[place] for part in (name.partition("-") for name in rows)} for place in (0, 2)]
        if any(part not in known for part, known in zip(str(row).partition("-")[::2], parts, strict=True)):
            raise unknown(f"row of {paper}", row, rows)
    return [record for record in found if not record.stale and (seeds is None or record.seed in seeds)]


def frame(paper: str, scale: str | None = None) -> pandas.DataFrame:
    """Return a paper's records as a tidy frame, one row per record, in their order.

    Columns: `paper`, `scale`, `task` and `method` (the parts of the row's name before and after its first hyphen),
    `row`, `seed`, `stale`, then every number that :meth:`Record.value` gives; NaN where a record lacks it.

    Example:
        >>> from reuselib import report
        >>> frame = report.frame("dfad", "laptop")
        >>> {"row", "seed", "accuracy"} <= set(frame.columns)
        True
    """
    import pandas

    version, names = published(paper).version, ("paper", "scale", "task", "method", "row", "seed", "stale")
    found = []
    for r in records(paper, scale):
        task, _, method = r.row.partition("-")
        which = (paper, r.scale, task if method else "", method or task, r.row, r.seed, r.version != version)
        found.append({**dict(zip(names, which, strict=True)), **r.numbers()})
    return pandas.DataFrame(found) if found else pandas.DataFrame(columns=list(names))


def parse_seeds(text: str) -> list[int]:
    """Read "0-2" or "0,3,5-7" as seeds, each once, in this order.

    Raises:
        ReuseError: If the text is neither, or names more than 10,000 in a row or one beyond what generators take.
    """
    seeds: dict[int, None] = {}
    for part in str(text).split(","):
        first, dash, last = part.partition("-")
        ends = (first, last) if dash else (first, first)
        low, high = (int(end) if re.fullmatch("[0-9]{1,19}", end) else -1 for end in ends)
        if not 0 <= low <= high < low + MOST_SEEDS or high > checks.SEEDS:
            raise ReuseError(
                f"{text!r} is not a list of seeds. Fix: write 0-2 or 0,3,5; at most {MOST_SEEDS:,} in a row"
            )
        seeds |= dict.fromkeys(range(low, high + 1))
    return list(seeds)


def scratch(paper: str, scale: str, row: str, seed: int) -> Path:
    """Return the path, without a suffix, of what a run keeps until its record stands in the paper's file.

    Raises:
        BadValue: If a name would lead out of the folder.
    """
    return home.path("results", ".scratch", paper, known_scale(scale), row, f"seed{seed}")


def own(paper: str, scale: str, row: str, seed: int) -> Path:
    """Return the path of a record that a reader's own run keeps beside the book's, which stay as they are.

    Raises:
        BadValue: If a name would lead out of the folder.
    """
    return home.path("runs", paper, known_scale(scale), row, f"seed{seed}.json")


def merge(paper: str) -> Path:
    """Take finished records from the scratch folder into the paper's file; of one run, the last to finish is kept.

    Any number of processes may do so at once: a lock file lets them in one by one, and the paper's file is replaced
    as a whole. Where Python has no `fcntl` (Windows) nothing is locked: save from one process at a time there.

    Returns:
        The path of the paper's file.
    """
    path = home.path("results", f"{paper}.jsonl")
    lock = path.parent / ".scratch" / f"{paper}.lock"
    with home.writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = open(lock, "w")
    with held:
        if fcntl is not None:
            fcntl.flock(held, fcntl.LOCK_EX)
        files = _finished(paper)
        if files:
            found = [record for file in (home.results(paper), *files) for record in _read(file, paper)]
            kept = {record.key: record for record in sorted(found, key=lambda record: record.finished)}
            home.write_atomic(path, _lines(kept[key] for key in sorted(kept)))
        for file in files:
            file.unlink()
    return path


def _lines(found: Iterable[Record]) -> bytes:
    return b"".join(_line(record.content()) + b"\n" for record in found)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _finished(paper: str) -> list[Path]:
    return sorted(home.path("results", ".scratch", paper).glob("*/*/seed*.json"))


def known_scale(name: str) -> str:
    """Return the name of a scale unchanged, or raise `UnknownName`."""
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return name


def _read(path: Path, paper: str) -> tuple[Record, ...]:
    if not path.is_file():
        return ()
    stat = path.stat()
    return _parse(path, paper, stat.st_mtime_ns, stat.st_ino, stat.st_size)


@lru_cache(maxsize=64)
def _parse(path: Path, paper: str, *_stamp: int) -> tuple[Record, ...]:
    """Read and check a file of records; its stamp keeps an unchanged one from being parsed again."""
    found: dict[tuple[int, str, int], Record] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = _parse_line(line, paper)
            if found.setdefault(record.key, record) is not record:
                raise ValueError(f"{record.row} seed {record.seed} stands twice")
        except OldSchema as error:
            raise OldSchema(f"{path}, line {number}, {error}. Fix: {_remedy(path)}") from error
        except (TypeError, ValueError, ReuseError) as error:
            raise DamagedFile(path, f"line {number}: {error}", _remedy(path)) from error
    return tuple(found[key] for key in sorted(found))


def _parse_line(line: bytes, paper: str) -> Record:
    """Return the record of a line whose digest and names are right; its numbers were checked when it was written."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise OldSchema(f"has record schema {schema}, this library reads {SCHEMA}")
    # The digest knows numbers, not how they are written: 1e-05 as 1E-05 is an altered line too.
    whole, digest = _line(content), content.pop("digest", None)
    if digest != (found := _digest(content)) or line != whole:
        raise ValueError(f"it was altered (its digest is {digest}, that of its content {found})")
    record = Record(**content)
    if record.paper != paper:
        raise ValueError(f"it is a record of {record.paper}")
    return record


def _remedy(path: Path) -> str:
    return f"git checkout -- {path}, or delete what is wrong, then reuselib run"


def git_state() -> tuple[str, bool | None]:
    """Return the clone's commit and `Record.dirty`, or ("unknown", None)."""
    made = (":(exclude)data/results", ":(exclude)data/pictures")
    try:
        if not home.in_clone():
            return "unknown", None
        changes = _run_git("status", "--porcelain", "--", "reuselib", "data", "requirements.lock", *made).splitlines()
        # A committed network is an input, one that a run has made is not.
        dirty = any(not change.startswith("?? data/zoo/") for change in changes)
        return _run_git("rev-parse", "HEAD").strip(), dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown", None


def _run_git(*arguments: str) -> str:
    command = ["git", "-C", str(home.CLONE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"
