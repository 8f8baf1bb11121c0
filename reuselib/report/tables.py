"""Tables: our records beside the published cells, as text for a terminal and as HTML for a notebook or a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reuselib import home
from reuselib.errors import ReuseError
from reuselib.report.claims import WAITING, badge, decimals, summary, verdicts
from reuselib.report.papers import SCALES, Cited, Column, Opening, Paper, PaperTable, Row, duration, plain, published
from reuselib.report.records import Record, known_scale, records

if TYPE_CHECKING:
    import pandas

SHORT = 34  # longer lines of a cell are prose, which may be broken
WIDE = 110
SECONDS = {"minutes": 60, "seconds": 1}


@dataclass(frozen=True, repr=False, eq=False)
class Table:
    """A table that a terminal prints as text and a notebook or a page shows as HTML.

    Attributes:
        caption: What it shows.
        cells: Text by row label and (group, label) of the column; a cell may have several lines.
        notes: Sentences below.
        raw: Whether the cells are HTML already, the row labels included.
    """

    caption: str
    cells: pandas.DataFrame
    notes: tuple[str, ...] = ()
    raw: bool = False

    @classmethod
    def of(
        cls,
        caption: str,
        heads: Sequence[tuple[str, str]],
        rows: Sequence[Sequence[str]],
        notes: Sequence[str] = (),
        raw: bool = False,
    ) -> Table:
        """Make a table of (group, label) heads and rows of cells; the first column labels the rows."""
        import pandas

        columns = pandas.MultiIndex.from_tuples(heads[1:], names=heads[0])
        cells = pandas.DataFrame([row[1:] for row in rows], [row[0] for row in rows], columns, dtype=object)
        return cls(caption, cells, tuple(notes), raw)

    def __repr__(self) -> str:
        """Return the table as plain text, in parts that a terminal has room for."""
        cells = self._plain().replace("\n", "; ", regex=True)
        text = cells.to_string(justify="left", line_width=WIDE)
        notes = [textwrap.fill(note, WIDE, subsequent_indent="    ") for note in self.notes]
        return "\n".join([self.caption, "", *map(str.rstrip, text.splitlines()), "", *notes]).rstrip()

    def _plain(self) -> pandas.DataFrame:
        """Return the cells, without a level of groups where there are none."""
        return self.cells if any(group for group, _ in self.cells.columns) else self.cells.droplevel(0, axis=1)

    def html(self) -> str:
        """Return the table as HTML with the class `results`, one line a row, for pages that have its style."""
        title = escape(self.caption)
        shown = self._plain().style.set_caption(title).format_index(escape, axis=1)
        if not self.raw:
            shown = shown.format(_lines).format_index(escape)
        lines = shown.to_html(exclude_styles=True, sparse_columns=True).splitlines()
        head, body = "".join(map(str.strip, lines)).replace(" >", ">").split("<tbody>")
        head = re.sub(r"<th\b", '<th scope="col"', re.sub("<th([^>]*)></th>", r"<td\1></td>", head))
        body = re.sub(r"<th\b", '<th scope="row"', body).replace("<tr>", "\n<tr>")
        notes = "".join(f"\n<p>{escape(note)}</p>" for note in self.notes)
        region = f'<div role="region" tabindex="0" aria-label="{title}">'
        return f'<div class="results">{region}{head}<tbody>{body}</div>{notes}</div>'

    def _repr_html_(self) -> str:
        style = home.PACKAGE.joinpath("report", "results.css").read_text("utf-8")
        return f"<style>{style}</style>{self.html()}"


class Absent(str):
    """What a table that has no number yet would show, in sentences; it is shown as a :class:`Table` is.

    Attributes:
        caption: What the table would show.
    """

    caption: str

    @classmethod
    def of(cls, layout: PaperTable, paper: str) -> Absent:
        """Say what is not known of a paper's table, and name its rows."""
        said = ["Not run yet"] if any(each.record for each in layout.columns) else []
        if _unknown(layout):
            said.append(f"No published number was found; one goes into data/papers/{paper}.yaml")
        said.append("; ".join(row.label for row in layout.rows))
        found = cls(" ".join([f"{layout.caption}. {'. '.join(said[:-1])}: {said[-1]}.", layout.note]).rstrip())
        found.caption = layout.caption
        return found

    def __repr__(self) -> str:
        """Return the sentences in lines."""
        return textwrap.fill(self, WIDE)

    def html(self) -> str:
        """Return the sentences as HTML with the class `results`."""
        return f'<div class="results"><p>{escape(self)}</p></div>'

    def _repr_html_(self) -> str:
        return self.html()


def _lines(cell: str) -> str:
    lines = (escape(line) if len(line) <= SHORT else f"<span>{escape(line)}</span>" for line in cell.split("\n"))
    return "<br>".join(lines)


def table(
    paper: str, scale: str | None = "laptop", beside: Any = None, name: str | None = None, known: bool = False
) -> Table | Absent:
    """Set our records beside the published cells.

    Args:
        paper: The paper's name, "dfad".
        scale: Whose records to show. None shows laptop and every larger scale that has records.
        beside: A record, a result that has a `.record`, or a list of either, shown in columns of their own.
        name: Id of the paper's table; the first one without.
        known: Whether to write – for a published number that could not be found, and to leave out empty columns.

    Returns:
        The table, or a sentence where it would have no number. A published value from another source than the table's
        carries a footnote with it. Ours are mean ± standard deviation over seeds with their number, stale records left
        out.
    """
    about, layout = published(paper), published(paper).table(name)
    scales = shown_scales(paper) if scale is None else [known_scale(scale)]
    made = _Columns(about, layout, scales, known)
    for c in layout.columns:
        if mine := [r for r in _as_records(paper, beside) if _falls_into(r, c, layout)]:
            made.add("This run", f"{c.label} ({mine[0].scale} scale)", made.ours, found=mine, empty="–", column=c)
    rows = made.rows()
    lines = (line.partition(" [")[0] for row in rows for cell in row[1:] for line in cell.split("\n"))
    if not set(lines) - {"?", "–", "not run"}:
        return Absent.of(layout, paper)
    if known:
        rows = made.without({"–"}, rows)
    cited_at_all = any(each.value or not known for each in _all_cited(layout))
    below = [f"Published values without a mark: {about.sources[layout.source]}" if cited_at_all else ""]
    below += [layout.note, _signs(rows, known and _unknown(layout))]
    if layout == about.tables[0] and scales[0] == "smoke":
        below.append("The smoke scale shows that the code runs; its numbers say nothing.")
    return made.table(rows, list(filter(None, below)))


def opening(paper: str) -> Table:
    """Return a chapter's small table, the paper's numbers beside ours, with its foremost claims and findings below.

    Args:
        paper: The paper's name, "dfad".

    Returns:
        What ``opening`` in ``data/papers/<paper>.yaml`` names, ours of the largest scale first; columns without a
        number are left out. A claim is judged at the largest scale at which it was run.

    Raises:
        ReuseError: The file has no opening.
    """
    about = published(paper)
    start = _opening(about)
    made = _Columns(about, start.table, shown_scales(paper)[::-1], known=True)
    rows = made.without({"–", "not run"}, made.rows())
    judged = [verdict for scale in SCALES[1:] for verdict in verdicts(paper, scale) if verdict.outcome not in WAITING]
    last = {verdict.claim.id: verdict for verdict in judged}
    below = [last[name].finding() for name in start.claims if name in last]
    below += [f"All of the paper's own claims, laptop scale: {badge(paper)}."]
    below += [_signs(rows, True)] if _unknown(start.table) and any("–" in row for row in rows) else []
    return made.table(rows, below)


class Brief(str):
    """Questions with their answers, a line each: plain text (the string itself), or HTML in a notebook."""

    def __repr__(self) -> str:
        """Return the lines as they are."""
        return str(self)

    def _repr_html_(self) -> str:
        parts = (escape(line).partition("? ") for line in self.splitlines())
        return f'<dl class="brief">{"".join(f"<dt>{asked}?</dt><dd>{said}</dd>" for asked, _, said in parts)}</dl>'


def brief(paper: str) -> Brief:
    """Return a chapter's answers at a glance: does it hold, by how much, at what cost.

    Args:
        paper: The paper's name, "dfad".

    Returns:
        The verdicts on the paper's own claims, counted; the means of the method, its first rival, floor and ceiling in
        the first column of the opening that has the method and two rows more, of the largest scale first; and what
        the method cost in the same runs.

    Raises:
        ReuseError: The file has no opening.
    """
    layout = _opening(published(paper)).table
    method, answers = layout.rows[0].label, [f"Does it hold? Of the paper's own claims: {badge(paper)}."]
    every = ((column, at) for at in shown_scales(paper)[::-1] for column in layout.columns if at in column.scales)
    found = ((column, at, _means(paper, at, column, layout)) for column, at in every)
    for shown, scale, means in [each for each in found if method in each[2] and len(each[2]) > 2][:1]:
        ends = [label for label in means if label.endswith(("(floor)", "(ceiling)"))]
        labels = [method, *[label for label in means if label not in (method, *ends)][:1], *ends]
        far = "; ".join(f"{each}: {plain(means[each], decimals(means[each], shown.digits))}" for each in labels)
        answers.append(f"By how much? {layout.caption}, {shown.label}. {far}.")
        for column in layout.columns:
            unit, _, words = column.label.partition(" ")
            same_runs = replace(column, record=shown.record, swap=shown.swap)
            cost = _means(paper, scale, same_runs, layout) if unit in SECONDS else {}
            if method in cost and len(answers) < 3:
                of = words.partition(",")[0]
                answers.append(f"At what cost? {duration(cost[method] * SECONDS[unit])} {of}".rstrip() + ".")
    return Brief("\n".join(answers))


def _means(paper: str, scale: str, column: Column, layout: PaperTable) -> dict[str, float]:
    """Return the mean of every row of a column that has records, by its label."""
    fresh = [record for record in records(paper, scale) if not record.stale]
    found = {row.label: _values(row, column, fresh) for row in layout.rows}
    return {label: fmean(values) for label, values in found.items() if values}


def _values(row: Row, column: Column, found: Sequence[Record]) -> list[float]:
    """Return the numbers of a cell, one a record."""
    name, metric = column.of(row.id)
    return [column.times * record.value(metric) for record in found if record.row == name and record.has(metric)]


def _opening(about: Paper) -> Opening:
    if about.opening is None:
        where = f"data/papers/{about.name}.yaml"
        raise ReuseError(f"{where} has no opening. Fix: add one, as reuselib/schemas/paper.json says")
    return about.opening


class _Columns:
    """A table's published columns, then ours of each scale, and the footnotes of their cells."""

    def __init__(self, about: Paper, layout: PaperTable, scales: Sequence[str], known: bool) -> None:
        self.about, self.layout, self.known = about, layout, known
        self.heads = [("", layout.header)]
        self.cells: list[Callable[[Row], str]] = []
        self.footnotes: dict[str, int] = {}
        for column in layout.columns:
            if column.id:
                self.add(column.group, column.label, self.cited, column=column)
        for at in scales:
            found = records(about.name, at)
            for column in layout.columns:
                if at in column.scales:
                    group = f"{column.group or 'Ours'}, {at} scale, mean ± sd (n)"
                    self.add(group, column.label, self.ours, column=column, found=found, empty="not run")

    def add(self, group: str, label: str, cell: Callable[..., str], **about: Any) -> None:
        """Add a column by its head and what gives the cell of a row."""
        self.heads.append((group, label))
        self.cells.append(partial(cell, **about))

    def rows(self) -> list[list[str]]:
        """Return the cells of all rows, their labels first."""
        return [[row.label, *(cell(row) for cell in self.cells)] for row in self.layout.rows]

    def without(self, empty: set[str], rows: list[list[str]]) -> list[list[str]]:
        """Return the rows without the columns in which nothing stands but what is called empty, which are dropped."""
        full = [k for k, column in enumerate(zip(*rows, strict=True)) if k == 0 or set(column) - empty]
        self.heads = [self.heads[k] for k in full]
        return [[row[k] for k in full] for row in rows]

    def table(self, rows: list[list[str]], notes: list[str]) -> Table:
        """Return the table of these rows, with its footnotes below the notes."""
        footnotes = [f"[{number}] {text}" for text, number in self.footnotes.items()]
        return Table.of(self.layout.caption, self.heads, rows, notes + footnotes)

    def mark(self, text: str) -> str:
        """Return the mark of a footnote, "[1]"; the same text gets the same number."""
        return f" [{self.footnotes.setdefault(text, len(self.footnotes) + 1)}]"

    def cited(self, row: Row, column: Column) -> str:
        """Return a published cell, a line for each source, marked where it is not the table's."""
        lines = []
        for each in row.published.get(column.id, ()):
            if self.known and each.value is None:
                continue
            source = self.about.sources[each.source] + (f" Here: {each.note}." if each.note else "")
            note = self.mark(source) if each.note or each.source != self.layout.source else ""
            setting = f"{each.setting}: " if each.setting else ""
            lines.append(f"{setting}{each.times(column.times) or '?'}{note}")
        return "\n".join(lines or ["–"])

    def ours(self, row: Row, column: Column, found: list[Record], empty: str) -> str:
        """Return mean ± sd (n) of a row's records, marked where some are stale or differ in settings."""
        name, _ = column.of(row.id)
        mine = [record for record in found if record.row == name]
        fresh = [record for record in mine if not record.stale]
        marks = ""
        if len(fresh) < len(mine):
            stale = ", ".join(str(record.seed) for record in mine if record not in fresh)
            marks += self.mark(f"Stale, made by another version and left out: {name}, seed {stale}.")
        if any(record.settings != fresh[0].settings for record in fresh):
            marks += self.mark(f"The seeds of {name} differ in configuration.")
        values = _values(row, column, fresh)
        return (summary(values).show(column.digits) if values else "–" if fresh else "stale" if mine else empty) + marks


def shown_scales(paper: str) -> list[str]:
    """Return laptop and every larger scale that has records: smoke proves nothing but that the code runs."""
    present = {record.scale for record in records(paper)} | {"laptop"}
    return [scale for scale in SCALES[1:] if scale in present]


def _as_records(paper: str, beside: Any) -> list[Record]:
    several = beside if isinstance(beside, list | tuple) else [] if beside is None else [beside]
    live: list[Any] = [item if isinstance(item, Record) else getattr(item, "record", None) for item in several]
    for record in live:
        if not isinstance(record, Record) or record.paper != paper:
            what = f"a record of {record.paper}" if isinstance(record, Record) else "what is no record of a run"
            raise ReuseError(f"beside holds {what}, the table is of {paper}. Fix: give what study.run(...) returned")
    return live


def _falls_into(record: Record, column: Column, layout: PaperTable) -> bool:
    """Return whether a column shows the record; columns of cost are left out."""
    metrics = dict(column.of(row.id) for row in layout.rows)
    return record.scale in column.scales and metrics.get(record.row) in record.metrics


def _all_cited(layout: PaperTable) -> list[Cited]:
    return [each for row in layout.rows for cell in row.published.values() for each in cell]


def _unknown(layout: PaperTable) -> bool:
    """Return whether a published number of the table could not be found."""
    return any(each.value is None for each in _all_cited(layout))


def _signs(rows: Sequence[Sequence[str]], hidden: bool = False) -> str:
    """Return what the signs that occur in a table mean; whether – also stands for numbers that are not known."""
    lines = [line for row in rows for cell in row[1:] for line in cell.split("\n")]
    unknown = "? a published number that could not be found. " if any("?" in line for line in lines) else ""
    nothing = f"– no such number{', or a published one that could not be found' if hidden else ''}."
    return unknown + (nothing if "–" in lines else "")
