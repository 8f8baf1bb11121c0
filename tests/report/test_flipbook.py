"""Pictures that are turned over: one is shown, every one has its button and its text."""

import re
from typing import Any

import pytest
from matplotlib.figure import Figure

from reuselib.errors import BadValue
from reuselib.report.flipbook import flipbook


def book(count: int = 3, **options: Any):
    figures = {str(10**n): Figure((1 + n, 1)) for n in range(count)}
    return flipbook("updates", figures, {label: f"A picture after {label} updates." for label in figures}, **options)


def test_each_button_shows_its_picture_and_one_is_shown_first() -> None:
    page = book(first=1)._repr_html_()
    ids = re.findall(r"<input type='radio' name='pages-\w+' id='([^']+)'( checked)?>", page)
    assert [bool(checked) for _, checked in ids] == [False, True, False]
    for number, (which, _) in enumerate(ids):
        assert f"<label for='{which}'>{10**number}</label>" in page
        assert f"#{which}:checked~figure.p{number}{{display:block}}" in page
    assert page.count("data:image/png;base64,") == 3 and 'alt="A picture after 100 updates."' in page
    assert repr(book()).splitlines()[2] == "updates 100: A picture after 100 updates."
    assert not re.search(r"<script|https?:", page)


def test_a_notebook_gets_the_pages_and_the_caption_below(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata)))
    captioned = book(caption="Nothing was picked.")
    captioned._ipython_display_()
    (pages, texts), below = shown
    assert list(pages) == ["text/html", "text/plain"] and pages["text/plain"].endswith("\nNothing was picked.")
    assert texts == {"text/html": {"caption": "Nothing was picked."}}
    assert below == ({"text/markdown": "Nothing was picked."}, {"text/markdown": {"caption": True}})
    book()._ipython_display_()
    assert shown[2:] == [({"text/html": book()._repr_html_(), "text/plain": repr(book())}, {"text/html": {}})]


def test_a_flipbook_without_pages_texts_or_a_first_page_is_refused() -> None:
    for count, first in ((0, 0), (3, 3), (3, -4)):
        with pytest.raises(BadValue, match="figures and a first one"):
            book(count, first=first)
    with pytest.raises(BadValue, match="No alt text.*'b'"):
        flipbook("x", {"a": Figure(), "b": Figure()}, {"a": "A picture of something small.", "b": "b"})
