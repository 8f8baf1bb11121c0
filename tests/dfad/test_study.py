"""Chapter 01's rows: paired, repeatable, with the paper's settings, and measured by what the metrics say."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import equations
import players
import pytest
import torch

from reuselib import chapters, nets, run
from reuselib.data import ImageSet, augment
from reuselib.dfad import job, segmentation
from reuselib.dfad import study as dfad
from reuselib.nets import zoo
from reuselib.report import metrics

SMOKE = chapters.study("dfad", "smoke")
SHORT: dict[str, Any] = {"updates": 30, "evaluations": 1, "limit": 200, "options": {"lr": 0.05, "batch": 8}}
TINY: dict[str, Any] = {"updates": 30, "evaluations": 1, "limit": 10, "options": {"lr": 0.1, "batch": 4}}

sets_drawn_once = functools.cache(zoo.images)


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone, and draw the rooms once."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setattr(zoo, "images", sets_drawn_once)


def start(row: str, seed: int = 0) -> job.DFADJob:
    return SMOKE.job(SMOKE.settings[row], seed)


# ---- settings


def test_the_methods_of_a_task_share_players_and_student_updates() -> None:
    for scale, tasks in dfad.TASKS.items():
        study = chapters.study("dfad", scale)
        for task in tasks:
            rows = {row.method: row for row in study.settings.values() if row.task == task.task}
            assert tuple(rows) == dfad.methods(scale, task)
            updates = {name: row.updates for name, row in rows.items() if name != "dfad-long"}
            assert set(updates.values()) == {task.updates}
            assert "dfad-long" not in rows or rows["dfad-long"].updates == 2 * task.updates
            shared = {str((row.teacher, row.student, row.options.get("batch"), row.limit)) for row in rows.values()}
            assert len(shared) == 1


def test_the_papers_rows_have_the_papers_settings_and_fit_their_teacher() -> None:
    study = chapters.study("dfad", "paper")
    for row, batch, lr, decay, iterations, drops, latent in (
        ("mnist-dfad", 512, 0.01, 1e-4, 2000, [], 100),
        ("cifar10-dfad", 256, 0.1, 5e-4, 25_000, [5000, 10_000], 256),
        ("cifar100-dfad", 256, 0.1, 5e-4, 25_000, [5000, 10_000], 256),
        ("caltech101-dfad", 64, 0.05, 5e-4, 15_000, [5000, 10_000], 256),
        ("camvid-dfad", 64, 0.1, 5e-4, 15_000, [5000, 10_000], 256),
        ("nyuv2-dfad", 64, 0.1, 5e-5, 15_000, [5000, 10_000], 256),
    ):
        of_row = study.job(study.settings[row], device="meta")
        ((method, updates),) = of_row.plan()
        optimizer = method.student_optimizer.param_groups[0]
        assert (method.batch, optimizer["initial_lr"], optimizer["weight_decay"]) == (batch, lr, decay)
        assert (updates, method.student_steps, method.generator.latent) == (iterations, 5, latent)
        assert method.generator_optimizer.param_groups[0]["initial_lr"] == 1e-3
        schedule, falls = of_row.schedule(), 0.3 if row == "nyuv2-dfad" else 0.1
        expected = [1, falls, falls, falls**2][: 2 * len(drops)]
        assert [schedule(k) for d in drops for k in (d - 1, d)] == pytest.approx(expected)
        assert nets.parameter_count(method.student) < nets.parameter_count(method.teacher)
        assert of_row.settings.evaluations * 50 == iterations  # one test after every 50 iterations


def test_the_papers_cost_is_predicted_to_a_factor_of_two() -> None:
    before = torch.get_rng_state()
    predicted = chapters.study("dfad", "paper").predict("cifar10-dfad")
    assert 1.3e17 < predicted.operations < 5.2e17 and 1e9 < predicted.memory < 16e9
    assert 0.5 < predicted.hours("A100, bf16") < predicted.hours("T4, fp16") < 24
    once, half = (SMOKE.predict("digits-dfad", updates=5, options={"batch": batch}) for batch in (8, 4))
    assert SMOKE.predict("digits-dfad", updates=35, options={"batch": 8}).operations == 7 * once.operations
    assert half.operations == once.operations / 2 and half.memory < once.memory
    assert torch.equal(torch.get_rng_state(), before)


def test_real_photographs_are_cut_and_mirrored_as_the_teacher_saw_its_own() -> None:
    for scale in ("colab", "paper"):
        for task in dfad.TASKS[scale]:
            assert task.masks or task.get("crop", 0) == zoo.RECIPES[task.teacher].options.get("crop", 0)
    for row in ("digits-kd-real", "digits-kd-related", "digits-supervised"):
        ((method, _),) = SMOKE.job(run.Settings(**SMOKE.settings[row], crop=2)).plan()
        if row == "digits-supervised":
            assert method.augment.keywords == {"padding": 2, "flip": True}
            continue
        images = start(row).training("printed_digits" if row == "digits-kd-related" else None)
        random = [torch.Generator().manual_seed(5) for _ in range(2)]
        expected = images.sample(50, random[0], functools.partial(augment.crop_and_flip, padding=2))[0]
        assert torch.equal(method.source(50, random[1]), expected)


def test_the_rivals_have_the_options_of_their_own_code_on_photographs() -> None:
    paper = chapters.study("dfad", "paper")
    dafl, zskt = (paper.job(paper.settings[f"cifar10-{name}"], device="meta") for name in ("dafl", "zskt"))
    ((method, updates),) = dafl.plan()
    assert (method.one_hot, method.entropy, method.activation) == (0.05, 5, 0.01)
    assert [dafl.schedule()(k) for k in (0, updates * 2 // 5, updates * 4 // 5)] == pytest.approx([1, 0.1, 0.01])
    ((method, updates),) = zskt.plan()
    assert method.layers == ("blocks.0", "blocks.1", "blocks.2", "blocks.3") and updates == 125_000 // 10
    assert [zskt.schedule()(k) for k in (0, updates // 2, updates)] == pytest.approx([1, 0.5, 0])
    ((method, _),) = paper.job(paper.settings["mnist-dafl"], device="meta").plan()
    assert isinstance(method.student_optimizer, torch.optim.Adam)


# ---- colab: the papers' own data, narrow networks

COLAB = chapters.study("dfad", "colab")


@pytest.mark.nightly  # asks every row
def test_a_seed_of_the_colab_table_takes_minutes_on_a_card_and_every_row_can_be_built() -> None:
    assert 60 * sum(COLAB.predict(row).hours("T4, fp16") for row in COLAB.rows) < 15
    assert {COLAB.settings[row].teacher for row in COLAB.rows} == {"mnist32-lenet5", "cifar10-jpeg-resnet20"}


@pytest.mark.parametrize("row", ["mnist-dafl", "cifar10-dfad", "cifar10-kd-real"])
def test_a_colab_row_that_was_cut_goes_on_bit_for_bit(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    players.stand_in(monkeypatch)
    short = {"updates": 10, "evaluations": 2, "options": COLAB.settings[row].options | {"batch": 4}}
    once = functools.partial(COLAB.run, row, 1, progress=False, **short)
    whole = once()
    players.cut(monkeypatch, lambda: once(resume=True), 1)
    resumed = once(resume=True)
    assert not resumed.record.differences(whole.record)
    assert not list(players.differences(players.state(whole.student), players.state(resumed.student)))


# ---- rows


def test_all_methods_of_a_seed_start_from_one_student_and_can_be_built() -> None:
    for task, methods in (("digits", dfad.CLASSIFYING), ("rooms", dfad.SEGMENTING)):
        first = players.state(start(f"{task}-dfad").student)
        for method in methods:
            assert not list(players.differences(first, players.state(start(f"{task}-{method}").student))), method
            tested_only = method in ("teacher", "untrained", "blind")
            settings = SMOKE.settings[f"{task}-{method}"]
            assert len(list(SMOKE.job(settings, device="meta").plan())) == (not tested_only), method
        assert list(players.differences(first, players.state(start(f"{task}-dfad", 1).student)))


ROWS = ("digits-dfad", "digits-zskt", "digits-kd-related", "digits-supervised", "digits-teacher", "rooms-dfad")


@pytest.mark.parametrize("row", [*ROWS, "rooms-kd-related", "rooms-supervised"])
def test_a_row_runs_and_leaves_the_global_state_alone(row: str) -> None:
    before = torch.get_rng_state()
    result = SMOKE.run(row, 1, progress=False, **TINY if row.startswith("rooms") else SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    plays = row.partition("-")[2] in ("dfad", "zskt")
    assert ("classes_covered" in result.metrics) == (result.generator is not None) == plays == bool(result.samples)
    assert all(math.isfinite(value) for value in result.record.metrics.values())


def test_the_metrics_of_classification_are_what_they_are_called() -> None:
    result = SMOKE.run("digits-kd-real", progress=False, **SHORT | {"updates": 500, "evaluations": 2})
    x, y = result.test.normalised(result.test.images), result.test.labels
    with torch.no_grad(), run.frozen(result.student):
        student, teacher = result.student(x).argmax(1), result.teacher(x).argmax(1)
    found, (_, curve) = result.record.metrics, result.history.curve("accuracy")
    assert found["accuracy"] == pytest.approx((student == y).float().mean().item()) == pytest.approx(curve[-1])
    assert found["agreement"] == pytest.approx((student == teacher).float().mean().item())
    assert found["best_accuracy"] == max(curve) and found["mean_accuracy"] == pytest.approx(sum(curve) / 2)
    assert [x for x, _ in result.record.curves["accuracy"]] == [250, 500]  # student updates
    assert result.record.passes["student_forward"] == 500


def test_the_metrics_of_segmentation_are_what_they_are_called() -> None:
    result = SMOKE.run("rooms-kd-real", progress=False, **TINY)
    x = result.test.normalised(result.test.images.images)
    with torch.no_grad(), run.frozen(result.student):
        student, teacher = result.student(x).argmax(1), result.teacher(x).argmax(1)
    found = result.record.metrics
    assert found["mean_iou"] == metrics.mean_iou(metrics.confusion_matrix(student, result.test.masks, 7))
    assert found["agreement"] == pytest.approx((student == teacher).float().mean().item())
    assert found["best_mean_iou"] == found["average_mean_iou"] == result.history.last("mean_iou") == found["mean_iou"]


def test_classes_covered_is_the_exponential_of_the_entropy() -> None:
    images = torch.eye(4).repeat(5, 1)
    mixed = math.exp(-sum(share * math.log(share) for share in (0.75, 0.25)))
    for chosen, expected in ((slice(None), 4), (slice(1), 1), ([0, 0, 0, 1], mixed)):
        assert job.classes_covered(torch.nn.Identity(), images[chosen]) == pytest.approx(expected)


def test_the_ceilings_and_floors() -> None:
    found = {row: SMOKE.run(row, progress=False).record.metrics for row in ("digits-teacher", "digits-untrained")}
    assert found["digits-teacher"]["agreement"] == 1 and found["digits-teacher"]["accuracy"] > 0.95
    assert found["digits-untrained"]["accuracy"] < 0.5
    dfad_accuracy = SMOKE.run("digits-dfad", progress=False).record.metrics["accuracy"]
    assert dfad_accuracy > found["digits-untrained"]["accuracy"] + 0.2
    teacher, untrained = (SMOKE.run(f"rooms-{m}", progress=False).record.metrics for m in ("teacher", "untrained"))
    assert teacher["mean_iou"] > 0.5 > 0.2 > untrained["mean_iou"]


def test_the_blind_network_names_the_most_frequent_class_of_each_place() -> None:
    images = zoo.images("rooms32-segmenter", "train").subset(slice(50))
    often = [[max(range(7), key=lambda c: (images.masks[:, y, x] == c).sum()) for x in range(32)] for y in range(32)]
    found = segmentation.Blind(images)(torch.zeros(2, 3, 32, 32)).argmax(1)
    assert torch.equal(found, torch.tensor(often).expand(2, 32, 32))


def test_the_generators_loss_is_the_log_form_unless_the_row_says_otherwise() -> None:
    d = torch.tensor(1.5)
    for row, expected in (("rooms-dfad", -math.log(2.5)), ("rooms-dfad-plain", -1.5), ("digits-dfad", -1.5)):
        assert next(start(row).plan())[0].generation(d) == pytest.approx(expected)


def test_real_images_reach_the_methods_as_windows_where_they_are_larger() -> None:
    settings = SMOKE.settings["rooms-kd-real"].but(windows=True, image=(3, 16, 16), options={"batch": 4})
    method, _ = next(SMOKE.job(settings).plan())
    assert method.source(4, run.generator(torch.device("cpu"), 0)).shape == (4, 3, 16, 16)
    assert isinstance(start("digits-kd-unrelated").training("fashion_mnist"), ImageSet)


def test_the_equations_shown_are_the_equations_trained() -> None:
    equations.check("dfad", lambda: SMOKE.run("rooms-dfad", progress=False, **TINY))
