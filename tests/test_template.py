"""The eleventh paper in a day: a room made from the template runs from its record to its table."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import shell

ROOT = Path(__file__).resolve().parent.parent


def test_a_room_made_from_the_template_runs_from_record_to_table(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reuselib", tmp_path / "reuselib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "template" / "room", tmp_path / "reuselib" / "hinton")
    shutil.copytree(ROOT / "data" / "papers", tmp_path / "data" / "papers")
    shutil.copy(ROOT / "template" / "paper.yaml", tmp_path / "data" / "papers" / "hinton.yaml")
    (tmp_path / "data" / "zoo").symlink_to(ROOT / "data" / "zoo")
    chapters = tmp_path / "reuselib" / "chapters.py"
    text = chapters.read_text("utf-8")
    assert '"dfad": "DFADStudy",\n' in text
    chapters.write_text(text.replace('"dfad": "DFADStudy",\n', '"dfad": "DFADStudy",\n    "hinton": "HintonStudy",\n'))

    lines = [*["run hinton --seeds 0-2"] * 2, "table hinton", "verdicts hinton"]
    said = shell.reuselib(lines, tmp_path, tmp_path)
    assert all(each.endswith("exit 0 ") for each in said), said
    ran, again, table, verdicts = said
    assert ran.count("accuracy") == 12 and again.count("recorded already: 12 of 12") == 1
    assert len((tmp_path / "data" / "results" / "hinton.jsonl").read_text().splitlines()) == 12
    assert "Distilled" in table and "?" in table and "(3)" in table and "not run" not in table
    # Three seeds of a small run: the mean is above the margin on every processor, the interval not.
    assert re.search(r"(holds|open): A small network learns", verdicts)
