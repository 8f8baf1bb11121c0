"""Chapter 10: settings, every kind of row at the smoke scale against the library's own functions, benchmarks.

There is no test of resuming: a fit takes seconds, and a run writes no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import archives
import equations
import pytest
import tables
import torch

from reuselib import chapters
from reuselib.errors import MissingFile
from reuselib.qfsl import class_codes, tasks
from reuselib.qfsl.rivals import OPTIONS
from reuselib.selective import AugmentedClassifier, choose, job, losses, rivals, study
from reuselib.selective.job import Judge, SelectiveResult, measures
from reuselib.selective.risk import SCORE_CONFIDENCES, aurcc, best_area

SMOKE, LAPTOP, PAPER, COLAB = (chapters.study("selective", scale) for scale in ("smoke", "laptop", "paper", "colab"))
pytestmark = pytest.mark.usefixtures("room")  # records stay out of the clone; shipped images are still found there


class Runs(dict[str, SelectiveResult]):
    """Rows of the smoke scale with seed 0, each run when it is first asked for."""

    def __missing__(self, row: str) -> SelectiveResult:
        self[row] = SMOKE.run(row, 0, progress=False)
        return self[row]


def forget() -> None:
    """Drop what was read and fitted in this process."""
    for cached in (tasks.real_sets, job.fitted, tasks.benchmark):
        cached.cache_clear()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Share the runs among all tests."""
    forget()
    yield Runs()
    forget()


def test_the_rows_are_those_of_tables_and_claims_and_the_choices_were_made_before_any_record() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    assert set(tables.named("selective", "laptop")) == set(LAPTOP.rows) == set(SMOKE.rows)
    more = set(PAPER.rows) - set(tables.named("selective", "paper"))  # on benchmarks; the paper's tables have no place
    assert set(tables.named("selective", "paper")) <= set(PAPER.rows) and not more & set(LAPTOP.rows)
    assert {row.split("-")[0] for row in COLAB.rows} == {"awa2", "body", "cifar", "seen"}
    default = AugmentedClassifier()
    assert (default.width, default.batch, default.steps, default.kappa, default.kind) == (16, 64, 1500, 1.0, "sum")
    assert PAPER.settings["cub-augmented"].heads == {"width": 64, "steps": 3300}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_have_their_metrics_and_judge_the_same_answers_between_floor_and_ceiling(runs: Runs) -> None:
    """Whatever the residual attributes learn and however many there are. Rows of other vocabularies run at night."""
    first, perfect = runs["four-defined"], runs["four-perfect"].record.metrics
    assert first.record.metrics["gain"] == first.record.metrics["better"] == 0
    assert perfect["aurcc"] == pytest.approx(best_area(first.wrong)) and perfect["excess"] == pytest.approx(0)
    for row, wanted in tables.named("selective", "laptop").items():
        if row.split("-")[0] not in ("four", "digits", "segments"):
            continue
        run = runs[row]
        found = run.record.metrics
        assert wanted <= found.keys() and all(math.isfinite(value) for value in found.values()), row
        assert found["risk_100"] == pytest.approx(1 - found["accuracy"])
        assert -1e-12 <= found["excess"] <= found["aurcc"] <= 1
        assert [x for x, _ in run.record.curves["risk"]] == list(range(5, 101, 5)) and run.record.cpu_seconds > 0
        assert run.confidence.shape == run.wrong.shape == (len(run.data.test_unseen),)
        if row.removeprefix("four-") in study.ROWS and not SMOKE.settings[row].rival:
            assert torch.equal(run.wrong, first.wrong) and torch.equal(run.evidence.defined, first.evidence.defined)
            assert found["gain"] == pytest.approx(first.record.metrics["aurcc"] - found["aurcc"], abs=1e-12)
            assert found["better"] == float(found["gain"] > 0)
            assert perfect["aurcc"] - 1e-12 <= found["aurcc"] == aurcc(run.confidence, run.wrong)


def test_other_methods_are_judged_as_they_answer(runs: Runs) -> None:
    for name in ("dap", "sae"):
        own, judged = (runs[f"four-{row}"] for row in (name, f"{name}-augmented"))
        assert torch.equal(own.wrong, judged.wrong) and judged.classifier is own.classifier and own.evidence is None
        scores = own.classifier.decision_function(own.data.part("test_unseen")[0])[:, own.data.unseen]
        assert torch.allclose(SCORE_CONFIDENCES["softmax"](scores), judged.evidence.confidence("defined"))
        assert torch.equal(judged.evidence.residual, runs["four-augmented"].evidence.residual)
        areas = {kind: aurcc(confidence(scores), own.wrong) for kind, confidence in SCORE_CONFIDENCES.items()}
        assert {kind: own.metrics[f"aurcc_{kind}"] for kind in areas} == pytest.approx(areas)
        assert own.metrics["aurcc"] == min(own.metrics[f"aurcc_{kind}"] for kind in areas)
        assert judged.metrics["gain"] == pytest.approx(areas["softmax"] - judged.metrics["aurcc"])


def test_prototypes_and_choices_come_from_where_the_rows_say(runs: Runs) -> None:
    run = runs["four-augmented"]
    network, data = run.classifier, run.data
    images, labels = data.part("test_unseen")
    residual, ridge, places = network.residual(images), network.prototypes(), torch.searchsorted(data.unseen, labels)
    codes = class_codes(data.attributes, data.seen)
    weights = losses.similarity_weights(codes[data.unseen], codes[data.seen])
    true = rivals.class_means(residual, places, len(data.unseen))
    expected = {
        "augmented": ridge,
        "permuted": rivals.permuted(ridge, 0),
        "random-prototypes": rivals.random_prototypes(ridge, 0),
        "similarity": losses.synthesised(weights, network.network_.prototypes.detach()),
        "oracle-prototypes": true,
        "bootstrap": rivals.bootstrapped(network.evidence(images).defined, residual, ridge),
    }
    for name, prototypes in expected.items():
        made = runs[f"four-{name}"]
        assert torch.allclose(made.evidence.residual, residual.double() @ prototypes.double().T, atol=1e-5), name
        assert made.metrics["cosine"] == pytest.approx(float((prototypes * true).sum(1).mean()), abs=1e-6)
    right = (run.evidence.residual.argmax(1) == places).double().mean()
    assert run.metrics["residual_accuracy"] == pytest.approx(float(right))
    assert not {"cosine", "residual_accuracy"} & runs["four-defined"].metrics.keys()
    other = AugmentedClassifier(steps=40, seed=job.SECOND).fit(*data.part("train"), data.attributes, data.seen)
    second = other.decision_function(images)[:, data.unseen].double()
    assert torch.allclose(runs["four-two-heads"].evidence.residual, second, atol=1e-5)
    found, options = runs["four-chosen"], SMOKE.settings["four-chosen"].choice
    chosen = choose(AugmentedClassifier(steps=40), *data.part("train"), data.attributes, **options)
    assert (found.metrics["weight"], found.metrics["kappa"]) == (chosen.weight, chosen.kappa)
    evidence = network.evidence(images, prototypes=network.prototypes(kappa=chosen.kappa))
    assert torch.allclose(found.confidence, evidence.confidence("sum", chosen.weight))
    alone = AugmentedClassifier(steps=40, beta=0.0).fit(*data.part("train"), data.attributes, data.seen)
    assert torch.equal(alone.evidence(images).defined, run.evidence.defined)


def test_a_row_costs_what_its_fits_did_also_where_they_were_at_hand(runs: Runs) -> None:
    settings = SMOKE.settings["four-defined"]
    _, fit = job.fitted("augmented", settings.heads, settings.source, 0, 0, 0, "cpu", None)  # as rows ask
    spent = SMOKE.run("four-defined", 0, progress=False).record
    assert fit.cpu_seconds <= spent.cpu_seconds < fit.cpu_seconds + 2
    assert SMOKE.run("four-two-heads", 0, progress=False).record.cpu_seconds > fit.cpu_seconds


def test_runs_repeat_seeds_differ_metrics_are_means_over_splits_and_equations_are_called(runs: Runs) -> None:
    before = {row: runs[row] for row in ("four-random", "four-sae-augmented", "digits-augmented", "segments-augmented")}
    forget()
    for row, run in before.items():
        again = SMOKE.run(row, 0, progress=False)
        assert torch.equal(again.confidence, run.confidence) and again.metrics == run.metrics
    assert SMOKE.run("digits-augmented", 1, progress=False).metrics != before["digits-augmented"].metrics
    judges = [Judge(SMOKE.settings["segments-augmented"], 0, split, "cpu") for split in range(2)]
    found = [measures(judge.verdict(), judge.places)[0] for judge in judges]
    assert not torch.equal(*(judge.data.unseen for judge in judges))
    for name, value in before["segments-augmented"].metrics.items():
        assert value == pytest.approx(sum(each[name] for each in found) / 2)
    forget()
    rows = ("four-augmented", "four-joint", "four-standardised")
    equations.check("selective", lambda: [SMOKE.run(row, 0, progress=False) for row in rows])


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_rows_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget()
    with pytest.raises(MissingFile, match="res101.mat is missing. Fix: run .*, or bring xlsa17.zip"):
        PAPER.run("cub-augmented", progress=False)
    monkeypatch.setitem(OPTIONS["tried"], "eszsl", {"gamma": [10.0]})  # others would take seconds
    kinds = {"cub": ("chosen", "bootstrap", "two-heads"), "awa2": ("remainder", "eszsl", "eszsl-augmented")}
    for each, (name, methods) in zip((PAPER, COLAB), kinds.items(), strict=True):
        archives.bring_benchmark(name.upper(), monkeypatch, tmp_path)
        for row in (f"{name}-{method}" for method in methods):
            short = each.settings[row].heads.but(steps=1)
            run = each.run(row, progress=False, heads=short, choice={"folds": 2})
            assert all(math.isfinite(value) for value in run.metrics.values()) and run.data.name == f"{name}_ps"
    forget()
