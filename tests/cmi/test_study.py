"""Chapter 02's rows: one teacher, judge, student and way to learn for all, and what is measured."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import equations
import numpy
import players
import pytest
import torch
from PIL import Image
from torch import nn

from reuselib import chapters, run
from reuselib.cmi import Inversion, job
from reuselib.cmi import study as cmi
from reuselib.nets import blank, zoo
from reuselib.report import metrics

SMOKE = chapters.study("cmi", "smoke")
LEARNING = {"batch": 16, "lr": 0.1, "weight_decay": 1e-4}
SHORT: dict[str, Any] = {"image_steps": 2, "updates": 10, "learning": LEARNING, "limit": 50}
QUALITY = {"judge_distance", "judge_cosine", "coverage", "recall", "frechet", "kernel_distance", "judge_classes"} | {
    *("judge_confidence", "judge_agreement", "teacher_confidence", "cells", "instance_accuracy")
}

images_drawn_once = functools.cache(zoo.images)


@pytest.fixture(autouse=True)
def brief(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone, draw the procedural images once, and look at instances only shortly."""
    monkeypatch.setattr(zoo, "images", images_drawn_once)
    monkeypatch.setattr(job, "instance_accuracy", functools.partial(job.instance_accuracy, steps=5))


def of(method: str, seed: int = 0, **changes: Any) -> job.CMIJob:
    return job.CMIJob(SMOKE.settings[f"shapes-{method}"].but(**changes), seed)


def inversion_of(method: str, seed: int = 0, **changes: Any) -> Inversion:
    of_row = of(method, seed, **changes)
    return of_row.inversion(of_row.settings)


def test_the_methods_of_a_task_make_equally_many_images_and_student_updates() -> None:
    for scale in ("smoke", "laptop", "colab"):
        study = chapters.study("cmi", scale)
        for task in {settings.task for settings in study.settings.values()}:
            named = {method: f"{task}-{method}" for method in cmi.METHODS}
            rows = {method: study.settings[row] for method, row in named.items() if row in study.settings}
            assert scale == "colab" or len(rows) == len(named)
            assert len({row.batches * row.batch for row in rows.values()}) == 1
            shared = {str((row.teacher, row.judge, row.student, row.updates, row.learning)) for row in rows.values()}
            assert len(shared) == 1 and all(row.memory.get("bank", 40_960) % row.batch == 0 for row in rows.values())
            for method in ("adi", "cmi-scratch", "cmi", "inversion-adv"):
                row = rows[method]
                assert (row.batches - round(row.early * row.batches)) * row.student_steps == row.updates, method
            alike = ("inversion", "cmi-nonadv", "cmi", *(() if scale == "colab" else ("deepinversion",)))
            assert len({rows[method].image_steps for method in alike}) == 1
            assert rows["inversion-long"].image_steps == 2 * rows["inversion"].image_steps


def test_the_papers_rows_have_the_papers_settings() -> None:
    study = chapters.study("cmi", "paper")
    row = {method: study.settings[f"c10.w402.w161-{method}"] for method in cmi.METHODS}
    of_row = job.CMIJob(row["cmi"], device="meta")
    inversion = of_row.inversion(row["cmi"])
    assert inversion.generator.latent == 256 and inversion.bank.state_dict()["rows"].shape[0] == 0
    assert (inversion.negatives, inversion.batch, inversion.imitation.batch) == (4096, 256, 128)
    # 196 batches made beforehand with 500 steps, then 40 with 200 steps and 2000 student updates each.
    assert (row["cmi"].batches, inversion.early, inversion.early_steps, inversion.image_steps) == (236, 196, 500, 200)
    assert inversion.imitation.student_steps == 2000
    assert row["deepinversion"].image_steps == row["adi"].image_steps == 1000
    assert inversion_of("adi").canvas.lr == inversion_of("deepinversion").canvas.lr == 0.1
    for method, steps in {"dafl": 5, "zskt": 5, "dfad": 5, "dfq": 10}.items():
        assert (row[method].student_steps, row[method].image_steps * steps, row[method].batches) == (steps, 400, 200)
        assert row[method].learning | row[method].alongside == row[method].learning | {"batch": row[method].batch}
    assert (row["kd-real"].updates, row["dafl"].studio) == (78_400, {"lr": 1e-3, "latent": 512})
    distilling = of_row.distilling(blank.images("cifar10", 32, 256), of_row.student)
    schedule = distilling.schedulers[0].lr_lambdas[0]
    assert [round(schedule(epoch * 392), 6) for epoch in (119, 120, 150, 180)] == [1, 0.1, 0.01, 0.001]
    assert len({(each.teacher, str(each.student)) for each in study.settings.values()}) == 11


def test_what_is_predicted_are_updates_of_images_of_students_alongside_and_of_students_afterwards() -> None:
    for method, expected in (("cmi", [3 * 4 + 4, 20, 20]), ("dfq", [8, 80, 20]), ("kd-real", [20]), ("teacher", [])):
        settings = SMOKE.settings[f"shapes-{method}"].but(sizes=())
        assert [updates for _, updates in SMOKE.job(settings, device="meta").plan()] == expected


@pytest.mark.nightly  # asks every row
def test_at_colab_every_method_has_about_the_time_of_cmi_and_a_published_inversion_takes_gpu_hours() -> None:
    study, paper = (chapters.study("cmi", scale) for scale in ("colab", "paper"))
    hours = {row.split("-", 1)[1]: study.predict(row).hours("T4, fp16") for row in study.rows}
    for method in ("dafl", "zskt", "dfad", "dfq", "deepinversion", "adi", "inversion", "cmi-scratch", "cmi"):
        assert 0.6 < hours[method] / hours["cmi-nonadv"] < 1.1, method
    assert sum(hours.values()) < 0.5 and study.settings["cifar10-cmi"].batches * 256 >= 5120
    cmi_hours, dfq_hours = (paper.predict(f"c10.w402.w161-{row}").hours("T4, fp16") for row in ("cmi", "dfq"))
    assert 0.2 < dfq_hours < cmi_hours < 10


def test_students_of_a_finished_set_go_on_where_they_were_cut(monkeypatch: pytest.MonkeyPatch, room: Path) -> None:
    once = functools.partial(SMOKE.run, "cmi-nonadv", 0, progress=False, sizes=(16,), **SHORT)
    whole = once().record
    # Behind four batches and ten updates of the first student: the second has begun.
    players.cut(monkeypatch, lambda: once(resume=True), 14)
    step = players.rigged(job.Distillation.step)
    monkeypatch.setattr(job.Distillation, "step", lambda method: step(method))
    assert not once(resume=True).record.differences(whole)
    assert step.calls == 10 and not list(room.rglob("*.pt"))


def test_all_methods_of_a_seed_start_from_one_student_and_ask_for_the_same_classes() -> None:
    first = players.state(of("cmi").student)
    for method in ("cmi", "dfq", "adi", "zskt"):
        assert not list(players.differences(first, players.state(inversion_of(method).student)))
    assert list(players.differences(first, players.state(of("cmi", 1).student)))
    made = [SMOKE.run(m, 2, progress=False, **SHORT).images.labels for m in ("inversion", "cmi-nonadv")]
    assert torch.equal(*made)


@pytest.mark.parametrize("method", ["dfq", "untrained-generator", "kd-real", "noise", "supervised"])
def test_a_row_runs_and_records_what_it_is_to_record(method: str) -> None:
    result = SMOKE.run(method, 3, progress=False, **SHORT)
    online = {"online_accuracy"} if SMOKE.settings[f"shapes-{method}"].student_steps else set()
    quality = set() if result.images is None else QUALITY
    assert result.record.metrics.keys() == {"accuracy", "protocol_accuracy"} | online | quality


def test_the_metrics_are_what_they_are_called_and_each_size_has_a_student_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taught, distilling = [], job.CMIJob.distilling

    def listening(self: job.CMIJob, images: Any, student: nn.Module) -> run.Method:
        taught.append((images.images, players.state(student), student is self.student))
        return distilling(self, images, student)

    monkeypatch.setattr(job.CMIJob, "distilling", listening)
    result = SMOKE.run("cmi", 0, progress=False, sizes=(16, 32), **SHORT)
    for (images, start, own), count in zip(taught, (16, 32, 64), strict=True):  # the first images each time
        assert torch.equal(images, result.images.images[:count]) and own == (count == 64)
        assert not list(players.differences(start, taught[0][1]))
    found, images = result.record.metrics, result.images
    assert found.keys() == {"accuracy", "accuracy_16", "accuracy_32", "online_accuracy", "protocol_accuracy"} | QUALITY
    assert found["accuracy"] == pytest.approx(run.accuracy(result.student, result.test))
    assert found["protocol_accuracy"] == found["online_accuracy"] == result.history.last("accuracy")
    judge = zoo.load("shapes16-judge")
    features = metrics.features_of(judge, images.normalised(images.images))
    probabilities = judge.head(features).softmax(1)
    assert found["judge_distance"] == pytest.approx(metrics.mean_distance(features), rel=1e-4)
    teacher = result.teacher(images.normalised(images.images)).argmax(1)
    assert found["judge_agreement"] == pytest.approx((probabilities.argmax(1) // 8 == teacher).float().mean().item())
    sure = probabilities.argmax(1)[probabilities.amax(1) > 0.8].tolist()
    assert found["cells"] == sum(sure.count(cell) >= 2 for cell in range(32))


def test_the_ceilings_and_floors() -> None:
    teacher, untrained = (SMOKE.run(method, progress=False).metrics for method in ("teacher", "untrained"))
    assert teacher["accuracy"] > 0.95 > 0.5 > untrained["accuracy"]
    real, noise = (SMOKE.run(method, progress=False, updates=150).metrics for method in ("kd-real", "noise"))
    assert real["accuracy"] > noise["accuracy"] + 0.3
    assert real["judge_agreement"] > 0.9 and real["frechet"] < noise["frechet"]


def test_the_weights_of_a_row_reach_the_terms() -> None:
    expected = {
        **{"inversion": (0, 0, 0.5), "inversion-adv": (0.5, 0, 0.5), "cmi-nonadv": (0, 0.8, 0.5)},
        **{"cmi": (0.5, 0.8, 0.5), "cmi-soft": (0, 0.2, 0.5), "cmi-scratch": (0.5, 0.8, 1), "cmi-wide": (0, 0.8, 0.5)},
    }
    for method, weights in expected.items():
        terms = inversion_of(method).terms
        assert (terms.adversarial, terms.contrastive, terms.one_hot) == weights, method


def test_the_equations_shown_are_the_equations_trained() -> None:
    equations.check("cmi", inversion_of("cmi", early=0.0, student_steps=1).step)


def test_the_pictures_are_small_sheets_of_what_they_are_called() -> None:
    tiny = {"each": 10, "lengths": (1, 2), "width": 4, "latent": 8}
    files = cmi.pictures("shapes16-conv4", "shapes16-judge", label=1, **tiny)
    contrast, forming, neighbours = (numpy.asarray(Image.open(file))[..., 0] for file in files)
    assert [file.stem for file in files] == ["contrast", "forming", "neighbours"]
    assert (contrast.shape, forming.shape, neighbours.shape) == ((35, 171), (18, 137), (18, 137))
    real = zoo.images("shapes16-conv4", "train", "cpu").images[:, 0].numpy()
    assert (real == neighbours[1:17, 69:85]).all((1, 2)).any()  # the fifth: below the first of four classes
    assert (forming[1:17, 69:85] == neighbours[1:17, 1:17]).all()
