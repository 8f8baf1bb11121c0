"""Tables as aligned text for a terminal and as HTML for a notebook or a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, zip_longest

# Borders take the colour of the text, so that the table is as readable on a dark page as on a light one.
STYLE = "text-align:left;vertical-align:top;padding:.2em .7em .2em 0;border-bottom:1px solid currentColor"
BOX = "overflow-x:auto;margin:1em 0 .5em"
WHOLE = "border-collapse:collapse;font-size:.85em;font-variant-numeric:tabular-nums;color:inherit"
# Short lines are broken only before ±, long ones are prose.
SHORT = 34


def plain(value: float, digits: int | None = None) -> str:
    """Return a number with a true minus sign, in as few digits as it needs or in `digits` decimals."""
    return (f"{value:g}" if digits is None else f"{value:.{digits}f}").replace("-", "−")


class Cell(tuple[str, ...]):
    """The lines of a table's cell, with a tooltip."""

    title: str

    def __new__(cls, *lines: str, title: str = "") -> Cell:
        """Make a cell of zero or more lines."""
        cell = super().__new__(cls, lines)
        cell.title = title
        return cell


@dataclass(frozen=True)
class Table:
    """A table that a terminal prints as text and a notebook or a page as HTML.

    `columns` are (group, label) pairs, the first one heads the rows; `notes` stand below.
    """

    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table as aligned plain text."""
        heads = self._heads()
        columns = zip(heads, *self.rows, strict=True)
        widths = [max(len(line) for cell in column for line in cell) for column in columns]
        rule = "  ".join("─" * width for width in widths)
        body = [line for row in self.rows for line in _aligned(row, widths)]
        width = min(max(72, len(rule)), 110)
        notes = [textwrap.fill(note, width, subsequent_indent="    ") for note in self.notes]
        return "\n".join([self.caption, "", *_aligned(heads, widths), rule, *body, rule, *notes])

    def _heads(self) -> tuple[Cell, ...]:
        """Return the column heads for text, each group named above its first column."""
        groups = [group for group, _ in self.columns]
        firsts = [group if group not in groups[:index] else "" for index, group in enumerate(groups)]
        above = [textwrap.wrap(first, 18) for first in firsts]
        labels = [textwrap.wrap(label, 18) for _, label in self.columns]
        height = max(map(len, above)) + max(map(len, labels))
        pairs = zip(above, labels, strict=True)
        return tuple(Cell(*a, *[""] * (height - len(a) - len(b)), *b) for a, b in pairs)

    def _repr_html_(self) -> str:
        heads = [_html('th scope="row"', row[0]) for row in self.rows]
        cells = ["".join(_html("td", cell) for cell in row[1:]) for row in self.rows]
        rows = "".join(f"<tr>{head}{rest}</tr>" for head, rest in zip(heads, cells, strict=True))
        title = escape(self.caption)
        notes = "".join(f'<p style="font-size:.85em;margin:.2em 0">{escape(note)}</p>' for note in self.notes)
        return (
            f'<div role="region" tabindex="0" aria-label="{title}" style="{BOX}"><table style="{WHOLE}">'
            f'<caption style="{STYLE};caption-side:top;font-weight:bold;color:inherit">{title}</caption>'
            f"<thead>{self._html_heads()}</thead><tbody>{rows}</tbody></table></div>{notes}"
        )

    def _html_heads(self) -> str:
        """Return one head row, or two where columns have groups."""
        grouped, upper, lower = any(group for group, _ in self.columns), "", ""
        for group, columns in groupby(self.columns, key=lambda column: column[0]):
            labels = [escape(label) for _, label in columns]
            heads = "".join(f'<th scope="col" style="{STYLE}">{label}</th>' for label in labels)
            if group:
                upper += f'<th scope="colgroup" colspan="{len(labels)}" style="{STYLE}">{escape(group)}</th>'
                lower += heads
            else:
                upper += heads.replace("<th ", '<th rowspan="2" ') if grouped else heads
        return f"<tr>{upper}</tr>" + (f"<tr>{lower}</tr>" if lower else "")


def _html(tag: str, cell: Cell) -> str:
    """Return a cell as HTML, its lines one below the other."""
    whole = tag == "td" and all(len(line) <= SHORT for line in cell)
    style = STYLE + (";white-space:nowrap" if whole else "") + ("" if tag == "td" else ";font-weight:normal")
    title = f' title="{escape(cell.title)}"' if cell.title else ""
    text = "<br>".join(escape(line).replace(" ±", " <wbr>±") for line in cell)
    return f'<{tag} style="{style}"{title}>{text}</{tag[:2]}>'


def _aligned(row: Sequence[Cell], widths: Sequence[int]) -> list[str]:
    """Return a row's text lines, its cells padded to the widths."""
    lines = zip_longest(*row, fillvalue="")
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


class Footnotes:
    """Numbered notes; the same text gets the same number."""

    def __init__(self) -> None:
        """Start with no notes."""
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the mark of a note, "[1]", adding the note when it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> tuple[str, ...]:
        """Return the notes, each after its mark."""
        return tuple(f"[{number}] {text}" for number, text in enumerate(self.texts, 1))
