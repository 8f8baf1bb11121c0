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


def test_a_notebook_gets_one_line_that_is_rewritten_and_a_resumed_bar_starts_where_it_was_left(
    notebook: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for reports, shown in ((1, False), (2, True), (3, False)):
        players.drive(players.make("dfad"), reports, checkpoint=tmp_path / "run.pt", title="tiny", progress=shown)
        assert bool(notebook) == (reports > 1)
    assert all(set(content) == {"text/plain"} for content in notebook)
    assert "tiny:  50%" in notebook[1]["text/plain"]
    last = notebook[-1]["text/plain"]
    assert last.startswith("tiny: 100%") and "4/4" in last and "imitation=" in last and not {*"\n\r\x1b"} & {*last}
    assert capsys.readouterr().out.strip() == "tiny: resumed at update 2 of 4"
    assert caplog.messages == ["tiny: resumed at update 4 of 6"]
