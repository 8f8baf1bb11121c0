"""Set our records beside the published cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from reuselib.errors import ReuseError
from reuselib.report.claims import summary, verdicts
from reuselib.report.papers import SCALES, Column, Paper, PaperTable, Row, published
from reuselib.report.records import Record, known_scale, records
from reuselib.report.rendering import Cell, Footnotes, Table


def table(chapter: str, scale: str | None = "laptop", beside: Any = None, name: str | None = None) -> Table:
    """Set our records beside the published cells.

    Args:
        chapter: The chapter's name, "dfad".
        scale: Whose records to show. None shows laptop and every larger scale that has records.
        beside: A record, a run that has a `.record`, or a list of either, shown in columns of their own.
        name: Id of the chapter's table; the first one without.

    Returns:
        The table. A published value from another source than the table's carries a footnote with it. Ours are
        mean ± standard deviation over seeds with their number, stale records left out.
    """
    paper, layout = published(chapter), published(chapter).table(name)
    scales = shown_scales(chapter) if scale is None else [known_scale(scale)]
    notes = Footnotes()
    columns = _published_columns(paper, layout, notes)
    for at in scales:
        columns += _our_columns(layout, at, records(chapter, at), notes)
    columns += _live_columns(layout, _as_records(chapter, beside), notes)
    heads = (("", layout.header), *((group, label) for group, label, _ in columns))
    rows = tuple((Cell(row.label), *(cell(row) for _, _, cell in columns)) for row in layout.rows)
    cited = any(row.published for row in layout.rows)
    source = f"Published values without a mark: {paper.sources[layout.source]}" if cited else ""
    below = [source, layout.note, _signs(rows)]
    if layout == paper.tables[0]:
        below += _verdict_lines(chapter, scales[0])
    return Table(layout.caption, heads, rows, (*filter(None, below), *notes.lines()))


def shown_scales(chapter: str) -> list[str]:
    """Return laptop and every larger scale that has records: smoke proves nothing but that the code runs."""
    present = {record.scale for record in records(chapter)} | {"laptop"}
    return [scale for scale in SCALES[1:] if scale in present]


def _as_records(chapter: str, beside: Any) -> list[Record]:
    several = beside if isinstance(beside, list | tuple) else [] if beside is None else [beside]
    live = [item if isinstance(item, Record) else item.record for item in several]
    for record in live:
        if record.paper != chapter:
            raise ReuseError(f"beside holds a record of {record.paper}, the table is of {chapter}")
    return live


# A column as it is shown: its group, its label, and the cell that it has in a row.
Shown = tuple[str, str, Callable[[Row], Cell]]


def _published_columns(paper: Paper, layout: PaperTable, notes: Footnotes) -> list[Shown]:
    def cell(row: Row, column: Column) -> Cell:
        lines, titles = [], []
        for cited in row.published.get(column.id, ()):
            source = paper.sources[cited.source] + (f" Here: {cited.note}." if cited.note else "")
            mark = f" {notes.mark(source)}" if cited.note or cited.source != layout.source else ""
            setting = f"{cited.setting}: " if cited.setting else ""
            lines.append(f"{setting}{'?' if cited.value is None else cited.value}{mark}")
            titles.append(source)
        return Cell(*(lines or ["–"]), title=" ".join(dict.fromkeys(titles)))

    return [(c.group, c.label, partial(cell, column=c)) for c in layout.columns if c.id]


def _our_columns(layout: PaperTable, scale: str, found: list[Record], notes: Footnotes) -> list[Shown]:
    return [
        (
            f"{column.group or 'Ours'}, {scale} scale, mean ± sd (n)",
            column.label,
            partial(_our_cell, column=column, found=found, notes=notes, empty="not run"),
        )
        for column in layout.columns
        if scale in column.scales
    ]


def _live_columns(layout: PaperTable, live: list[Record], notes: Footnotes) -> list[Shown]:
    """Return one column for each of ours that a live record falls into; columns of cost are left out."""
    shown: list[Shown] = []
    for column in layout.columns:
        metrics = {_row_of(column, row): _metric_of(column, row) for row in layout.rows}
        mine = [r for r in live if r.scale in column.scales and metrics.get(r.row) in r.metrics]
        if mine:
            cell = partial(_our_cell, column=column, found=mine, notes=notes, empty="–")
            shown.append(("This run", f"{column.label} ({mine[0].scale} scale)", cell))
    return shown


def _row_of(column: Column, row: Row) -> str:
    return column.record.replace("{row}", row.id)


def _metric_of(column: Column, row: Row) -> str:
    return column.metric.replace("{row}", row.id)


def _our_cell(row: Row, column: Column, found: list[Record], notes: Footnotes, empty: str) -> Cell:
    """Return mean ± sd (n) of a row's records, marked where some are stale or differ in configuration."""
    name, metric = _row_of(column, row), _metric_of(column, row)
    mine = [record for record in found if record.row == name]
    fresh = [record for record in mine if not record.stale]
    marks = ""
    if stale := [str(record.seed) for record in mine if record.stale]:
        seeds = f"{name}, seed {', '.join(stale)}"
        marks += " " + notes.mark(f"Stale, made by another version and left out: {seeds}.")
    if any(record.settings != fresh[0].settings for record in fresh):
        marks += " " + notes.mark(f"The seeds of {name} differ in configuration.")
    values = [column.times * record.value(metric) for record in fresh if record.has(metric)]
    if values:
        return Cell(summary(values).show(column.digits) + marks, title=f"{name}, {metric}")
    return Cell(("–" if fresh else "stale" if mine else empty) + marks)


def _signs(rows: tuple[tuple[Cell, ...], ...]) -> str:
    """Return what the signs that occur in a table mean."""
    lines = [line for row in rows for cell in row[1:] for line in cell]
    unknown = "? a published number that could not be found. " if any("?" in line for line in lines) else ""
    return unknown + ("– no such number." if "–" in lines else "")


def _verdict_lines(chapter: str, scale: str) -> list[str]:
    if scale == "smoke":
        return ["The smoke scale shows that the code runs; its numbers say nothing."]
    return [str(verdict) for verdict in verdicts(chapter, scale)]
