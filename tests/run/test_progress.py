"""The progress bar, in a terminal and in a notebook."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import players
import pytest

from reuselib.run.progress import Progress


class ZMQInteractiveShell:
    """Has the name by which a notebook's shell is known."""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pretend to be a notebook; return the contents of its one output, as they follow each other."""
    shown: list[dict[str, Any]] = []

    def display(content: dict[str, Any], raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw and display_id and not shown
        shown.append(content)
        return SimpleNamespace(update=lambda content, raw: shown.append(content))

    fake = SimpleNamespace(get_ipython=ZMQInteractiveShell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    return shown


def test_a_notebook_gets_one_line_that_is_rewritten(
    notebook: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    players.drive(players.make("dfad"), 3, title="tiny", progress=True)
    assert capsys.readouterr() == ("", "")
    assert len(notebook) >= 2
    assert all(set(content) == {"text/plain"} for content in notebook)
    last = notebook[-1]["text/plain"]
    assert "\n" not in last and "\r" not in last and "\x1b" not in last
    assert last.startswith("tiny: 100%") and "3/3" in last and "imitation=" in last


def test_a_resumed_bar_starts_where_the_run_was_left(notebook: list[dict[str, Any]]) -> None:
    bar = Progress(total=4, initial=2, desc="tiny", unit="round")
    bar.update()
    bar.close()
    bar.close()
    assert "3/4" in notebook[-1]["text/plain"]


def test_a_terminal_gets_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    players.drive(players.make("dfad"), 2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "DFAD: 100%" in shown.err and "2/2" in shown.err


def test_no_bar_if_none_is_wanted(notebook: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    players.drive(players.make("dfad"), 2)
    assert notebook == [] and capsys.readouterr() == ("", "")
