"""What was published: tables with their sources, and claims with the rules that test them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reuselib import home
from reuselib.errors import DamagedFile, ReuseError, unknown
from reuselib.report.rendering import plain
from reuselib.report.schema import validate

SCALES = ("smoke", "laptop", "colab", "paper")


@dataclass(frozen=True)
class Cited:
    """A published cell as one source prints it; `value` is None where the number could not be found."""

    value: str | None
    source: str
    setting: str = ""
    note: str = ""

    @property
    def number(self) -> float | None:
        """The number that the cell begins with, None without one ("FAILED", unknown)."""
        found = re.match(r"[-−]?\d*\.?\d+", self.value or "")
        return float(found[0].replace("−", "-")) if found else None


@dataclass(frozen=True)
class Column:
    """A column of a table: published cells if it has an `id`, else our records.

    `record` and `metric` name the record's row and its number; `{row}` in them stands for the table's row.
    """

    label: str
    id: str = ""
    group: str = ""
    record: str = ""
    metric: str = ""
    scales: tuple[str, ...] = ()
    times: float = 1.0
    digits: int = 3


@dataclass(frozen=True)
class Row:
    """A row of a published table: its cells by column id, each with every source that gives it."""

    id: str
    label: str
    published: dict[str, tuple[Cited, ...]]


@dataclass(frozen=True)
class PaperTable:
    """The layout of a table and its published cells."""

    id: str
    caption: str
    source: str
    header: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Condition:
    """One part of a claim's rule: over common seeds, mean(left − factor · right) ≥ at_least.

    `left` and `right` are rows of the records; `right` may be a constant.
    """

    left: str
    metric: str
    at_least: float
    right: str | float = 0.0
    factor: float = 1.0
    scale: str = "laptop"

    def __str__(self) -> str:
        """Return the rule in words."""
        if not isinstance(self.right, str):
            return f"{self.metric}: {self.left} ≥ {plain(self.factor * self.right + self.at_least)}"
        factor = "" if self.factor == 1 else f"{plain(self.factor)} × "
        return f"{self.metric}: {self.left} − {factor}{self.right} ≥ {plain(self.at_least)}"


@dataclass(frozen=True)
class Claim:
    """A testable sentence of the paper, with the rule that was written before its result."""

    id: str
    text: str
    source: str
    written: str
    conditions: tuple[Condition, ...]
    seeds: int = 3
    note: str = ""
    tried: str = ""

    def rule(self, scale: str = "laptop") -> str:
        """Return the rule at a scale in words."""
        conditions = [str(condition) for condition in self.conditions if condition.scale == scale]
        if not conditions:
            return self.note or f"No rule at the {scale} scale."
        return f"{'; '.join(conditions)}. Mean over at least {self.seeds} paired seeds."


@dataclass(frozen=True)
class Paper:
    """What `data/papers/<chapter>.yaml` holds."""

    chapter: str
    title: str
    paper: str
    version: int
    sources: dict[str, str]
    tables: tuple[PaperTable, ...]
    claims: tuple[Claim, ...]

    def table(self, name: str | None = None) -> PaperTable:
        """Return a table by its id, the first one without."""
        tables = {table.id: table for table in self.tables}
        if name is not None and name not in tables:
            raise unknown(f"table of {self.chapter}", name, tables)
        return tables[name] if name else self.tables[0]


def chapters() -> list[str]:
    """Return the chapters that have published tables, in the book's order."""
    if home.in_clone():
        return sorted(path.stem for path in _papers_folder().glob("*.yaml"))
    return sorted(Path(name).stem for name in home.registry() if name.startswith("papers/"))


def published(chapter: str) -> Paper:
    """Read a chapter's published tables and claims.

    Raises:
        UnknownName: If there is no such chapter.
        DamagedFile: If its file does not follow `reuselib/schemas/paper.json`.
    """
    if chapter not in chapters():
        raise unknown("chapter", chapter, chapters())
    name = f"{chapter}.yaml"
    path = _papers_folder() / name if home.in_clone() else home.shipped(f"papers/{name}")
    stat = path.stat()
    return _parse_paper(path, stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _papers_folder() -> Path:
    folder = home.path("papers")
    return folder if folder.is_dir() else home.CLONE / "data" / "papers"


@lru_cache(maxsize=64)
def _parse_paper(path: Path, *_stamp: int) -> Paper:
    """Read and check one paper's file; its stamp keeps an unchanged file from being parsed again."""
    import yaml

    fix = "follow reuselib/schemas/paper.json; published cells are quoted, so that 0.940 keeps its zero"
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedFile(path, f"not valid YAML ({error})", fix) from error
    validate(content, "paper", path, fix)
    try:
        tables = tuple(_paper_table(table) for table in content.pop("tables"))
        claims = tuple(_claim(claim) for claim in content.pop("claims"))
        paper = Paper(**content, tables=tables, claims=claims)
        _check_names(paper, path.stem)
    except ReuseError as error:
        raise DamagedFile(path, str(error), fix) from error
    return paper


def _claim(claim: dict[str, Any]) -> Claim:
    conditions = tuple(Condition(**condition) for condition in claim.pop("conditions"))
    return Claim(**claim, conditions=conditions)


def _paper_table(table: dict[str, Any]) -> PaperTable:
    columns = tuple(Column(**{**c, "scales": tuple(c.get("scales", ()))}) for c in table.pop("columns"))
    ids = [column.id for column in columns if column.id]
    rows = []
    for row in table.pop("rows"):
        cells = row.get("published", {})
        if isinstance(cells, list):
            if len(cells) != len(ids):
                raise ReuseError(f"row {row['id']} has {len(cells)} cells for {len(ids)} published columns")
            cells = dict(zip(ids, cells, strict=True))
        source = row.get("source", table["source"])
        rows.append(Row(row["id"], row["label"], {name: _cited(cell, source) for name, cell in cells.items()}))
    return PaperTable(**table, columns=columns, rows=tuple(rows))


def _cited(cell: Any, source: str) -> tuple[Cited, ...]:
    """Return a cell's sources: a cell is a string, null, a mapping, or a list of those."""
    entries = cell if isinstance(cell, list) else [cell]
    return tuple(Cited(**{"source": source, **(e if isinstance(e, dict) else {"value": e})}) for e in entries)


def _check_names(paper: Paper, stem: str) -> None:
    """Raise if a name is not one that the file declares, or an id stands twice."""
    _known("chapter", [paper.chapter], [stem])
    _known("source", [claim.source for claim in paper.claims], paper.sources)
    for table in paper.tables:
        _known("source", [table.source], paper.sources)
        columns = [column.id for column in table.columns if column.id]
        for row in table.rows:
            _known(f"column in row {row.id} of table {table.id}", row.published, columns)
            for cell in row.published.values():
                _known("source", [cited.source for cited in cell], paper.sources)
        _unique([row.id for row in table.rows])
        _unique(columns)
    _unique([table.id for table in paper.tables])
    _unique([claim.id for claim in paper.claims])


def _known(kind: str, names: Iterable[str], options: Collection[str]) -> None:
    for name in names:
        if name not in options:
            raise unknown(kind, name, options)


def _unique(ids: list[str]) -> None:
    if len(set(ids)) < len(ids):
        raise ReuseError(f"an id stands twice among {', '.join(ids)}")
