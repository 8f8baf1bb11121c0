"""Chapter 09: presets, every row at the smoke scale, choices without unseen classes, benchmarks in their own format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archives
import pytest
import tables
import torch

from reuselib import chapters, qfsl
from reuselib import report as ledger
from reuselib.data import ZeroShotSet
from reuselib.errors import MissingFile, ReuseError, UnknownName
from reuselib.qfsl import options, study, tasks
from reuselib.qfsl.tasks import FIRST_WORLD, BackbonePlan, real_tasks, world_task
from reuselib.worlds.attributes import QFSL_PLAN

NAME = "qfsl"
SMOKE = chapters.chapter(NAME, "smoke")
LAPTOP = chapters.chapter(NAME, "laptop")


@pytest.fixture(autouse=True)
def data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


def run(row: str, seed: int = 0, **changes: Any) -> chapters.Run:
    return SMOKE.run(row, seed, progress=False, **changes)


def world() -> Any:
    return world_task(0, study.SMALL_PLAN, BackbonePlan(epochs=1))


# --- presets ----------------------------------------------------------------------------------------------------------


def configs() -> Iterator[Any]:
    for scale in ledger.SCALES:
        chapter = chapters.chapter(NAME, scale)
        for row in chapter.rows:
            yield pytest.param(chapter.config(row), row, id=f"{scale}-{row}")


@pytest.mark.parametrize(("config", "row"), list(configs()))
def test_a_preset_is_whole(config: study.Config, row: str) -> None:
    assert row == f"{config.task}-{config.method}"
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    assert len(ledger.config_hash(config)) == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task = ""  # type: ignore[misc]


@pytest.mark.parametrize("scale", ledger.SCALES)
def test_rows_differ(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    assert len({ledger.config_hash(config) for config in chapter.configs.values()}) == len(chapter.rows)


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    assert set(tables.named(NAME, "laptop")) == set(LAPTOP.rows)
    assert set(tables.named(NAME, "smoke")) <= set(SMOKE.rows)


def test_the_settings_are_those_of_the_specification() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    config = LAPTOP.config("world-qfsl-1")
    assert (config.plan, config.steps, config.unlabelled_steps, config.batch) == (QFSL_PLAN, 1500, 400, 32)
    assert (config.lr, config.weight_decay, config.contamination) == (1e-2, 5e-4, 4 / 3)
    assert config.backbone == BackbonePlan((24, 48, 64), 128, 10, 64, 4e-3)
    assert LAPTOP.config("digits-qfsl-1").splits == 12 and FIRST_WORLD == 3
    paper = chapters.chapter(NAME, "paper")
    tuned = paper.config("cub-qfsl-end-to-end")
    assert (tuned.tuned_steps, tuned.tuned_lr, tuned.backbone_lr, tuned.steps) == (5000, 1e-3, 0.1, 0)
    assert "sun-qfsl-end-to-end" not in paper.rows and "sun-qfsl-1" in paper.rows


def test_which_rows_are_transductive() -> None:
    named = {row.split("-", 1)[1] for row in LAPTOP.rows}
    assert {method for method in named if study.transductive(method)} == {
        "gfzsl-transductive",
        "entropy",
        "pseudo-labels",
        "unseen-pseudo-labels",
        "qfsl-chosen",
        "qfsl-cold",
        "qfsl-half",
        "qfsl-contaminated",
        "qfsl-end-to-end",
        "qfsl-scratch",
        *(f"qfsl-{weight}" for weight in study.WEIGHTS),
    }


@pytest.mark.parametrize("method", options.CLASSIFIERS)
def test_chosen_options_are_among_those_tried(method: str) -> None:
    for kind in ("world", "digits", "fashion"):
        chosen = dict(options.options(kind, method))
        assert set(chosen) == set(options.GRIDS[method])
        assert all(value in options.GRIDS[method][name] for name, value in chosen.items())
    assert options.build(method, chosen).transductive == study.transductive(method)


def test_unknown_kinds_and_methods() -> None:
    with pytest.raises(UnknownName, match="kind of features"):
        options.options("words", "dap")
    for call in (options.build, lambda name: options.options("world", name)):
        with pytest.raises(UnknownName, match="Did you mean 'eszsl'"):
            call("eszl")
    with pytest.raises(UnknownName, match="task with real images"):
        next(real_tasks("words", 0))
    with pytest.raises(ReuseError, match="needs plan="):
        study.tasks(study.Config("world", "random"), 0)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", SMOKE.rows)
def test_a_row_runs_has_its_metrics_and_repeats(row: str) -> None:
    found = run(row)
    metrics = found.record.metrics
    wanted = tables.named(NAME, "laptop").get(row, set())
    assert wanted <= set(metrics) and all(0 <= metrics[name] <= 1 for name in wanted - {"unused_less_used"})
    classes = len(found.data.classes)
    assert found.scores_unseen.shape == (len(found.labels_unseen), classes)
    assert found.scores_seen.shape == (len(found.data.test_seen), classes)
    again = run(row).record.metrics
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in metrics.items() if k != "seconds"}


def test_metrics_are_the_report_of_the_scores_that_are_kept() -> None:
    found = run("world-qfsl-1")
    data = found.data
    report = qfsl.report(
        found.scores_seen, data.labels[data.test_seen], found.scores_unseen, found.labels_unseen, data.seen, data.unseen
    )
    assert {name: found.record.metrics[name] for name in report} == report


def test_a_seed_of_real_images_is_the_mean_over_its_splits() -> None:
    both = run("digits-eszsl", splits=2).record.metrics["harmonic"]
    data = list(real_tasks("digits", 0, 2))
    apart = []
    for each in data:
        bench = study.Bench(SMOKE.config("digits-eszsl"), 0, each)
        answers = bench.answers()
        apart.append(bench.report(answers.seen, answers.unseen, bench.unseen[1])["harmonic"])
    assert both == pytest.approx(sum(apart) / 2)
    splits = [tuple(each.unseen.tolist()) for seed in range(4) for each in real_tasks("digits", seed, 3)]
    assert len(set(splits)) == 12
    clothes = next(real_tasks("fashion", 1, 3))
    assert clothes.unseen.tolist() == list(splits[3])


def test_the_weight_zero_leaves_the_softmax_over_all_classes() -> None:
    """λ = 0 after the warm start goes on as QFSL-minus (b) would: no unlabelled image moves anything."""
    task = world()
    bench = study.Bench(SMOKE.config("world-qfsl-1"), 0, task.data, task)
    fits = [bench._fit(bench.qfsl(0.0), extra) for extra in (bench.unseen[0], torch.zeros_like(bench.unseen[0]))]
    for first, second in zip(*(fitted.network_.parameters() for fitted in fits), strict=True):
        assert torch.equal(first, second)


def test_a_start_that_is_given_is_the_warm_start() -> None:
    task = world()
    bench = study.Bench(SMOKE.config("world-qfsl-1"), 0, task.data, task)
    start = bench._fit(bench.seen_classifier())
    before = start.network_.bridge.weight.detach().clone()
    fits = [bench._fit(bench.qfsl(1.0)), bench._fit(bench.qfsl(1.0, start=start))]
    assert torch.equal(*(fitted.network_.bridge.weight for fitted in fits))
    assert torch.equal(start.network_.bridge.weight, before) and not torch.equal(fits[0].network_.bridge.weight, before)


# --- nothing of the unseen classes but their images -------------------------------------------------------------------


def shuffled(data: ZeroShotSet) -> ZeroShotSet:
    """The same set with the labels of the unseen images in another order."""
    labels = data.labels.clone()
    labels[data.test_unseen] = labels[data.test_unseen].flip(0)
    return replace(data, labels=labels)


@pytest.mark.parametrize(
    "method", ["qfsl-1", "entropy", "pseudo-labels", "qfsl-chosen", "gfzsl-transductive", "stacking"]
)
def test_no_label_of_an_unseen_class_is_read(method: str) -> None:
    task, config = world(), SMOKE.config(f"world-{method}")
    first, second = (study.Bench(config, 0, each, task).answers() for each in (task.data, shuffled(task.data)))
    assert torch.equal(first.unseen, second.unseen) and torch.equal(first.seen, second.seen)
    assert first.extra == second.extra


@pytest.mark.parametrize("method", ["eszsl", "minus-seen", "minus-all", "stacking"])
def test_inductive_methods_read_no_unseen_image(method: str) -> None:
    task, config = world(), SMOKE.config(f"world-{method}")
    noise = task.data.features.clone()
    noise[task.data.test_unseen] = torch.randn(len(task.data.test_unseen), noise.shape[1])
    answers = [study.Bench(config, 0, each, task).answers() for each in (task.data, task.data.with_features(noise))]
    assert torch.equal(answers[0].seen, answers[1].seen)


def test_the_choices_are_made_on_seen_classes_alone() -> None:
    task = world()
    hidden = task.data.attributes.clone()
    hidden[task.data.unseen] = torch.rand(len(task.data.unseen), hidden.shape[1])
    found = [
        (
            study.Bench(SMOKE.config("world-qfsl-chosen"), 0, each, task).best_weight(),
            study.Bench(SMOKE.config("world-stacking"), 0, each, task).answers().extra["shift"],
        )
        for each in (task.data, replace(task.data, attributes=hidden))
    ]
    assert found[0] == found[1]


def test_the_halves_share_no_image_and_every_class_has_both() -> None:
    task = world()
    bench = study.Bench(SMOKE.config("world-qfsl-half"), 3, task.data, task)
    used, unused = bench.halves()
    assert sorted(torch.cat([used, unused]).tolist()) == list(range(len(bench.unseen[1])))
    for part in (used, unused):
        assert bench.unseen[1][part].unique().tolist() == task.data.unseen.tolist()


# --- end to end -------------------------------------------------------------------------------------------------------


def test_the_networks_before_their_training() -> None:
    task = world()
    bench = study.Bench(SMOKE.config("world-qfsl-end-to-end"), 0, task.data, task)
    started, fresh = bench.network(False).eval(), bench.network(True).eval()
    classifier = bench._fit(bench.seen_classifier())
    images = task.data.part_images("test_unseen")
    x, _ = next(iter(images.batches(8)))
    with torch.no_grad():
        torch.testing.assert_close(started(x), classifier.decision_function(bench.unseen[0][:8]), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(fresh(x), started(x), atol=1e-2)


def test_the_worlds_backbone_is_never_trained_on() -> None:
    task = world()
    before = {name: value.clone() for name, value in task.backbone.state_dict().items()}
    run("world-qfsl-end-to-end")
    assert all(torch.equal(value, before[name]) for name, value in world().backbone.state_dict().items())
    assert world().backbone is task.backbone and not task.backbone.training


def test_another_regime_changes_the_attributes_alone() -> None:
    task = world()
    plain = world_task(0, replace(study.SMALL_PLAN, annotated="no-colour"), BackbonePlan(epochs=1))
    assert plain.backbone is task.backbone and torch.equal(plain.data.features, task.data.features)
    assert plain.data.attributes.shape == (30, 17) and task.data.attributes.shape == (30, 23)
    assert task.world.seed == FIRST_WORLD


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_a_benchmark_that_is_not_there() -> None:
    with pytest.raises(MissingFile, match="xlsa17"):
        chapters.chapter(NAME, "paper").run("awa2-eszsl", progress=False)


def test_the_benchmarks_rows_run_on_files_of_the_true_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.bring_benchmark("CUB", monkeypatch, tmp_path)
    monkeypatch.setattr(study, "torchvision_classifier", lambda name, where: models_like_resnet().to(where))
    tasks.benchmark.cache_clear()
    paper = chapters.chapter(NAME, "paper")
    for method in ("eszsl", "minus-seen", "qfsl-1", "qfsl-half", "minus-end-to-end", "qfsl-end-to-end"):
        row = f"cub-{method}"
        found = paper.run(row, progress=False, **{**SHORT, "steps": min(paper.config(row).steps, 4)})
        assert found.scores_unseen.shape == (len(found.labels_unseen), 6)
        assert found.scores_unseen.isfinite().all()
    tasks.benchmark.cache_clear()


SHORT = {"unlabelled_steps": 3, "tuned_steps": 2, "batch": 4}


def models_like_resnet() -> torch.nn.Module:
    """What torchvision's ResNet-101 looks like from outside: images to 2,048 features, and a layer called ``fc``."""
    network = torch.nn.Sequential()
    network.add_module("stem", torch.nn.Conv2d(3, 2048, 7, 32))
    network.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", torch.nn.Flatten())
    network.add_module("fc", torch.nn.Linear(2048, 1000))
    return network
