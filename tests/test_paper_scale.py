"""One step of the tasks at the paper's scale, on tiny archives in the data sets' true on-disk format.

The teacher is trained for one step by its own recipe, so that all of the path is walked: archive, images, recipe,
card, weights, preset, step, record. Only counts are cut: images, batch, iterations, samples that are looked at.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import archives
import pytest

from reuselib import chapters, data, home, report
from reuselib.chapters import Chapter
from reuselib.cmi import study as cmi
from reuselib.dfad import study as dfad
from reuselib.nets import zoo

CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "caltech101": len(archives.CALTECH_CATEGORIES)}
ONE_STEP = {"iterations": 1, "batch": 2}


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dfad.Bench.sample
    monkeypatch.setattr(dfad.Bench, "sample", lambda bench, count: sample(bench, min(count, 4)))


def published(task: str, scale: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Chapter:
    """Publish the archives of a task, train its teacher for one step, and return the chapter."""
    chapter = chapters.chapter("dfad", scale)
    config = chapter.config(f"{task}-dfad")
    archives.publish(task, monkeypatch, folder, test=10)
    data.load(task, download=True)
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry was written"))
    recipe = zoo.RECIPES[config.teacher]
    short = replace(recipe, iterations=1, warmup=0, options=recipe.options | {"batch": 4})
    monkeypatch.setitem(zoo.RECIPES, config.teacher, short)
    card = zoo.train(config.teacher, progress=False)
    assert tuple(card["image"]) == config.image and len(card["classes"]) == CLASSES[task]
    return chapter


@pytest.mark.parametrize(("scale", "task"), [*(("paper", task) for task in CLASSES), ("colab", "cifar10")])
def test_one_step_of_dfad(scale: str, task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter = published(task, scale, monkeypatch, tmp_path)
    run = chapter.run(f"{task}-dfad", progress=False, classes=CLASSES[task], **ONE_STEP)
    assert 0 <= run.record.metrics["accuracy"] <= 1
    assert run.record.passes == {
        "teacher_forward": 6,
        "teacher_backward": 1,
        "student_forward": 6,
        "student_backward": 6,
        "generator_forward": 6,
        "generator_backward": 1,
    }
    assert run.samples[0].shape == (4, *chapter.config(f"{task}-dfad").image)
    run.record.save()
    assert len(report.records("dfad", scale)) == 1


@pytest.mark.parametrize("method", [method for method in dfad.METHODS if method != "dfad"])
def test_one_step_of_every_other_method(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter = published("mnist", "paper", monkeypatch, tmp_path)
    if method == "kd-related":
        archives.publish("svhn", monkeypatch, tmp_path)
        data.load("svhn", download=True)
    run = chapter.run(f"mnist-{method}", progress=False, **ONE_STEP)
    assert 0 <= run.record.metrics["accuracy"] <= 1
    assert (run.record.passes == {}) == (method in ("teacher", "untrained"))


@pytest.mark.parametrize(
    ("task", "method"),
    [*(("c10.w402-w161", method) for method in ("cmi", "dfq", "adi", "kd-real")), ("tiny.r34-r18", "cmi-nonadv")],
)
def test_one_batch_of_inversion(task: str, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter = chapters.chapter("cmi", "paper")
    config = chapter.config(f"{task}-{method}")
    dataset = zoo.RECIPES[config.teacher].dataset
    archives.publish(dataset, monkeypatch, tmp_path, test=10)
    data.load(dataset, download=True)
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry was written"))
    for name in (config.teacher, config.judge):
        recipe = zoo.RECIPES[name]
        short = replace(recipe, iterations=1, warmup=0, options=recipe.options | {"batch": 4})
        monkeypatch.setitem(zoo.RECIPES, name, short)
        zoo.train(name, progress=False)
    counts = {"batches": 2, "batch": 4, "image_steps": 1, "updates": 1, "student_batch": 4, "bank": 8, "negatives": 4}
    if config.early_steps:
        counts |= {"early": 0.5, "early_steps": 1, "student_steps": 1}
    if dataset == "tiny_imagenet":  # at 64x64 these networks are slow: the images alone
        counts |= {"batches": 1, "batch": 2, "bank": 2}
        monkeypatch.setattr(cmi.Bench, "teach", lambda bench: None)
        monkeypatch.setattr(cmi.Bench, "measure", lambda bench: {"protocol_accuracy": 0.0})
    run = chapter.run(f"{task}-{method}", progress=False, **counts)
    size = 64 if dataset == "tiny_imagenet" else 32
    assert run.images.shape == (3, size, size) and len(run.images) == counts["batches"] * counts["batch"]
    assert 0 <= run.record.metrics["protocol_accuracy"] <= 1
    run.record.save()
    assert len(report.records("cmi", "paper")) == 1
