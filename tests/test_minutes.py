"""Half an hour at colab where rows train no network of layers but fit, on a processor there too: chapters 9 and 10."""

from __future__ import annotations

import math
import statistics

import pytest

from reuselib import chapters, report
from reuselib.qfsl import rivals
from reuselib.run import Settings

LIKE = {"qfsl": "digits", "selective": "full"}
"""Chapter → the laptop's task whose fits are as large as those of photographs."""
UNKNOWN = {"qfsl": ("awa2-", "cifar-qfsl-"), "selective": ("awa2-",)}
"""How rows begin of which no record tells: of AwA2, whose features were never here, and of three heaps of images."""


def spent(paper: str, scale: str) -> dict[str, float]:
    """Processor seconds of the recorded rows, their medians over seeds."""
    found: dict[str, list[float]] = {}
    for record in report.records(paper, scale):
        if not record.stale and record.device.startswith("cpu"):
            found.setdefault(record.row, []).append(record.cpu_seconds)
    return {row: statistics.median(seconds) for row, seconds in found.items()}


def fits(method: str, choice: Settings | None) -> int:
    """Fits of another method on a split: one, and those by which its options are chosen."""
    if not choice:
        return 1
    return 1 + choice["folds"] * math.prod(map(len, rivals.grid(method, choice.get("every", 1)).values()))


@pytest.mark.parametrize("paper", LIKE)
def test_the_fits_of_colab_take_half_an_hour_of_a_processor(paper: str) -> None:
    """A row without a record takes as long as on a task of the laptop scale, for each split and each of its fits."""
    study, known = chapters.study(paper, "colab"), spent(paper, "colab")
    like, own = f"{LIKE[paper]}-", chapters.study(paper, "laptop").settings
    laptop = {
        row.removeprefix(like): seconds for row, seconds in spent(paper, "laptop").items() if row.startswith(like)
    }
    trained = set()
    for row, settings in study.settings.items():  # in one process, as a notebook runs them
        task, method = row.split("-", 1)
        if row in known or method not in laptop or task == "awa2":
            continue
        source, alike = settings.get("source", settings), own[f"{like}{method}"]
        seconds, number = laptop[method], fits(method, settings.get("choice", settings.get("tuned")))
        if settings.get("heads") is not None and settings.confidence != "own":
            number = 1  # what another method answers was fitted for a row of its own
            shared = (source, settings.heads)
            seconds -= laptop["defined"] if shared in trained else 0.0
            trained.add(shared)
        known[row] = seconds * number * source.splits / alike.get("source", alike).splits
    unknown = [row for row in study.rows if row not in known]
    assert sum(known.values()) <= 1800
    assert all(row.startswith(UNKNOWN[paper]) for row in unknown) and len(unknown) <= 40
