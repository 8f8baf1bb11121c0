"""The numbers that the text of a notebook tells are those of the records.

`tests/told/<notebook>.yaml` lists sentences of it with what their numbers are of: a `row` of the records, or what
it has more than the row `less` with the same seeds; its `metric`, in a unit of `times`; the scale `at`, if not laptop.
The number `is` the mean over the seeds, rounded as it is written, or `about` it, to a tenth, or lies `between` two.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import nbformat
import pytest
import yaml

from reuselib import report

ROOT = Path(__file__).resolve().parent.parent
TOLD = sorted((ROOT / "tests/told").glob("*.yaml"))


@cache
def recorded(paper: str, at: str) -> dict[str, dict[int, report.Record]]:
    """The records of a scale that are not stale, by row and seed."""
    found: dict[str, dict[int, report.Record]] = defaultdict(dict)
    for record in report.records(paper, at):
        if not record.stale:
            found[record.row][record.seed] = record
    return found


def mean(paper: str, row: str, metric: str, less: str | None = None, at: str = "laptop", times: float = 1.0) -> float:
    """The mean of a metric over the seeds of a row, or of its difference over those that two rows share."""
    rows = [recorded(paper, at)[each] for each in (row, less) if each is not None]
    seeds = set.intersection(*map(set, rows))
    first, *second = (fmean(each[seed].value(metric) for seed in seeds) for each in rows)
    return times * (first - sum(second))


def bounds(number: dict[str, Any]) -> tuple[float, float]:
    """Between which values what a sentence says is true; takes `is`, `about` or `between` out of it."""
    if "between" in number:
        low, high = number.pop("between")
        return low, high
    exact = "is" in number
    value = number.pop("is" if exact else "about")
    half = 0.5 * 10.0 ** -len(str(value).partition(".")[2])  # of the last digit that is written
    reach = half if exact else max(half, abs(value) / 10)
    return value - reach, value + reach


@pytest.mark.parametrize("path", TOLD, ids=lambda path: path.stem)
def test_the_numbers_told_are_those_of_the_records(path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    text = " ".join(" ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split())
    wrong = []
    for sentence in yaml.safe_load(path.read_text("utf-8")):
        assert sentence["words"] in text, f"{path.stem} does not say {sentence['words']!r}"
        for number in sentence["numbers"]:
            low, high = bounds(number)
            found = mean(path.stem.partition("_")[2].removesuffix("_lab"), **number)
            if not low - 1e-9 <= found <= high + 1e-9:
                wrong.append(f"{sentence['words']!r}: {found:.4g}, not {low:.4g} to {high:.4g}: {number}")
    assert not wrong, "\n".join(wrong)


def test_every_lesson_and_lab_is_looked_through() -> None:
    chapters = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} - {"00_quickstart"}
    assert {path.stem for path in TOLD} == chapters
