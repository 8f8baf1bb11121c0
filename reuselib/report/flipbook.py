"""Pictures that the reader turns over on the page: radio buttons and CSS, no script, no server."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reuselib.errors import BadValue
from reuselib.report.theme import displayed, png

LOOK = (
    "@>figure{display:none;margin:.5em 0}@>figure img{max-width:100%;height:auto}"
    "@>label{display:inline-block;min-width:2.2em;padding:.3em .6em;margin:.1em;border:1px solid currentColor;"
    "border-radius:.4em;cursor:pointer;text-align:center}@>input{position:absolute;opacity:0}"
    "@>input:checked+label{font-weight:bold;border-width:2px}@>input:focus-visible+label{outline:3px solid #2f81c7}"
)


@dataclass(frozen=True)
class Flipbook:
    """Figures of which a notebook shows one at a time, and a terminal the texts.

    Attributes:
        title: What is turned, before the buttons: "updates".
        pages: Of each button its label, the PNG, and its alt text.
        first: Number of the page that is shown first.
        caption: What every reader should know of all pages, as Markdown; may be empty.
    """

    title: str
    pages: tuple[tuple[str, bytes, str], ...]
    first: int
    caption: str = ""

    def __repr__(self) -> str:
        """Give a line for each page, and the caption."""
        return "\n".join([*(f"{self.title} {label}: {alt}" for label, _, alt in self.pages), self.caption]).rstrip()

    def _ipython_display_(self) -> None:
        """Show pages and caption; of both `notebook.BookFigure` makes a numbered figure when the book is built."""
        texts = {"caption": self.caption} if self.caption else {}
        displayed({"text/html": self._repr_html_(), "text/plain": repr(self)}, texts)

    def _repr_html_(self) -> str:
        name = "pages-" + hashlib.sha256(b"".join(data for _, data, _ in self.pages)).hexdigest()[:8]
        buttons, figures, rules = "", "", LOOK.replace("@", f"#{name}")
        for number, (label, data, alt) in enumerate(self.pages):
            which, checked = f"{name}-{number}", " checked" if number == self.first else ""
            buttons += f"<input type='radio' name='{name}' id='{which}'{checked}>"
            buttons += f"<label for='{which}'>{html.escape(label)}</label>"
            address = "data:image/png;base64," + base64.b64encode(data).decode()
            image = f'<img class="dark-light" src="{address}" alt="{html.escape(alt)}">'
            figures += f"<figure class='p{number}'>{image}</figure>"
            rules += f"#{which}:checked~figure.p{number}{{display:block}}"
        title = html.escape(self.title)
        group = f"<div id='{name}' role='radiogroup' aria-label='{title}'><span>{title} </span>"
        return f"<style>{rules}</style>{group}{buttons}{figures}</div>"


def flipbook(
    title: str, figures: Mapping[str, Any], alts: Mapping[str, str], first: int = -1, caption: str = ""
) -> Flipbook:
    """Make a flipbook of figures.

    Args:
        title: What is turned, before the buttons: "updates".
        figures: Figures of one size by the labels of their buttons.
        alts: What a reader who cannot see a figure should know, by the same labels.
        first: Number of the figure that is shown first, from the end if negative.
        caption: What every reader should know of all pages, as Markdown; with one the book numbers the flipbook.

    Raises:
        BadValue: There is no figure, a text is missing or says nothing, or there is no such first one.
    """
    if not -len(figures) <= first < len(figures):
        raise BadValue(f"A flipbook needs figures and a first one among them, not {len(figures)} and {first}.")
    if missing := [label for label in figures if len(alts.get(label, "").split()) < 4]:
        raise BadValue(f"No alt text says what is seen at {missing[0]!r}. Give a sentence for each figure.")
    pages = tuple((label, png(figures[label]), alts[label]) for label in figures)
    return Flipbook(title, pages, first % len(figures), caption)
