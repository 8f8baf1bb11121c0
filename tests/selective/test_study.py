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
from reuselib.qfsl import class_codes, metrics
from reuselib.qfsl.rivals import OPTIONS
from reuselib.selective import AugmentedClassifier, choose, job, losses, rivals, study
from reuselib.selective.job import Judge, SelectiveResult, measures
from reuselib.selective.risk import SCORE_CONFIDENCES, aurcc, best_area
from reuselib.worlds.attributes import REGIMES

SMOKE, LAPTOP, PAPER, COLAB = (chapters.study("selective", scale) for scale in ("smoke", "laptop", "paper", "colab"))
OURS = tuple(study.CONFIDENCE_ROWS | study.TASK_ROWS | study.WEIGHT_ROWS | study.WIDTH_ROWS)


@pytest.fixture(autouse=True)
def data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


class Runs(dict[str, SelectiveResult]):
    """Rows of the smoke scale with seed 0, each run when it is first asked for."""

    def __missing__(self, row: str) -> SelectiveResult:
        self[row] = SMOKE.run(row, 0, progress=False)
        return self[row]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Share the runs among all tests."""
    job.forget()
    yield Runs()
    job.forget()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_tables_and_claims() -> None:
    assert set(tables.named("selective", "laptop")) == set(LAPTOP.rows) == set(SMOKE.rows)
    assert set(tables.named("selective", "paper")) == set(PAPER.rows)
    assert {row.split("-")[0] for row in COLAB.rows} == {"awa2", "body", "cifar", "seen"}


def test_the_choices_were_made_before_any_record() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    default = AugmentedClassifier()
    assert (default.width, default.batch, default.steps, default.kappa, default.kind) == (16, 64, 1500, 1.0, "sum")
    for regime in REGIMES:
        row = LAPTOP.settings[f"{regime}-augmented"]
        assert (row.confidence, row.prototypes, row.weight, row.heads) == ("sum", "ridge", 1.0, {})
        assert row.source.plan.items() >= {"classes": 48, "seen": 36, "unseen_images": 60, "annotated": regime}.items()
        assert row.source.epochs == 8
    assert LAPTOP.settings["digits-augmented"].source == {"name": "digits", "splits": 12}
    assert PAPER.settings["cub-augmented"].heads == {"width": 64, "steps": 3300}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_every_row_has_its_metrics(runs: Runs) -> None:
    for row, wanted in tables.named("selective", "laptop").items():
        run = runs[row]
        found = run.record.metrics
        assert wanted <= found.keys() and all(math.isfinite(value) for value in found.values()), row
        assert found["risk_100"] == pytest.approx(1 - found["accuracy"])
        assert -1e-12 <= found["excess"] <= found["aurcc"] <= 1
        assert [x for x, _ in run.record.curves["risk"]] == list(range(5, 101, 5))
        assert run.confidence.shape == run.wrong.shape == (len(run.data.test_unseen),)
        assert run.record.cpu_seconds > 0 and run.curve.full_risk == pytest.approx(float(run.wrong.double().mean()))


@pytest.mark.parametrize("regime", REGIMES)
def test_all_confidences_judge_the_same_answers_between_floor_and_ceiling(regime: str, runs: Runs) -> None:
    """Whatever the residual attributes learn and however many there are."""
    first, perfect = runs[f"{regime}-defined"], runs[f"{regime}-perfect"].record.metrics
    assert first.record.metrics["gain"] == first.record.metrics["better"] == 0
    assert perfect["aurcc"] == pytest.approx(best_area(first.wrong)) and perfect["excess"] == pytest.approx(0)
    for name in OURS:
        run = runs[f"{regime}-{name}"]
        found = run.record.metrics
        assert torch.equal(run.wrong, first.wrong) and torch.equal(run.evidence.defined, first.evidence.defined), name
        assert found["gain"] == pytest.approx(first.record.metrics["aurcc"] - found["aurcc"], abs=1e-12)
        assert found["better"] == float(found["gain"] > 0) and perfect["aurcc"] <= found["aurcc"] + 1e-12


def test_other_methods_are_judged_as_they_answer(runs: Runs) -> None:
    for name in ("dap", "eszsl", "ale", "sae"):
        own, judged = (runs[f"four-{row}"] for row in (name, f"{name}-augmented"))
        assert torch.equal(own.wrong, judged.wrong) and judged.classifier is own.classifier and own.evidence is None
        scores = own.classifier.decision_function(own.data.part("test_unseen")[0])[:, own.data.unseen]
        assert torch.allclose(SCORE_CONFIDENCES["softmax"](scores), judged.evidence.confidence("defined"))
        assert torch.equal(judged.evidence.residual, runs["four-augmented"].evidence.residual)
        areas = {kind: aurcc(confidence(scores), own.wrong) for kind, confidence in SCORE_CONFIDENCES.items()}
        assert {kind: own.metrics[f"aurcc_{kind}"] for kind in areas} == pytest.approx(areas)
        assert own.metrics["aurcc"] == min(own.metrics[f"aurcc_{kind}"] for kind in areas)
        assert judged.metrics["gain"] == pytest.approx(areas["softmax"] - judged.metrics["aurcc"])


def test_the_numbers_are_those_of_risk_and_coverage(runs: Runs) -> None:
    run = runs["no-colour-augmented"]
    found, wrong = run.metrics, run.wrong.double()
    errors = wrong[run.confidence.argsort(descending=True)]
    risk = errors.cumsum(0) / torch.arange(1, len(errors) + 1)
    assert found["aurcc"] == pytest.approx(float(risk.mean())) and found["accuracy"] == pytest.approx(1 - wrong.mean())
    assert found["excess"] == pytest.approx(float(risk.mean()) - best_area(wrong))
    for share in (20, 50, 80, 100):
        assert found[f"risk_{share}"] == pytest.approx(float(risk[math.ceil(share / 100 * len(risk)) - 1]))
    images, labels = run.data.part("test_unseen")
    predicted = run.classifier.predict(images)
    assert torch.equal(predicted != labels, run.wrong)
    assert found["class_accuracy"] == pytest.approx(metrics.mean_class_accuracy(predicted, labels))


def test_prototypes_come_from_where_the_rows_say(runs: Runs) -> None:
    run = runs["full-augmented"]
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
        made = runs[f"full-{name}"]
        assert torch.allclose(made.evidence.residual, residual.double() @ prototypes.double().T, atol=1e-5), name
        assert made.metrics["cosine"] == pytest.approx(float((prototypes * true).sum(1).mean()), abs=1e-6)
    right = (run.evidence.residual.argmax(1) == places).double().mean()
    assert run.metrics["residual_accuracy"] == pytest.approx(float(right))
    assert not {"cosine", "residual_accuracy"} & runs["full-defined"].metrics.keys()
    other = AugmentedClassifier(steps=40, seed=job.SECOND).fit(*data.part("train"), data.attributes, data.seen)
    second = other.decision_function(images)[:, data.unseen].double()
    assert torch.allclose(runs["full-two-heads"].evidence.residual, second, atol=1e-5)
    alone = AugmentedClassifier(steps=40, beta=0.0).fit(*data.part("train"), data.attributes, data.seen)
    assert torch.equal(alone.evidence(images).defined, run.evidence.defined)


def test_the_choice_is_that_of_class_wise_cross_validation(runs: Runs) -> None:
    run, options = runs["four-chosen"], SMOKE.settings["four-chosen"].choice
    found = choose(AugmentedClassifier(steps=40), *run.data.part("train"), run.data.attributes, **options)
    assert (run.metrics["weight"], run.metrics["kappa"]) == (found.weight, found.kappa)
    prototypes = run.classifier.prototypes(kappa=found.kappa)
    expected = run.classifier.evidence(run.data.part("test_unseen")[0], prototypes=prototypes)
    assert torch.allclose(run.confidence, expected.confidence("sum", found.weight))


def test_runs_repeat_seeds_differ_and_metrics_are_means_over_splits(runs: Runs) -> None:
    for row in ("full-augmented", "full-random", "digits-permuted", "four-sae-augmented"):
        again = SMOKE.run(row, 0, progress=False)
        assert torch.equal(again.confidence, runs[row].confidence) and again.metrics == runs[row].metrics
    job.forget()
    again = SMOKE.run("digits-augmented", 0, progress=False).metrics
    assert again == runs["digits-augmented"].metrics
    assert SMOKE.run("digits-augmented", 1, progress=False).metrics != again
    judges = [Judge(SMOKE.settings["segments-augmented"], 0, split, "cpu") for split in range(2)]
    found = [measures(judge.verdict(), judge.places)[0] for judge in judges]
    assert not torch.equal(*(judge.data.unseen for judge in judges))
    for name, value in runs["segments-augmented"].metrics.items():
        assert value == pytest.approx(sum(each[name] for each in found) / 2)
    assert len(runs["segments-augmented"].data.attribute_names) == 7


def test_a_row_costs_what_its_fits_did_also_where_they_were_at_hand(runs: Runs) -> None:
    settings = SMOKE.settings["full-defined"]
    _, fit = job.fitted("augmented", settings.heads, settings.source, 0, 0, 0, "cpu", None)  # as rows ask
    for name in ("defined", "weight-2", "perfect"):
        spent = SMOKE.run(f"full-{name}", 0, progress=False).record
        assert fit.cpu_seconds <= spent.cpu_seconds < fit.cpu_seconds + 2
    assert SMOKE.run("full-two-heads", 0, progress=False).record.cpu_seconds > fit.cpu_seconds


def test_the_equations_shown_are_those_of_the_rows() -> None:
    job.forget()
    rows = ("full-augmented", "full-joint", "full-standardised")
    equations.check("selective", lambda: [SMOKE.run(row, 0, progress=False) for row in rows])


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_rows_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job.forget()
    for each, row in ((PAPER, "cub-augmented"), (COLAB, "awa2-augmented")):
        with pytest.raises(MissingFile, match="res101.mat is missing. Fix: run .*, or bring xlsa17.zip"):
            each.run(row, progress=False)
    monkeypatch.setitem(OPTIONS["tried"], "eszsl", {"gamma": [10.0]})  # others would take seconds
    kinds = {"cub": ("defined", "chosen", "bootstrap", "two-heads"), "awa2": ("remainder", "eszsl", "eszsl-augmented")}
    for each, (name, methods) in zip((PAPER, COLAB), kinds.items(), strict=True):
        archives.bring_benchmark(name.upper(), monkeypatch, tmp_path)
        for row in (f"{name}-{method}" for method in methods):
            short = each.settings[row].heads.but(steps=1)
            run = each.run(row, progress=False, heads=short, choice={"folds": 2})
            assert all(math.isfinite(value) for value in run.metrics.values()) and run.data.name == f"{name}_ps"
    job.forget()
