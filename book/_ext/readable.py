"""Mend what Sphinx and its extensions write that a screen reader stumbles over, in the finished pages.

A label that says something else than what is seen, a list whose entries are none, a head of a table without a word. The
style that a table of results brings for notebooks outside of the book goes too: the book has it once.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

MENDS = (
    (r'(?<=<summary) aria-label="Toggle hidden content"', ""),
    (
        r'(<li class="toctree-l\d[^"]*has-children"><a [^>]*>(.*?)</a><details[^>]*><summary)(?=>)',
        r'\1 aria-label="Chapters below \2"',
    ),
    (r'(<button class="btn search-button-field[^>]*?) title="Search" aria-label="Search"', r"\1"),
    (r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"', r"\1"),
    (r'<div (?=id="pst-primary-sidebar")', '<div role="region" aria-label="The book" '),
    (r'role="doc-biblioentry"', 'role="listitem"'),
    (r'<th class="(head[^"]*)"><p></p></th>', r'<td class="\1"></td>'),
    (r"<style>(?=/\* Tables of results)[^<]*</style>", ""),
)
"""Patterns and what is put in their place; a page that is mended twice stays as it is."""


def mend(app: Sphinx, error: Exception | None) -> None:
    """Mend every page, once the last one is written."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = mended = page.read_text("utf-8")
            for pattern, there in MENDS:
                mended = re.sub(pattern, there, mended)
            if mended != text:
                page.write_text(mended, "utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Register the handler with Sphinx."""
    app.connect("build-finished", mend)
    return {"version": "1", "parallel_read_safe": True}
