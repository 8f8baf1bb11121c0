"""What was published: tables with their sources, and claims with the rules that test them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from reuselib import checks, home
from reuselib.errors import DamagedFile, ReuseError, unknown

SCALES = ("smoke", "laptop", "colab", "paper")


def plain(value: float, digits: int | None = None) -> str:
    """Return a number with a true minus sign, in as few digits as it needs or in `digits` decimals."""
    text = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    return text.replace("-", "−" if float(text) else "")


def duration(seconds: float) -> str:
    """Return a time in the unit that fits it, in two digits or so: "< 1 s", "2.7 s", "15 min", "26 h"."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return "< 1 s"


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

    def times(self, power: float) -> str | None:
        """Return the cell with its numbers times a power of ten: "0.983 ± 0.002" as "98.3 ± 0.2"."""
        shift = round(math.log10(power))
        numbers = re.compile(r"(?<![\d,])\d*\.?\d+")  # the thousands of "7,057" are no number of their own
        return numbers.sub(lambda n: f"{Decimal(n[0]).scaleb(shift):f}", self.value) if self.value else None


@dataclass(frozen=True)
class Column:
    """A column of a table: published cells if it has an `id`, else our records.

    `record` and `metric` name the record's row and its number; `{row}` in them stands for the table's row, in which
    the first word of `swap` becomes the second.
    """

    label: str
    id: str = ""
    group: str = ""
    record: str = ""
    metric: str = ""
    scales: tuple[str, ...] = ()
    times: float = 1.0
    digits: int = 3
    swap: tuple[str, str] = ("", "")

    @property
    def is_method(self) -> bool:
        """Whether the table's rows are tasks ("{row}-kd"), so that the column stands for a method."""
        return re.match(r"[^-]*\{row\}[^-]*-", self.record) is not None

    def of(self, row: str) -> tuple[str, str]:
        """Return the record's row and the metric that a row of the table shows."""
        row = row.replace(*self.swap)
        return self.record.replace("{row}", row), self.metric.replace("{row}", row)


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
class Opening:
    """What a chapter's first screen takes from the records: a small table and the ids of the foremost claims."""

    table: PaperTable
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """One part of a claim's rule: over common seeds, mean(left − factor · right) ≥ at_least.

    `left` and `right` are rows of the records; `right` may be a constant. `written` is the day of one that was added to
    an older claim.
    """

    left: str
    metric: str
    at_least: float
    right: str | float = 0.0
    factor: float = 1.0
    scale: str = "laptop"
    written: str = ""

    def __post_init__(self) -> None:
        """Refuse margins that nothing can be held against."""
        right = 0.0 if isinstance(self.right, str) else self.right
        checks.number(-math.inf, right=right, factor=self.factor, at_least=self.at_least)

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

    @property
    def whose(self) -> str:
        """ "paper" for what the paper says or shows, "ours" for a question of our own."""
        return "ours" if self.source == "ours" else "paper"

    def at(self, scale: str) -> tuple[Condition, ...]:
        """Return the conditions at a scale."""
        return tuple(condition for condition in self.conditions if condition.scale == scale)

    def since(self, scale: str) -> str:
        """Return the day on which the rule at a scale was written."""
        return max((condition.written or self.written for condition in self.at(scale)), default=self.written)


@dataclass(frozen=True)
class Paper:
    """What `data/papers/<name>.yaml` holds.

    Attributes:
        name: The paper's name in this library, "dfad".
        chapter: The number of its chapter in the book.
        title, citation: Of the paper.
        version: Behaviour version of its study; records of another one are stale.
        interval: The day on which the rule of 95 % intervals was added to the rules of the claims.
        sources: What cells and claims cite, in words.
        tables, claims: In the order of the file.
        words: What tasks and metrics are called where their names would not be understood; "cells-" is the task, where
            there is a metric of that name, too.
        opening: Of its chapter.
    """

    name: str
    chapter: int
    title: str
    citation: str
    version: int
    interval: str
    sources: dict[str, str]
    tables: tuple[PaperTable, ...]
    claims: tuple[Claim, ...]
    words: dict[str, str] = field(default_factory=dict)
    opening: Opening | None = None

    def table(self, name: str | None = None) -> PaperTable:
        """Return a table by its id, the first one without."""
        tables = {table.id: table for table in self.tables}
        if name is not None and name not in tables:
            raise unknown(f"table of {self.name}", name, tables)
        return tables[name] if name else self.tables[0]

    def of(self, scale: str) -> tuple[Claim, ...]:
        """Return the claims that a scale can be asked about: those of larger scales alone are left out."""
        asked = {"laptop", scale}
        return tuple(c for c in self.claims if not c.conditions or asked & {each.scale for each in c.conditions})

    def label(self, row: str) -> tuple[str, str]:
        """Return what the method and the task of a row of the records are called."""
        tasks = [name.rstrip("-") for name in self.words]
        task = max((name for name in tasks if row.startswith(f"{name}-")), key=len, default=row.partition("-")[0])
        method = row.removeprefix(task).removeprefix("-")
        places = [(c, r) for table in self.tables for c in table.columns if "{row}" in c.record for r in table.rows]
        labels = {c.is_method: c.label if c.is_method else r.label for c, r in reversed(places) if c.of(r.id)[0] == row}
        found = self.words.get(method) or labels.get(False) or labels.get(True) or method or row  # a row's own first
        found = re.sub(r"^\d+, ", "", found)  # a table's K, which the words for the task give
        return found, self.words.get(f"{task}-") or self.words.get(task, task if method else "")

    def rows(self) -> set[str]:
        """Return every row of the records that a table or a claim names."""
        shown = {c.of(row.id)[0] for table in self.tables for c in table.columns for row in table.rows if c.record}
        sides = [side for claim in self.claims for each in claim.conditions for side in (each.left, each.right)]
        return shown.union(side for side in sides if isinstance(side, str))


def titles() -> dict[str, str]:
    """Return the papers' titles by name, in the book's order; only the heads of their files are read."""
    heads = sorted((_head(path), path.stem) for path in _folder().glob("*.yaml"))
    return {name: title for (_, title), name in heads}


def names() -> list[str]:
    """Return the papers, in the book's order."""
    return list(titles())


def _head(path: Path) -> tuple[int, str]:
    import yaml

    try:
        head = yaml.safe_load(path.read_text("utf-8").partition("\n\n")[0])
        return int(head["chapter"]), str(head["title"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return published(path.stem).chapter, published(path.stem).title


def published(paper: str) -> Paper:
    """Read a paper's published tables and claims.

    Raises:
        UnknownName: If there is no such paper.
        DamagedFile: If its file does not follow `reuselib/schemas/paper.json`, or is not as it is registered.
    """
    file = f"{paper}.yaml"
    path = _folder() / file
    if path.name != file or not path.is_file():
        raise unknown("paper", paper, (other.stem for other in _folder().glob("*.yaml")))
    stat = path.stat()
    return _parse(path, stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _folder() -> Path:
    folder = home.path("papers")
    return folder if folder.is_dir() else home.brought() / "papers"


def validate(content: Any, schema: str, path: Path, fix: str) -> None:
    """Raise `DamagedFile` with the place and the kind of the first deviation from a schema of this package."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(schema).iter_errors(content))
    if error is not None:
        raise DamagedFile(path, f"{error.json_path}: {error.message}", fix)


@cache
def _validator(schema: str) -> Any:
    # jsonschema is slow to import, and only writing a record and reading a paper need it.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads((home.PACKAGE / "schemas" / f"{schema}.json").read_text("utf-8")))


@lru_cache(maxsize=64)
def _parse(path: Path, *_stamp: int) -> Paper:
    """Read and check one paper's file; its stamp keeps an unchanged file from being parsed again."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [str(key.value) for key, _ in node.value]
            if twice := {key for key in keys if keys.count(key) > 1}:
                raise yaml.constructor.ConstructorError(None, None, f"{twice} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    if registered := home.registry().get(f"papers/{path.name}"):
        home.verify(path, registered, f"git checkout -- {path}; if the change is meant, python -m reuselib.home")
    fix = "follow reuselib/schemas/paper.json; published cells are quoted, so that 0.940 keeps its zero"
    try:
        content = yaml.load(path.read_bytes(), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedFile(path, f"not valid YAML ({error})", fix) from error
    if not registered:  # what is registered was valid, and the validator takes seconds to import
        validate(content, "paper", path, fix)
    try:
        tables = tuple(_table(**table) for table in content.pop("tables"))
        claims = tuple(_claim(**claim) for claim in content.pop("claims"))
        start = _opening(tables, **content.pop("opening")) if "opening" in content else None
        paper = Paper(name=path.stem, **content, tables=tables, claims=claims, opening=start)
        _check_names(paper)
    except ReuseError as error:
        raise DamagedFile(path, str(error), fix) from error
    return paper


def _claim(conditions: list[dict[str, Any]], **claim: Any) -> Claim:
    return Claim(**claim, conditions=tuple(Condition(**condition) for condition in conditions))


def _table(columns: list[dict[str, Any]], rows: list[dict[str, Any]], **table: Any) -> PaperTable:
    laid = tuple(Column(**{**column, "scales": tuple(column.get("scales", ()))}) for column in columns)
    ids = [column.id for column in laid if column.id]
    found = []
    for row in rows:
        cells = row.get("published", {})
        if isinstance(cells, list):
            if len(cells) != len(ids):
                raise ReuseError(f"row {row['id']} has {len(cells)} cells for {len(ids)} published columns")
            cells = dict(zip(ids, cells, strict=True))
        source = row.get("source", table["source"])
        found.append(Row(row["id"], row["label"], {name: _cited(cell, source) for name, cell in cells.items()}))
    return PaperTable(**table, columns=laid, rows=tuple(found))


def _opening(tables: Iterable[PaperTable], of: str, rows: dict[str, Any], claims: list[str], **table: Any) -> Opening:
    """Lay out an opening's table; published cells are the table's that it is `of`, or where a row says."""
    named = {table.id: table for table in tables}
    _known("table in the opening", [of], named)
    cells = {row.id: row.published for row in named[of].rows}
    for row, about in rows.items():
        for column, place in about.get("published", {}).items() if isinstance(about, dict) else ():
            cells[row] = {**cells.get(row, {}), column: _cells_at(named, *place)}
    laid = [{"id": row, "label": about if isinstance(about, str) else about["label"]} for row, about in rows.items()]
    shown = _table(rows=laid, **{"id": "opening", "source": named[of].source, "header": "", **table})
    rows_with_cells = tuple(replace(row, published=cells.get(row.id, {})) for row in shown.rows)
    return Opening(replace(shown, rows=rows_with_cells), tuple(claims))


def _cells_at(tables: Mapping[str, PaperTable], name: str, row: str, column: str) -> tuple[Cited, ...]:
    """Return a published cell by the ids of its table, row and column."""
    _known("table in the opening", [name], tables)
    rows = {each.id: each.published for each in tables[name].rows}
    _known(f"row of {name} in the opening", [row], rows)
    _known(f"column of {name} in the opening", [column], rows[row])
    return rows[row][column]


def _cited(cell: Any, source: str) -> tuple[Cited, ...]:
    """Return a cell's sources: a cell is a string, null, a mapping, or a list of those."""
    entries = cell if isinstance(cell, list) else [cell]
    return tuple(Cited(**{"source": source, **(e if isinstance(e, dict) else {"value": e})}) for e in entries)


def _check_names(paper: Paper) -> None:
    """Raise if a name is not one that the file declares, or an id stands twice."""
    cited = [claim.source for claim in paper.claims] + [table.source for table in paper.tables]
    groups = [[table.id for table in paper.tables], [claim.id for claim in paper.claims]]
    for table in paper.tables:
        columns = [column.id for column in table.columns if column.id]
        groups += [columns, [row.id for row in table.rows]]
        for row in table.rows:
            _known(f"column in row {row.id} of table {table.id}", row.published, columns)
            cited += [each.source for cell in row.published.values() for each in cell]
    _known("source", cited, paper.sources)
    _known("claim in the opening", paper.opening.claims if paper.opening else (), groups[1])
    for ids in groups:
        if len(set(ids)) < len(ids):
            raise ReuseError(f"an id stands twice among {', '.join(ids)}")


def _known(kind: str, names: Iterable[str], options: Collection[str]) -> None:
    for name in names:
        if name not in options:
            raise unknown(kind, name, options)
