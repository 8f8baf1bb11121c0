"""Chapter 09: settings, every kind of row at the smoke scale, choices without unseen classes, benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archives
import equations
import pytest
import tables
import torch
from zeroshot_toys import assert_refused

from reuselib import chapters
from reuselib.data import ImageSet, ZeroShotSet
from reuselib.errors import BadValue, DamagedFile, MissingFile, UnknownName
from reuselib.qfsl import job, metrics, study, tasks
from reuselib.qfsl.job import Split
from reuselib.qfsl.rivals import OPTIONS, RIVALS

SMOKE, LAPTOP, COLAB, PAPER = (chapters.study("qfsl", scale) for scale in ("smoke", "laptop", "colab", "paper"))
pytestmark = pytest.mark.usefixtures("room")  # records stay out of the clone; shipped images are still found there


def run(row: str, seed: int = 0, **changes: Any) -> job.QFSLResult:
    return SMOKE.run(row, seed, progress=False, **changes)


def world() -> tasks.WorldTask:
    settings = SMOKE.settings["world-qfsl-1"]
    return tasks.world_task(0, settings.plan, settings.epochs)


def split(method: str, data: ZeroShotSet | None = None, seed: int = 0) -> Split:
    task = world()
    return Split(SMOKE.settings[f"world-{method}"], seed, data or task.data, task)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_tables_and_claims() -> None:
    assert set(tables.named("qfsl", "laptop")) == set(LAPTOP.rows)
    assert set(tables.named("qfsl", "smoke")) <= set(SMOKE.rows)


def test_what_no_record_holds_is_as_specified_and_which_rows_are_transductive() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    default = job.QFSLClassifier()
    assert (default.steps, default.unlabelled_steps, default.batch, default.lr) == (1500, 400, 32, 1e-2)
    tuned = PAPER.settings["cub-qfsl-end-to-end"]
    assert (tuned.updates, tuned.options, tuned.dropout) == (5000, {"lr": 1e-3}, 0.2)
    assert tuned.flip and tuned.start is None and tasks.FIRST_WORLD == 3
    assert "sun-qfsl-end-to-end" not in PAPER.rows and "sun-qfsl-1" in PAPER.rows
    named = {row.split("-", 1)[1] for row in LAPTOP.rows}
    found = {method for method in named if study.transductive(method)}
    assert found == {method for method in named if method.startswith("qfsl")} | {*study.TERMS, "gfzsl-transductive"}
    assert all(kind.transductive == study.transductive(name) for name, kind in RIVALS.items())


# --- rows -------------------------------------------------------------------------------------------------------------

PATHS = ["minus-all", "entropy", "eszsl", "ale", "gfzsl-transductive", "qfsl-1", *job.METHODS]
ROWS = [f"world-{name}" for name in PATHS if f"world-{name}" in SMOKE.rows]


@pytest.mark.parametrize("row", [*ROWS, "fashion-qfsl-1"])
def test_a_row_runs_has_its_metrics_and_repeats(row: str) -> None:
    found = run(row)
    wanted, shares = tables.named("qfsl", "laptop").get(row, set()), found.record.metrics
    assert wanted <= set(shares) and all(0 <= shares[name] <= 1 for name in wanted - {"unused_less_used"})
    assert found.scores_unseen.shape == (len(found.labels_unseen), len(found.data.classes))
    assert found.scores_seen.shape == (len(found.data.test_seen), len(found.data.classes))
    own = found.scores_seen, found.data.labels[found.data.test_seen], found.scores_unseen, found.labels_unseen
    expected = metrics.report(*own, found.data.seen, found.data.unseen)
    assert {name: shares[name] for name in expected} == pytest.approx(expected)
    precision = SMOKE.job(SMOKE.settings[row]).precision if row.startswith("world-") else "fp32"
    assert found.record.precision == precision
    assert run(row).record.metrics | {"seconds": 0} == shares | {"seconds": 0}


def test_a_seed_of_real_images_is_the_mean_over_its_splits() -> None:
    both = run("digits-eszsl", splits=2).record.metrics["harmonic"]
    parts = [Split(SMOKE.settings["digits-eszsl"], 0, data) for data in tasks.real_sets("digits", 0, 2, "cpu")]
    assert both == pytest.approx(sum(part.report(part.answers())["harmonic"] for part in parts) / 2)
    splits = [tuple(data.unseen.tolist()) for seed in range(4) for data in tasks.real_sets("digits", seed, 3, "cpu")]
    assert len(set(splits)) == 12
    assert tuple(tasks.real_sets("fashion", 1, 1, "cpu")[0].unseen.tolist()) == splits[1]
    assert_refused(
        (UnknownName, "task with real images", lambda: tasks.real_sets("words", 0, 1, "cpu")),
        (BadValue, "seed must be a whole number", lambda: tasks.real_sets("digits", -1, 1, "cpu")),
        (BadValue, "splits must be a whole number", lambda: tasks.real_sets("digits", 0, 0, "cpu")),
        (UnknownName, "plan 'famlies'. Did you mean 'families'", lambda: tasks.world_task(0, {"famlies": 3}, 1)),
    )


def test_the_equations_shown_are_those_of_the_rows() -> None:
    equations.check("qfsl", lambda: [run("world-qfsl-1"), run("world-eszsl")])


def test_a_start_that_is_given_is_the_warm_start() -> None:
    each = split("qfsl-1")
    start = each.fit(job.SeenClassifier(steps=40))
    before = start.network_.bridge.weight.detach().clone()
    own, given = (each.fit(each.qfsl(**how)).network_.bridge.weight for how in ({}, {"start": start}))
    assert torch.equal(own, given) and not torch.equal(own, before)
    assert torch.equal(start.network_.bridge.weight, before)


# --- nothing of the unseen classes but their images -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["qfsl-1", "entropy", "qfsl-chosen", "gfzsl-transductive", "stacking", "eszsl"])
def test_no_label_of_an_unseen_class_is_read_and_no_image_of_one_by_an_inductive_method(method: str) -> None:
    data = world().data
    labels, features = data.labels.clone(), data.features.clone()
    labels[data.test_unseen] = labels[data.test_unseen].flip(0)
    other = replace(data, labels=labels)
    if not study.transductive(method):
        features[data.test_unseen] = torch.randn(len(data.test_unseen), features.shape[1])
        other = other.with_features(features)
    first, second = (split(method, each).answers() for each in (data, other))
    assert torch.equal(first.scores_seen, second.scores_seen) and first.extra == second.extra
    assert torch.equal(first.scores_unseen, second.scores_unseen) == study.transductive(method)


def test_halves_and_heaps_have_the_images_that_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    each = split("qfsl-half", seed=3)
    parts = each.halves()
    assert sorted(torch.cat(parts).tolist()) == list(range(len(each.unseen[1])))
    assert all(each.unseen[1][part].unique().tolist() == each.data.unseen.tolist() for part in parts)
    assert job.heap_sizes(3, ratio=4) == pytest.approx([1, 0.5, 0.25])
    assert job.heap_sizes(10, absent=0.7) == [1] * 3 + [0] * 7
    monkeypatch.setattr(Split, "fit", lambda each, found, extra: extra)
    monkeypatch.setattr(Split, "scored", lambda each, extra: extra)
    for method in ("qfsl-uneven", "qfsl-absent"):
        each = split(method)
        labels = each.unseen[1][(each.heap().unsqueeze(1) == each.unseen[0]).all(2).int().argmax(1)]
        sizes = [round(8 * share) for share in job.heap_sizes(10, **each.settings.heap)]
        assert sorted(labels.unique(return_counts=True)[1].tolist()) == sorted(size for size in sizes if size)


# --- photographs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageSet]:
    """A little CIFAR-10 of noise, whose ImageNet features are noise too."""
    draw, labels = torch.Generator().manual_seed(0), torch.arange(10).repeat_interleave(6)
    pixels = torch.randint(256, (60, 3, 32, 32), generator=draw).byte()
    images = ImageSet("cifar10-jpeg", pixels, labels, tuple(map(str, range(10))), (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(tasks.data, "load", lambda name, split: images)
    monkeypatch.setattr(tasks, "CIFAR_IMAGES", (6, 6))
    monkeypatch.setattr(tasks, "imagenet_features", lambda where: torch.randn(120, 12, generator=draw))
    caches = tasks.photographs, tasks.photograph_sets
    for cached in caches:
        cached.cache_clear()
    yield images
    for cached in caches:
        cached.cache_clear()


def test_rows_of_photographs_choose_options_on_their_splits(photographs: ImageSet) -> None:
    settings = COLAB.settings["cifar-eszsl"]
    ((row, options),) = COLAB.choose(["cifar-eszsl"], 1)
    assert row == "cifar-eszsl" and len(options) == tasks.SPLITS
    data = tasks.opened("cifar", settings, 1, "cpu")[0]
    noise = torch.randn_like(data.features)
    noise[data.train] = data.features[data.train]
    assert Split(settings, 1, data).options() == Split(settings, 1, data.with_features(noise)).options() == options[0]
    with pytest.raises(BadValue, match="world-eszsl chooses nothing"):
        list(LAPTOP.choose(["world-eszsl"]))
    assert not any("choice" in settings for settings in LAPTOP.settings.values())
    assert all("choice" in PAPER.settings[f"{task}-{name}"] for task in ("awa2", "cubss") for name in RIVALS)


def test_features_of_the_seen_classes_read_no_image_of_an_unseen_one_and_are_kept(
    photographs: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned: list[ImageSet] = []
    train = tasks.trained_backbone
    monkeypatch.setattr(tasks, "trained_backbone", lambda x, *a, **o: (learned.append(x), train(x, *a, **o))[1])
    first, second = tasks.photograph_sets("seen", 0, 2, 1, "cpu")
    assert first.features.shape == (120, tasks.FEATURES) and not torch.equal(first.features, second.features)
    for data, images in zip((first, second), learned, strict=True):
        assert images.labels.unique().tolist() == list(range(7))
        assert torch.equal(images.images, photographs.images[torch.isin(photographs.labels, data.seen)])
    tasks.photograph_sets.cache_clear()
    assert torch.equal(tasks.photograph_sets("seen", 0, 2, 1, "cpu")[0].features, first.features) and len(learned) == 2
    for path in (tmp_path / "downloads/features").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    tasks.photograph_sets.cache_clear()
    with pytest.raises(DamagedFile, match="it holds no features .*Fix: delete it"):
        tasks.photograph_sets("seen", 0, 2, 1, "cpu")


def test_what_photographs_need() -> None:
    needed = {task: chapters.study("qfsl", "colab").needs([f"{task}-eszsl"]).images for task in ("cifar", "seen")}
    assert needed == {"cifar": ("cifar10-jpeg", "efficientnet_lite"), "seen": ("cifar10-jpeg",)}


# --- end to end -------------------------------------------------------------------------------------------------------


def test_the_cost_of_choosing_end_to_end_counts_the_networks_of_the_folds() -> None:
    """Four folds with seven weights each, and the network that is kept."""
    paper = chapters.study("qfsl", "paper")
    one, all_of_them = (paper.predict(f"awa2-qfsl-end-to-end{more}").operations for more in ("", "-chosen"))
    assert all_of_them == pytest.approx(29 * one)


def test_the_networks_before_their_training_and_the_worlds_backbone_after() -> None:
    task = world()
    before = {name: value.clone() for name, value in task.backbone.state_dict().items()}
    each = split("qfsl-end-to-end")
    started, fresh = each.network().eval(), split("qfsl-scratch").network().eval()
    x, _ = next(iter(task.data.part_images("test_unseen").batches(8)))
    expected = each.fit(job.SeenClassifier(steps=40)).decision_function(each.unseen[0][:8])
    with torch.no_grad():
        torch.testing.assert_close(started(x), expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(fresh(x), expected, atol=1e-2)
    run("world-qfsl-end-to-end")
    assert world().backbone is task.backbone and not task.backbone.training
    assert all(torch.equal(value, before[name]) for name, value in task.backbone.state_dict().items())


def test_another_regime_changes_the_attributes_alone() -> None:
    task, settings = world(), SMOKE.settings["world-qfsl-1"]
    plain = tasks.world_task(0, settings.plan | {"annotated": "no-colour"}, 1)
    assert plain.backbone is task.backbone and torch.equal(plain.data.features, task.data.features)
    assert plain.data.attributes.shape == (30, 17) and task.data.attributes.shape == (30, 23)


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_the_benchmarks_rows_run_on_files_of_the_true_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.benchmark.cache_clear()
    with pytest.raises(MissingFile, match="xlsa17"):
        PAPER.run("awa2-eszsl", progress=False)
    archives.bring_benchmark("CUB", monkeypatch, tmp_path)
    # Kernels of 2: oneDNN on AVX2 alone writes out of bounds behind a strided 1x1 convolution of under 8 channels.
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 2048, 2, 32), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    monkeypatch.setattr(job, "resnet101", lambda where: inner.to(where))
    monkeypatch.setitem(OPTIONS["tried"], "eszsl", {"gamma": [10.0]})  # others would take seconds
    short = {"updates": 2, "options": {"batch": 4}}
    changes: dict[str, dict[str, Any]] = {
        "eszsl": {},
        "qfsl-half": {"options": {"steps": 4, "unlabelled_steps": 3, "batch": 4}},
        "minus-end-to-end": short,
        "qfsl-end-to-end-chosen": short | {"weights": (0.5, 1.0), "folds": 2},
    }
    for method, change in changes.items():
        found = PAPER.run(f"cub-{method}", progress=False, **change)
        assert found.scores_unseen.shape == (len(found.labels_unseen), 6) and found.scores_unseen.isfinite().all()
    assert found.metrics["weight"] in (0.5, 1.0)
    standard = PAPER.run("cubss-eszsl", progress=False, choice={"folds": 2, "images": 3})
    assert set(standard.metrics) == {"conventional", "largest_class", "seconds"} and standard.data.name == "cub_ss"
    codes = COLAB.job(COLAB.settings["awa2-codes"].but(task="cub", unseen=2)).result().metrics
    assert set(codes) == {"nearest", "crowded", "spanned", "independent", "recovered"}
    tasks.benchmark.cache_clear()
