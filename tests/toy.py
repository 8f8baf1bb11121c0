"""A toy paper with tables and claims, and records of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from reuselib.report import Record

PAPER = """
chapter: 1
title: A toy
citation: Nobody, 2026.
version: 2
interval: "2026-11-29"
words: {toy: toy digits}
sources: {paper: Table 1 of the toy., later: A later re-run.}
tables:
  - id: main
    caption: Toy accuracy
    source: paper
    header: Method
    columns:
      - {id: mnist, label: MNIST, group: Paper}
      - {id: other, label: MNIST, group: Elsewhere}
      - {label: Toy digits, group: Ours, scales: [smoke, laptop], record: "toy-{row}", metric: accuracy,
         times: 100, digits: 1}
      - {label: minutes, group: Ours, scales: [laptop], record: "toy-{row}", metric: minutes, digits: 1}
      - {label: Real MNIST, group: Ours, scales: [colab, paper], record: "mnist-{row}", metric: accuracy}
    rows:
      - id: good
        label: Good
        published: {mnist: "0.940", other: [{value: "93.1", source: later, setting: best}]}
      - {id: bad, label: Bad, published: {mnist: null}}
      - {id: extra, label: Extra}
  - id: curve
    caption: Accuracy by K
    source: paper
    header: Method
    columns:
      - {id: k1, label: K=1}
      - {id: k5, label: K=5}
      - {label: K=1, scales: [laptop], record: toy-good, metric: "{row}_k1"}
    rows:
      - {id: graft, label: Graft, published: ["90.74 ± 0.49", {value: "92.88", source: later}]}
      - {id: plain, label: Plain, source: later, published: ["50.0", "60.0"]}
claims:
  - id: better
    text: Good is better than bad.
    source: paper
    written: "2026-11-22"
    conditions:
      - {left: toy-good, right: toy-bad, metric: accuracy, at_least: 0.1}
      - {left: toy-good, metric: accuracy, at_least: 0.5}
    tried: Twice the rounds.
  - id: later
    text: It works elsewhere.
    source: paper
    written: "2026-11-22"
    conditions: []
    note: Comes with a later chapter.
"""


def make(row: str = "toy-good", seed: int = 0, accuracy: float = 0.9, **changes: Any) -> Record:
    """Return a record of the toy paper; `version` makes it another version's."""
    arguments: dict[str, Any] = {
        "metrics": {"accuracy": accuracy},
        "settings": {"rounds": 3, "rates": (0.1, 0.2)},
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "wall_seconds": 90.0,
        "cpu_seconds": 80.0,
        "peak_memory_mb": 300.0,
        "passes": {"teacher_forward": 1200},
        "curves": {"accuracy": [(10, 0.5), (20, accuracy)]},
    }
    version, scale = changes.pop("version", None), changes.pop("scale", "laptop")
    record = Record.new("toy", scale, row, seed, **{**arguments, **changes})
    return record if version is None else replace(record, version=version)


def save(row: str, accuracies: Iterable[float], first: int = 0, **changes: Any) -> None:
    """Save one record for each accuracy, with seeds from `first`."""
    for seed, accuracy in enumerate(accuracies, first):
        make(row, seed, accuracy, **changes).save()
