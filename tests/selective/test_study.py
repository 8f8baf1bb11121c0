"""Chapter 10: presets, every row at the smoke scale against the library's own functions, benchmarks.

There is no test of resuming: a fit takes seconds, and a run writes no checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archives
import pytest
import tables
import torch

from reuselib import report
from reuselib import run as engine
from reuselib.errors import MissingFile, ReuseError, UnknownName
from reuselib.qfsl import metrics
from reuselib.qfsl.codes import class_codes
from reuselib.run.legacy import Run
from reuselib.selective import study as chapter10
from reuselib.selective.confidence import sum_confidence
from reuselib.selective.method import (
    AugmentedClassifier,
    BootstrappedClassifier,
    choose,
    class_means,
    permuted,
    random_prototypes,
    similarity_weights,
    synthesised,
)
from reuselib.selective.risk import SCORE_CONFIDENCES, aurcc, best_area
from reuselib.selective.study import Bench, Heads, SelectiveChapter, Source, Verdict, measures
from reuselib.worlds.attributes import REGIMES

NAME = "selective"
SMOKE = SelectiveChapter("smoke")
OURS = tuple(chapter10.CONFIDENCE_ROWS | chapter10.TASK_ROWS | chapter10.WEIGHT_ROWS | chapter10.WIDTH_ROWS)


@pytest.fixture(autouse=True)
def data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


class Runs(dict[str, Run]):
    """Rows of the smoke scale with seed 0, each run when it is first asked for."""

    def __missing__(self, row: str) -> Run:
        self[row] = SMOKE.run(row, 0, progress=False)
        return self[row]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Share the runs among all tests."""
    chapter10.forget()
    yield Runs()
    chapter10.forget()


def metric(runs: dict[str, Run], row: str, name: str = "aurcc") -> float:
    return runs[row].record.metrics[name]


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_presets_are_whole_and_differ(scale: str) -> None:
    configs = SelectiveChapter(scale).configs
    for row, config in configs.items():
        assert row.endswith(config.method)
        assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.weight = 2.0
    hashes = {report.config_hash(config) for config in configs.values()}
    assert len(set(configs.values())) == len(hashes) == len(configs)


def test_the_tables_and_claims_speak_of_the_rows_that_exist() -> None:
    for scale in ("smoke", "laptop", "paper"):
        assert set(tables.named(NAME, scale)) - set(SelectiveChapter(scale).rows) == set()
    assert set(tables.named(NAME, "laptop")) == set(SelectiveChapter("laptop").rows) == set(SMOKE.rows)
    assert set(tables.named(NAME, "paper")) == set(SelectiveChapter("paper").rows)
    assert {row.split("-")[0] for row in SelectiveChapter("colab").rows} == {"awa2"}


def test_the_choices_were_made_before_any_record() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    laptop = SelectiveChapter("laptop")
    assert laptop.config("no-colour-augmented").heads == Heads()
    assert dataclasses.astuple(Heads()) == ("own", 16, 1.0, 1.0, 0.2, 1e-2, 5e-4, 64, 1500)
    for regime in REGIMES:
        config = laptop.config(f"{regime}-augmented")
        plan = config.source.plan
        assert (plan.classes, plan.seen, plan.unseen_images, plan.annotated) == (48, 36, 60, regime)
        assert (config.confidence, config.prototypes, config.weight) == ("sum", "ridge", 1.0)
        assert config.source.backbone.epochs == 8
    assert laptop.config("digits-augmented").source == Source("digits", splits=12)
    assert SelectiveChapter("paper").config("cub-augmented").heads.width == 64


def test_only_what_reads_images_of_unseen_classes_is_transductive() -> None:
    found = {row for row, config in SMOKE.configs.items() if config.transductive}
    names = ("bootstrap", "oracle-prototypes", "remainder-bootstrap", "decorrelated-bootstrap")
    assert found == {f"{regime}-{name}" for regime in REGIMES for name in names}


def test_names_of_rows() -> None:
    assert SMOKE.row("augmented") == "full-augmented" and SMOKE.row("four-weight-0.25") == "four-weight-0.25"
    with pytest.raises(UnknownName, match="Did you mean 'full-augmented'"):
        SMOKE.row("full-augmentd")


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "wanted"), tables.named(NAME, "laptop").items())
def test_a_row_has_its_metrics(row: str, wanted: set[str], runs: dict[str, Run]) -> None:
    run = runs[row]
    found = run.record.metrics
    assert wanted <= found.keys() and all(math.isfinite(value) for value in found.values())
    assert found["risk_100"] == pytest.approx(1 - found["accuracy"])
    assert -1e-12 <= found["excess"] <= found["aurcc"] <= 1
    assert [x for x, _ in run.record.curves["risk"]] == list(range(5, 101, 5))
    assert run.record.curves["risk"][-1][1] == pytest.approx(found["risk_100"], abs=1e-5)
    assert run.confidence.shape == run.wrong.shape == (len(run.data.test_unseen),) and run.wrong.dtype == torch.bool
    assert run.record.cpu_seconds > 0
    run.record.save()
    assert report.find(NAME, "smoke", row, 0, run.record.settings) == run.record


@pytest.mark.parametrize("regime", REGIMES)
def test_all_confidences_judge_the_same_answers(regime: str, runs: dict[str, Run]) -> None:
    """Whatever the residual attributes learn and however many there are."""
    first = runs[f"{regime}-defined"]
    for name in OURS:
        run = runs[f"{regime}-{name}"]
        assert torch.equal(run.wrong, first.wrong) and torch.equal(run.evidence.defined, first.evidence.defined), name
        assert run.record.metrics["accuracy"] == first.record.metrics["accuracy"], name


@pytest.mark.parametrize("name", ("dap", "eszsl", "ale", "sae"))
def test_other_methods_are_judged_as_they_answer(name: str, runs: dict[str, Run]) -> None:
    own, judged = (runs[f"four-{row}"] for row in (name, f"{name}-augmented"))
    assert torch.equal(own.wrong, judged.wrong) and judged.classifier is own.classifier and own.evidence is None
    scores = own.classifier.decision_function(own.data.part("test_unseen")[0])[:, own.data.unseen]
    assert torch.allclose(SCORE_CONFIDENCES["softmax"](scores), judged.evidence.confidence("defined"))
    assert torch.allclose(judged.confidence, sum_confidence(judged.evidence, 1.0))
    assert torch.equal(judged.evidence.residual, runs["four-augmented"].evidence.residual)
    softmax = metric(runs, f"four-{name}", "aurcc_softmax")
    assert metric(runs, f"four-{name}-augmented", "gain") == pytest.approx(softmax - judged.record.metrics["aurcc"])
    areas = [metric(runs, f"four-{name}", f"aurcc_{kind}") for kind in SCORE_CONFIDENCES]
    assert metric(runs, f"four-{name}") == min(areas)
    for kind, area in zip(SCORE_CONFIDENCES, areas, strict=True):
        assert area == pytest.approx(aurcc(SCORE_CONFIDENCES[kind](scores), own.wrong, ties="mean"))


def test_the_numbers_are_those_of_risk_and_coverage(runs: dict[str, Run]) -> None:
    run = runs["no-colour-augmented"]
    found, wrong = run.record.metrics, run.wrong.double()
    errors = wrong[run.confidence.argsort(descending=True)]
    risk = errors.cumsum(0) / torch.arange(1, len(errors) + 1)
    assert found["aurcc"] == pytest.approx(float(risk.mean())) and found["accuracy"] == pytest.approx(1 - wrong.mean())
    assert found["excess"] == pytest.approx(float(risk.mean()) - best_area(wrong))
    for share in (20, 50, 80, 100):
        assert found[f"risk_{share}"] == pytest.approx(float(risk[math.ceil(share / 100 * len(risk)) - 1]))
    predicted, labels = run.classifier.predict(run.data.part("test_unseen")[0]), run.data.part("test_unseen")[1]
    assert torch.equal(predicted != labels, run.wrong)
    assert found["class_accuracy"] == pytest.approx(metrics.mean_class_accuracy(predicted, labels))
    assert run.curve.area == found["aurcc"]


def test_gain_is_the_area_of_the_defined_confidence_less_the_rows(runs: dict[str, Run]) -> None:
    for regime in REGIMES:
        defined = metric(runs, f"{regime}-defined")
        for name in OURS:
            found = runs[f"{regime}-{name}"].record.metrics
            assert found["gain"] == pytest.approx(defined - found["aurcc"], abs=1e-12)
            assert found["better"] == float(found["gain"] > 0)
        assert metric(runs, f"{regime}-defined", "gain") == metric(runs, f"{regime}-defined", "better") == 0


def test_floor_and_ceiling(runs: dict[str, Run]) -> None:
    for regime in REGIMES:
        perfect = runs[f"{regime}-perfect"]
        assert metric(runs, f"{regime}-perfect") == pytest.approx(best_area(perfect.wrong))
        assert metric(runs, f"{regime}-perfect", "excess") == pytest.approx(0)
        right = perfect.record.metrics["accuracy"]
        for share in (20, 50, 80, 100):
            count = math.ceil(share / 100 * len(perfect.wrong) - 1e-9)
            least = max(0, count - round(right * len(perfect.wrong))) / count
            assert metric(runs, f"{regime}-perfect", f"risk_{share}") == pytest.approx(least)
        assert all(metric(runs, f"{regime}-perfect") <= metric(runs, f"{regime}-{name}") + 1e-12 for name in OURS)


def test_a_random_order_has_the_area_of_the_risk(runs: dict[str, Run]) -> None:
    evidence, places = runs["full-random"].evidence, torch.zeros(200, dtype=torch.int64)
    predicted = (torch.arange(200) % 4 == 0).long()  # a quarter is wrong
    areas = []
    for seed in range(40):
        bench = Bench(SMOKE.config("full-random"), 0, 0, "cpu")
        bench.seed = seed
        draws = bench.judged().confidence
        assert torch.equal(draws, bench.judged().confidence) and len(draws) == len(evidence)
        draw = torch.rand(200, generator=torch.Generator().manual_seed(seed))
        areas.append(measures(Verdict(predicted, draw, draw), places)[0]["aurcc"])
    assert sum(areas) / len(areas) == pytest.approx(0.25, abs=0.02)


def test_prototypes_come_from_where_the_rows_say(runs: dict[str, Run]) -> None:
    def scored(name: str, prototypes: torch.Tensor) -> bool:
        residual = network.residual(images).double()
        return torch.allclose(runs[f"full-{name}"].evidence.residual, residual @ prototypes.double().T, atol=1e-5)

    run = runs["full-augmented"]
    network, data = run.classifier, run.data
    assert isinstance(network, AugmentedClassifier)
    images, labels = data.part("test_unseen")
    ridge, places = network.prototypes(), torch.searchsorted(data.unseen, labels)
    codes = class_codes(data.attributes, data.seen)
    weights = similarity_weights(codes[data.unseen], codes[data.seen])
    assert scored("augmented", ridge) and scored("permuted", permuted(ridge, 0))
    assert scored("random-prototypes", random_prototypes(ridge, 0))
    assert scored("similarity", synthesised(weights, network.network_.prototypes.detach()))
    true = class_means(network.residual(images), places, len(data.unseen))
    assert scored("oracle-prototypes", true) and metric(runs, "full-oracle-prototypes", "cosine") == pytest.approx(1)
    assert metric(runs, "full-augmented", "cosine") == pytest.approx(float((ridge * true).sum(1).mean()))
    right = (run.evidence.residual.argmax(1) == places).double().mean()
    assert metric(runs, "full-augmented", "residual_accuracy") == pytest.approx(float(right))
    assert not {"cosine", "residual_accuracy"} & runs["full-defined"].record.metrics.keys()
    areas = {metric(runs, f"full-{name}") for name in ("defined", "augmented", "permuted", "random-prototypes")}
    assert len(areas) == 4


def test_unlabelled_images_move_prototypes_as_the_transductive_classifier_does(runs: dict[str, Run]) -> None:
    for name, task in {"bootstrap": "own", "remainder-bootstrap": "remainder"}.items():
        data = runs[f"full-{name}"].data
        images = data.part("test_unseen")[0]
        alone = BootstrappedClassifier(steps=40, task=task, seed=0)
        alone.fit(*data.part("train"), data.attributes, data.seen, images)
        assert torch.allclose(runs[f"full-{name}"].confidence, alone.confidence(images).double(), atol=1e-4)


def test_the_choice_is_that_of_class_wise_cross_validation(runs: dict[str, Run]) -> None:
    run, config = runs["four-chosen"], SMOKE.config("four-chosen")
    settings = {"weights": config.weights, "kappas": config.kappas, "folds": config.folds, "seed": 0}
    found = choose(AugmentedClassifier(steps=40), *run.data.part("train"), run.data.attributes, **settings)
    assert (metric(runs, "four-chosen", "weight"), metric(runs, "four-chosen", "kappa")) == (found.weight, found.kappa)
    prototypes = run.classifier.prototypes(kappa=found.kappa)
    expected = run.classifier.evidence(run.data.part("test_unseen")[0], prototypes=prototypes)
    assert torch.allclose(run.confidence, expected.confidence("sum", found.weight))


def test_the_second_network_is_another_one_of_defined_attributes(runs: dict[str, Run]) -> None:
    run = runs["full-two-heads"]
    other = AugmentedClassifier(steps=40, seed=chapter10.SECOND)
    other.fit(*run.data.part("train"), run.data.attributes, run.data.seen)
    scores = other.decision_function(run.data.part("test_unseen")[0])[:, run.data.unseen]
    assert torch.allclose(run.evidence.residual, scores.double(), atol=1e-5)
    assert not torch.allclose(run.evidence.residual, run.evidence.defined, atol=0.1)
    assert "cosine" not in run.record.metrics


def test_without_the_residual_task_the_answers_are_the_same(runs: dict[str, Run]) -> None:
    run = runs["full-defined"]
    images = run.data.part("test_unseen")[0]
    alone = AugmentedClassifier(steps=40, beta=0.0).fit(*run.data.part("train"), run.data.attributes, run.data.seen)
    assert torch.equal(alone.evidence(images).defined, run.evidence.defined)


def test_runs_repeat_and_seeds_differ(runs: dict[str, Run]) -> None:
    for row in ("full-augmented", "full-random", "digits-permuted", "four-sae-augmented"):
        again = SMOKE.run(row, 0, progress=False)
        assert torch.equal(again.confidence, runs[row].confidence) and again.record.metrics == runs[row].record.metrics
    chapter10.forget()
    again = SMOKE.run("digits-augmented", 0, progress=False)
    assert again.record.metrics == runs["digits-augmented"].record.metrics
    assert SMOKE.run("digits-augmented", 1, progress=False).record.metrics != again.record.metrics


def test_a_row_costs_what_its_fit_did(runs: dict[str, Run]) -> None:
    """Also where the fit was at hand already."""
    config = SMOKE.config("full-defined")
    fit = chapter10.network(config.heads, config.source, 0, 0, 0, str(engine.device())).cost
    for name in ("defined", "augmented", "weight-2", "perfect"):
        spent = SMOKE.run(f"full-{name}", 0, progress=False).record
        assert fit.cpu_seconds <= spent.cpu_seconds < fit.cpu_seconds + 2
    with_two = SMOKE.run("full-two-heads", 0, progress=False).record
    assert with_two.cpu_seconds > fit.cpu_seconds


def test_metrics_of_digits_are_means_over_splits(runs: dict[str, Run]) -> None:
    config = SMOKE.config("segments-augmented")
    assert config.source.splits == 2
    found = []
    for split in range(2):
        bench = Bench(config, 0, split, str(engine.device()))
        found.append(measures(bench.verdict(), bench.places)[0])
    assert not torch.equal(*(Bench(config, 0, split, "cpu").data.unseen for split in range(2)))
    for name, value in runs["segments-augmented"].record.metrics.items():
        assert value == pytest.approx(sum(each[name] for each in found) / 2)
    assert len(runs["segments-augmented"].data.attribute_names) == 7


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_a_world_needs_its_plans() -> None:
    with pytest.raises(ReuseError, match="needs plan= and backbone="):
        SMOKE.run("full-defined", progress=False, source=Source("world"))


def test_a_benchmark_that_was_not_brought() -> None:
    chapter10.forget()
    for scale, row in (("paper", "cub-augmented"), ("colab", "awa2-augmented")):
        with pytest.raises(MissingFile, match="res101.mat is missing. Fix: bring xlsa17.zip"):
            SelectiveChapter(scale).run(row, progress=False)


@pytest.mark.parametrize("name", ("apy", "awa2", "cub", "sun"))
def test_rows_of_a_benchmark(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter10.forget()
    archives.bring_benchmark(name.upper(), monkeypatch, tmp_path)
    paper = SelectiveChapter("paper")
    accuracies = set()
    for row in (row for row in paper.rows if row.startswith(f"{name}-")):
        config = paper.config(row)
        run = paper.run(row, progress=False, heads=replace(config.heads, steps=1), folds=2)
        assert all(math.isfinite(value) for value in run.record.metrics.values())
        assert {"accuracy", "class_accuracy", "aurcc", "excess"} <= run.record.metrics.keys()
        accuracies.add(run.record.metrics["accuracy"])
    assert len(accuracies) == 1 and run.data.name == f"{name}_ps"
    chapter10.forget()


def test_other_methods_on_a_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter10.forget()
    archives.bring_benchmark("AWA2", monkeypatch, tmp_path)
    colab = SelectiveChapter("colab")
    for row in ("awa2-eszsl", "awa2-eszsl-augmented", "awa2-remainder-bootstrap"):
        config = colab.config(row)
        run: Any = colab.run(row, progress=False, heads=replace(config.heads, steps=2))
        assert all(math.isfinite(value) for value in run.record.metrics.values())
    chapter10.forget()
