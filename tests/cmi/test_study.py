"""Chapter 02: its presets, and its rows at the smoke scale: paired, repeatable, recorded."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import chapters, nets, report
from reuselib import run as engine
from reuselib.cmi import FAMILY, Inversion, study
from reuselib.errors import ReuseError
from reuselib.nets import zoo
from reuselib.report import metrics

NAME = "cmi"
SMOKE = chapters.chapter(NAME, "smoke")
TASKS = {
    "smoke": ["shapes"],
    "laptop": ["fashion", "shapes", "cells"],
    "colab": ["cifar10"],
    "paper": [
        *(
            f"{data}.{pair}"
            for data in ("c10", "c100")
            for pair in ("r34-r18", "v11-r18", "w402-w161", "w402-w401", "w402-w162")
        ),
        "tiny.r34-r18",
    ],
}
WITH_STUDENT = [name for name in study.METHODS if SMOKE.config(name).student_steps]
SHARES = {
    "accuracy",
    "protocol_accuracy",
    "coverage",
    "recall",
    "judge_confidence",
    "judge_agreement",
    "teacher_confidence",
    "instance_accuracy",
}
QUALITY = {"judge_distance", "judge_cosine", "frechet", "kernel_distance", "judge_classes", "cells"}
SHORT: dict[str, Any] = {"image_steps": 2, "updates": 10, "student_batch": 16, "limit": 50}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone, draw the procedural images once, and look at instances only shortly."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setattr(zoo, "images", images_drawn_once)
    monkeypatch.setattr(study, "instance_accuracy", functools.partial(study.instance_accuracy, steps=5))


images_drawn_once = functools.cache(zoo.images)


def inversion_of(method: str, seed: int = 0, **changes: Any) -> Inversion:
    bench = study.Bench(SMOKE.config(method, **changes), seed)
    return study.build_inversion(bench.config, bench.studio(), bench.teacher, bench.new_student(), seed)


# ---- presets


def configs() -> Iterator[tuple[str, str]]:
    for scale in report.SCALES:
        for row in chapters.chapter(NAME, scale).rows:
            yield scale, row


def test_every_scale_has_every_method_of_its_tasks() -> None:
    assert set(TASKS) == set(report.SCALES)
    for scale, tasks in TASKS.items():
        assert chapters.chapter(NAME, scale).rows == [f"{task}-{method}" for task in tasks for method in study.METHODS]
    assert {method for method, _ in study.INVERTING.values()} == set(FAMILY)
    assert set(study.METHODS) == {*study.PLAIN, *study.INVERTING}


@pytest.mark.parametrize("scale", report.SCALES)
def test_presets_are_whole_frozen_hashable_and_different(scale: str) -> None:
    chapter, hashes = chapters.chapter(NAME, scale), set()
    for row, config in chapter.configs.items():
        assert f"{config.task}-{config.method}" == row
        assert json.loads(json.dumps(asdict(config), allow_nan=False))
        hashes.add(report.config_hash(config))
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.batch = 1
        assert {config.teacher, config.judge} <= {*zoo.names(), *zoo.RECIPES} and config.teacher != config.judge
        assert config.bank % config.batch == 0, "the bank would not fill with batches"
        assert config.student in nets.MODELS and config.batches >= 1 and config.image_steps >= 1
        assert 0 <= config.early < 1 and all(size < config.batches * config.batch for size in config.sizes)
    assert len(hashes) == len(chapter.rows)


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_differ_in_their_protocol_only(scale: str) -> None:
    """One teacher, one judge, one student, one way to learn from the finished set."""
    chapter = chapters.chapter(NAME, scale)
    protocol = {"method", "sizes", "early", "early_steps", "student_steps", "image_steps", "generator_lr"}
    protocol |= {"batch", "batches"}
    for task in TASKS[scale]:
        rows = [asdict(chapter.config(f"{task}-{method}")) for method in study.METHODS]
        shared = [{name: value for name, value in row.items() if name not in protocol} for row in rows]
        assert all(row == shared[0] for row in shared)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "colab"])
def test_the_methods_of_a_task_make_equally_many_images_and_student_updates(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    for task in TASKS[scale]:
        rows = {method: chapter.config(f"{task}-{method}") for method in study.METHODS}
        assert len({row.batches * row.batch for row in rows.values()}) == 1
        for method in ("adi", "cmi-scratch", "cmi", "inversion-adv"):
            row = rows[method]
            learning = row.batches - round(row.early * row.batches)
            assert learning * row.student_steps == row.updates, method
        assert rows["cmi"].early == rows["inversion-adv"].early == 0.75
        for method in ("dafl", "zskt", "dfad", "dfq"):
            row = rows[method]
            assert row.student_steps == (10 if method == "dfq" else 5)
            assert row.image_steps <= rows["inversion"].image_steps
        steps = {method: rows[method].image_steps for method in ("inversion", "cmi-nonadv", "cmi", "deepinversion")}
        assert len(set(steps.values())) == 1
        assert rows["inversion-long"].image_steps == 2 * steps["inversion"]
        assert rows["cmi-wide"].batch == rows["inversion-wide"].batch == 4 * rows["cmi"].batch


def test_the_papers_presets_have_the_papers_settings() -> None:
    chapter = chapters.chapter(NAME, "paper")
    row = {method: chapter.config(f"c10.w402-w161-{method}") for method in study.METHODS}
    every = row["cmi"]
    assert (every.latent, every.width, every.bank, every.negatives, every.embedding) == (256, 64, 40_960, 4096, 256)
    assert (every.batch, every.student_batch, every.generator_lr) == (256, 128, 1e-3)
    assert (every.lr, every.weight_decay, every.flip, every.limit) == (0.1, 1e-4, True, None)
    # 196 batches made beforehand with 500 steps, then 40 with 200 steps and 2000 student updates each.
    early = round(every.early * every.batches)
    assert (every.batches, early, every.early_steps, every.image_steps) == (236, 196, 500, 200)
    assert (every.batches - early, every.student_steps) == (40, 2000)
    scratch = row["cmi-scratch"]
    assert (scratch.batches, scratch.early, scratch.image_steps, scratch.student_steps) == (200, 0, 200, 400)
    assert row["deepinversion"].image_steps == row["adi"].image_steps == 1000
    assert row["adi"].generator_lr == row["deepinversion"].generator_lr == 0.1
    for method, steps in {"dafl": 5, "zskt": 5, "dfad": 5, "dfq": 10}.items():
        # 200 epochs of 400 student updates.
        assert (row[method].student_steps, row[method].image_steps * steps, row[method].batches) == (steps, 400, 200)
    assert row["kd-real"].updates == 78_400
    networks = {(config.teacher, config.student) for config in chapter.configs.values()}
    assert len(networks) == 11 and ("cifar100-vgg11", "resnet18_8x") in networks


@pytest.mark.parametrize(("scale", "task"), [(scale, task) for scale in TASKS for task in TASKS[scale]])
def test_the_players_fit_the_recipe_of_their_teacher(scale: str, task: str) -> None:
    config = chapters.chapter(NAME, scale).config(f"{task}-cmi")
    recipe, judge = zoo.RECIPES[config.teacher], zoo.RECIPES[config.judge]
    with torch.device("meta"):
        teacher = nets.build(recipe.architecture, **recipe.arguments)
        student = nets.build(config.student, **config.student_arguments)
    assert any(isinstance(module, nn.BatchNorm2d) for module in teacher.modules())
    if recipe.architecture != "vgg11_bn":  # the paper's VGG teaches a larger network
        assert nets.parameter_count(student) < nets.parameter_count(teacher)
    assert judge.dataset == recipe.dataset or scale in ("smoke", "laptop")
    for name in (config.teacher, config.judge):
        if (zoo.folder(name) / "card.json").is_file():
            card = zoo.card(name)
            assert card["image"] == zoo.card(config.teacher)["image"]
            assert len(card["classes"]) % len(zoo.card(config.teacher)["classes"]) == 0


def test_the_tables_and_claims_speak_of_rows_and_measures_that_exist() -> None:
    paper = report.published(NAME)
    assert set(study.METHODS) <= {row.id for table in paper.tables for row in table.rows}
    conditions = [condition for claim in paper.claims for condition in claim.conditions]
    assert len(paper.claims) >= 3
    for condition in conditions:
        configs = chapters.chapter(NAME, condition.scale).configs
        rows = [configs[row] for row in (condition.left, condition.right) if isinstance(row, str)]
        for row in rows:
            measured = SHARES | QUALITY | {f"accuracy_{size}" for size in row.sizes}
            assert condition.metric in measured, condition
            assert row.method not in study.PLAIN


# ---- rows


def test_all_methods_of_a_seed_start_from_one_student() -> None:
    def start(method: str, seed: int) -> list[object]:
        bench = study.Bench(SMOKE.config(method), seed)
        alongside = inversion_of(method, seed).student if method in study.INVERTING else None
        return [players.state(network or bench.student) for network in (bench.student, bench.new_student(), alongside)]

    first = start("cmi", 0)
    assert not list(players.differences(first[0], first[1]))
    for method in study.METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    assert list(players.differences(first, start("cmi", 1)))


def test_all_inversions_of_a_seed_ask_for_the_same_classes() -> None:
    labels = []
    for method in ("inversion", "cmi-nonadv", "cmi-soft"):
        labels.append(SMOKE.run(method, 2, progress=False, **SHORT).images.labels)
    assert torch.equal(labels[0], labels[1]) and torch.equal(labels[0], labels[2])


@pytest.mark.parametrize("method", study.METHODS)
def test_a_row_runs_and_gives_a_valid_record(method: str) -> None:
    run = SMOKE.run(f"shapes-{method}", 3, progress=False, **SHORT)
    record, made = run.record, method in study.INVERTING
    assert (record.chapter, record.scale, record.row, record.seed) == (NAME, "smoke", f"shapes-{method}", 3)
    assert all(math.isfinite(value) for value in record.metrics.values()) and not record.stale
    has_images = method in (*study.INVERTING, "noise", "kd-real")
    expected = SHARES | QUALITY if has_images else {"accuracy", "protocol_accuracy"}
    assert record.metrics.keys() == expected | ({"online_accuracy"} if method in WITH_STUDENT else set())
    assert all(0 <= record.metrics[name] <= 1 for name in SHARES & record.metrics.keys())
    record.save()
    assert [asdict(found) for found in report.records(NAME, "smoke")] == [asdict(record)]
    curves = {name for name, points in record.curves.items() if points}
    assert ("inversion" in curves) == made and ("accuracy" in curves) == (method in WITH_STUDENT)
    assert (run.images is not None) == has_images
    if has_images:
        assert len(run.images) == 64 and run.images.shape == (1, 16, 16)
        assert run.images.classes == run.test.classes and len(run.test) == 50
    assert players.hooks(run.teacher) == 0
    assert all(parameter.grad is None for parameter in run.teacher.parameters())


def test_the_metrics_are_what_they_are_called() -> None:
    run = SMOKE.run("cmi", 0, progress=False, sizes=(16, 32), **SHORT)
    found = run.record.metrics
    assert found["accuracy"] == pytest.approx(engine.accuracy(run.student, run.test))
    assert found.keys() >= {"accuracy_16", "accuracy_32"}
    _, online = run.history.curve("accuracy")
    assert found["protocol_accuracy"] == found["online_accuracy"] == online[-1]
    judge = zoo.load("shapes16-judge")
    features = metrics.features_of(judge, run.images.normalised(run.images.images))
    probabilities = judge.head(features).softmax(1)
    assert found["judge_distance"] == pytest.approx(metrics.mean_distance(features), rel=1e-4)
    assert found["judge_classes"] == pytest.approx(metrics.effective_number(probabilities.argmax(1), 32), rel=1e-4)
    teacher = run.teacher(run.images.normalised(run.images.images)).argmax(1)
    assert found["judge_agreement"] == pytest.approx((probabilities.argmax(1) // 8 == teacher).float().mean().item())
    sure = probabilities.argmax(1)[probabilities.amax(1) > 0.8].tolist()
    assert found["cells"] == sum(sure.count(cell) >= 2 for cell in range(32))


def test_the_sizes_are_the_first_images_and_each_has_a_student_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, distilling = [], study.Bench._distilling

    def listening(bench: study.Bench, images: Any, student: nn.Module) -> engine.Method:
        seen.append((images.images, players.state(student), student is bench.student))
        return distilling(bench, images, student)

    monkeypatch.setattr(study.Bench, "_distilling", listening)
    run = SMOKE.run("inversion", 0, progress=False, sizes=(16, 32), **SHORT)
    for (images, start, own), count in zip(seen, (16, 32, 64), strict=True):
        assert torch.equal(images, run.images.images[:count]) and own == (count == 64)
        assert not list(players.differences(start, seen[0][1]))


def test_the_ceilings_and_floors() -> None:
    teacher, untrained = (SMOKE.run(method, progress=False).record for method in ("teacher", "untrained"))
    assert teacher.metrics["accuracy"] > 0.95 > 0.5 > untrained.metrics["accuracy"]
    real, noise = (SMOKE.run(method, progress=False, updates=150, limit=None) for method in ("kd-real", "noise"))
    assert real.record.metrics["accuracy"] > noise.record.metrics["accuracy"] + 0.3
    assert real.record.metrics["judge_agreement"] > 0.9
    assert real.record.metrics["frechet"] < noise.record.metrics["frechet"]
    values = noise.images.images.float()
    assert values.mean().item() == pytest.approx(127.5, abs=3) and values.std().item() == pytest.approx(73.9, abs=2)


@pytest.mark.parametrize("method", ["cmi", "adi", "dfq", "inversion", "noise", "supervised"])
def test_a_seed_decides_the_result(method: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        run = SMOKE.run(method, seed, progress=False, **SHORT)
        images = [] if run.images is None else [run.images.images]
        results.append([players.state(run.student), *images, run.record.metrics, run.record.curves])
    assert not list(players.differences(results[0], results[1]))
    assert list(players.differences(results[0][:-2], results[2][:-2]))


@pytest.mark.parametrize("method", ["cmi", "dfq", "adi"])
@pytest.mark.parametrize("place", ["inversion", "teaching"])
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, place: str
) -> None:
    whole = SMOKE.run(method, 0, progress=False, **SHORT).record
    owner, name, at = (study.Inversion, "step", 3) if place == "inversion" else (study.Bench, "teach", 0)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(owner, name, players.rigged(getattr(owner, name), at=at))
        with pytest.raises(players.Explosion):
            SMOKE.run(method, 0, progress=False, checkpoint=tmp_path / "run.pt", **SHORT)
    resumed = SMOKE.run(method, 0, progress=False, checkpoint=tmp_path / "run.pt", **SHORT).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)


@pytest.mark.parametrize("changed", [{"updates": 11}, {"changes": {"contrastive": 0.4}}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    options = {"seed": 0, "checkpoint": tmp_path / "run.pt", "progress": False, **SHORT}
    SMOKE.run("cmi", **options)
    with pytest.raises(ReuseError, match=r"run\.pt was made with other settings. Delete it"):
        SMOKE.run("cmi", **options | changed)


def test_changed_weights_reach_the_terms() -> None:
    for method, (_, own) in study.INVERTING.items():
        terms = inversion_of(method, changes={"batch_norm": 7.0}).terms
        assert all(getattr(terms, name) == value for name, value in own.items()) and terms.batch_norm == 7
    for method, adversarial, contrastive, one_hot in [
        ("inversion", 0, 0, 0.5),
        ("inversion-adv", 0.5, 0, 0.5),
        ("cmi-nonadv", 0, 0.8, 0.5),
        ("cmi", 0.5, 0.8, 0.5),
        ("cmi-soft", 0, 0.2, 0.5),
        ("cmi-scratch", 0.5, 0.8, 1),
        ("cmi-wide", 0, 0.8, 0.5),
    ]:
        terms = inversion_of(method).terms
        assert (terms.adversarial, terms.contrastive, terms.one_hot) == (adversarial, contrastive, one_hot), method


def test_untrained_generators_make_their_images_without_an_update() -> None:
    inversion, drawn = inversion_of("untrained-generator"), []
    draw = inversion.canvas.draw

    def watching(random: torch.Generator | None) -> Tensor:
        drawn.append(draw(random))
        return drawn[-1]

    inversion.canvas.draw = watching  # type: ignore[method-assign]
    inversion.step()
    assert len(drawn) == 1
    assert torch.equal(inversion.pool.images().images, (drawn[0].detach().float() * 255).round().byte())


def test_a_shortened_row_is_shorter() -> None:
    chapter = chapters.chapter(NAME, "laptop")
    whole, short = chapter.config("cmi"), chapter.config("cmi", **chapter.live)
    assert short.batches * short.image_steps < whole.batches * whole.image_steps and short.updates < whole.updates
    assert SMOKE.live == {}
