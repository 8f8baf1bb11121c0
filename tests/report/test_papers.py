"""Published tables and claims: every cell as printed, with its source; mistakes in a file are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import toy
import yaml
from jsonschema import Draft202012Validator

from reuselib import home, report
from reuselib.errors import DamagedFile, UnknownName
from reuselib.report.papers import Cited

SCHEMA = json.loads((home.PACKAGE / "schemas" / "paper.json").read_text("utf-8"))


def test_papers_stand_in_the_books_order_and_every_cell_has_a_source_that_is_cited() -> None:
    numbers = [report.published(name).chapter for name in report.names()]
    assert numbers == list(range(1, len(numbers) + 1)) and report.names()[0] == "dfad"
    for name in report.names():
        paper = report.published(name)
        cells = [c for t in paper.tables for row in t.rows for cell in row.published.values() for c in cell]
        Draft202012Validator(SCHEMA).validate(
            yaml.safe_load((home.CLONE / "data/papers" / f"{name}.yaml").read_bytes())
        )
        assert cells and {c.source for c in cells} | {c.source for c in paper.claims} == set(paper.sources), name


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("source: later, setting", "source: nowhere, setting", "unknown source 'nowhere'"),
        ('mnist: "0.940"', "mnist: 0.940", "0.94 is not of type"),
        ("id: extra", "id: bad", "stands twice"),
        ('["50.0", "60.0"]', '["50.0"]', "1 cells for 2 published columns"),
        ("sources: {", "sources: [", "not valid YAML"),
        (toy.PAPER, "\xff", "not valid YAML"),
        ("metric: accuracy, at", "metrc: accuracy, at", r"\$.claims\[0\].conditions\[1\]: .*metrc"),
        ("id: extra, label: Extra", "id: extra, label: Extra, label: E", "{'label'} stands twice"),
        ("at_least: 0.1", "at_least: .nan", "at_least must be a finite number, not nan"),
    ],
)
def test_a_mistake_in_a_papers_file_is_named(room: Path, old: str, new: str, reason: str) -> None:
    path = room / "papers" / "toy.yaml"
    assert old in toy.PAPER
    path.write_text(toy.PAPER.replace(old, new), "latin-1" if new == "\xff" else "utf-8")
    with pytest.raises(DamagedFile, match=reason) as caught:
        report.published("toy")
    assert str(path) in str(caught.value)


def test_cells_take_their_source_from_the_cell_the_row_or_the_table_and_give_their_number(room: Path) -> None:
    graft, plain = report.published("toy").table("curve").rows
    assert graft.published == {"k1": (Cited("90.74 ± 0.49", "paper"),), "k5": (Cited("92.88", "later"),)}
    assert plain.published["k5"] == (Cited("60.0", "later"),)
    for value, number in {"0.933 ± 0.000": 0.933, ".72": 0.72, "−3.5": -3.5, "FAILED": None, None: None}.items():
        assert Cited(value, "paper").number == number
    with pytest.raises(UnknownName, match="Did you mean 'main'"):
        report.table("toy", name="mian")


RULES = {
    "dfad": "68b566600975",
    "cmi": "60aaf2498af8",
    "one_stage_gan": "61960fbfa4b3",
    "netgraft": "4ee6b150eef9",
    "layerwise": "feecb6a16aea",
    "adaptive": "9386fd0c9115",
    "attribution": "a336eb64d1d4",
    "depara": "a15fd202aaf2",
    "qfsl": "6b0e6c1f776f",
    "selective": "72d670114c26",
}


def test_no_margin_moves_and_no_rule_changes_after_its_result() -> None:
    """A rule that changes is a defect; a new claim has its own date, and gives its paper another digest here."""
    found = {}
    for name in report.names():
        rules = [
            (c.id, c.written, c.seeds, *(f"{each.scale} {each}" for each in c.conditions))
            for c in report.published(name).claims
        ]
        found[name] = hashlib.sha256(repr(rules).encode()).hexdigest()[:12]
    assert found == RULES


def test_a_time_has_the_unit_that_fits() -> None:
    found = map(report.duration, (0, 0.4, 1, 15.4, 90, 5400, 93600))
    assert [*found] == ["< 1 s", "< 1 s", "1.0 s", "15 s", "1.5 min", "1.5 h", "26 h"]


def test_a_condition_names_methods_tasks_and_metrics_in_words() -> None:
    """Not the axis of a table ("3", "0.5"), no id where a word is declared, and no task by the name of a metric."""
    labels = {
        ("layerwise", "teachers3-ensemble-logits"): ("Ensemble, logits", "three teachers"),
        ("netgraft", "symbols-prefix.5-kd"): ("Distillation (KD)", "symbols, shared blocks, K = 5"),
        ("selective", "no-colour-dap-augmented"): ("DAP with residual attributes", "without colour"),
        ("qfsl", "world-qfsl-0.5"): ("QFSL, weight 0.5", "attribute world"),
    }
    assert {key: report.published(key[0]).label(key[1]) for key in labels} == labels
    for about in map(report.published, report.names()):
        asked = [condition for claim in about.claims for condition in claim.conditions]
        rows = {side for each in asked for side in (each.left, each.right) if isinstance(side, str)}
        said = {row: about.label(row)[0] for row in rows}
        assert [row for row, label in said.items() if label[0].isdigit() or label == row] == []
        metrics, tasks = {each.metric for each in asked}, {row.partition("-")[0] for row in rows}
        assert [metric for metric in metrics if "_" in metric and metric not in about.words] == []
        assert [task for task in tasks & metrics & about.words.keys() if f"{task}-" not in about.words] == []
