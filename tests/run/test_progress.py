"""The progress bar, in a terminal and in a notebook."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import players
import pytest


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
    assert last.startswith("tiny: 100%") and "6/6" in last and "imitation=" in last


def test_a_resumed_run_says_so_and_its_bar_starts_where_it_was_left(
    notebook: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for reports, shown in ((1, False), (2, True), (3, False)):
        players.drive(players.make("dfad"), reports, checkpoint=tmp_path / "run.pt", title="tiny", progress=shown)
    assert "tiny:  50%" in notebook[1]["text/plain"] and "4/4" in notebook[-1]["text/plain"]
    assert capsys.readouterr().out.strip() == "tiny: resumed at update 2 of 4"
    assert caplog.messages == ["tiny: resumed at update 4 of 6"]


def test_a_terminal_gets_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    players.drive(players.make("dfad"), 2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "DFAD: 100%" in shown.err and "4/4" in shown.err


def test_no_bar_if_none_is_wanted(notebook: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    players.drive(players.make("dfad"), 2)
    assert notebook == [] and capsys.readouterr() == ("", "")
