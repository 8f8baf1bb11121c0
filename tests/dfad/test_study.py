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
from reuselib.data import augment
from reuselib.dfad import job, segmentation
from reuselib.dfad import study as dfad
from reuselib.nets import zoo
from reuselib.report import metrics

SMOKE, PAPER = (chapters.study("dfad", scale) for scale in ("smoke", "paper"))
SHORT: dict[str, Any] = {"updates": 30, "evaluations": 1, "limit": 200, "options": {"lr": 0.05, "batch": 8}}
TINY: dict[str, Any] = {"updates": 30, "evaluations": 1, "limit": 10, "options": {"lr": 0.1, "batch": 4}}

sets_drawn_once = functools.cache(zoo.images)


@pytest.fixture(autouse=True)
def drawn_once(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone, and draw the rooms once."""
    monkeypatch.setattr(zoo, "images", sets_drawn_once)


def start(row: str, seed: int = 0, **options: Any) -> job.DFADJob:
    return SMOKE.job(SMOKE.settings[row], seed, **options)


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


@pytest.mark.parametrize(
    ("row", "batch", "lr", "decay", "iterations", "drops", "latent"),
    [
        ("mnist-dfad", 512, 0.01, 1e-4, 2000, [], 100),
        ("cifar10-dfad", 256, 0.1, 5e-4, 25_000, [5000, 10_000], 256),
        ("cifar100-dfad", 256, 0.1, 5e-4, 25_000, [5000, 10_000], 256),
        ("caltech101-dfad", 64, 0.05, 5e-4, 15_000, [5000, 10_000], 256),
        ("camvid-dfad", 64, 0.1, 5e-4, 15_000, [5000, 10_000], 256),
        ("nyuv2-dfad", 64, 0.1, 5e-5, 15_000, [5000, 10_000], 256),
    ],
)
def test_the_papers_rows_have_the_papers_settings_and_fit_their_teacher(
    row: str, batch: int, lr: float, decay: float, iterations: int, drops: list[int], latent: int
) -> None:
    of_row = PAPER.job(PAPER.settings[row], device="meta")
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


def test_real_images_are_changed_as_the_teacher_saw_its_own() -> None:
    for scale in ("colab", "paper"):
        for task in dfad.TASKS[scale]:
            assert task.masks or task.get("crop", 0) == zoo.RECIPES[task.teacher].options.get("crop", 0)
    for row, other in (("digits-kd-real", None), ("digits-kd-related", "printed_digits")):
        method, _ = next(SMOKE.job(run.Settings(**SMOKE.settings[row], crop=2)).plan())
        random = [torch.Generator().manual_seed(5) for _ in range(2)]
        change = functools.partial(augment.crop_and_flip, padding=2)
        expected = start(row).training(other).sample(50, random[0], change)[0]
        assert torch.equal(method.source(50, random[1]), expected)
    supervised, _ = next(SMOKE.job(run.Settings(**SMOKE.settings["digits-supervised"], crop=2)).plan())
    assert (supervised.augment.func, supervised.augment.keywords) == (augment.crop_and_flip, {"padding": 2})
    # Windows are cut where the images are larger.
    settings = SMOKE.settings["rooms-kd-real"].but(windows=True, image=(3, 16, 16), options={"batch": 4})
    method, _ = next(SMOKE.job(settings).plan())
    assert method.source(4, torch.Generator()).shape == (4, 3, 16, 16)


def test_the_rivals_have_the_options_of_their_own_code_on_photographs() -> None:
    rows = ("cifar10-dafl", "cifar10-zskt", "mnist-dafl")
    dafl, zskt, mnist = (PAPER.job(PAPER.settings[row], device="meta") for row in rows)
    ((method, updates),) = dafl.plan()
    assert (method.one_hot, method.entropy, method.activation) == (0.05, 5, 0.01)
    assert [dafl.schedule()(k) for k in (0, updates * 2 // 5, updates * 4 // 5)] == pytest.approx([1, 0.1, 0.01])
    ((method, updates),) = zskt.plan()
    assert method.layers == ("blocks.0", "blocks.1", "blocks.2", "blocks.3") and updates == 125_000 // 10
    assert [zskt.schedule()(k) for k in (0, updates // 2, updates)] == pytest.approx([1, 0.5, 0])
    ((method, _),) = mnist.plan()
    assert isinstance(method.student_optimizer, torch.optim.Adam)


# ---- rows


def test_all_methods_of_a_seed_start_from_one_student_and_can_be_built() -> None:
    for task, methods in (("digits", dfad.CLASSIFYING), ("rooms", dfad.SEGMENTING)):
        first = players.state(start(f"{task}-dfad").student)
        for method in methods:
            assert not list(players.differences(first, players.state(start(f"{task}-{method}").student))), method
            tested_only = method in ("teacher", "untrained", "blind")
            assert len(list(start(f"{task}-{method}", device="meta").plan())) == (not tested_only), method
        assert list(players.differences(first, players.state(start(f"{task}-dfad", 1).student)))


@pytest.mark.parametrize("row", ["digits-zskt", "digits-kd-related", "rooms-dfad", "rooms-kd-related"])
def test_a_row_runs_and_leaves_the_global_state_alone(row: str) -> None:
    before = torch.get_rng_state()
    result = SMOKE.run(row, 1, progress=False, **TINY if row.startswith("rooms") else SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    plays = row in ("digits-zskt", "rooms-dfad")
    assert ("classes_covered" in result.metrics) == (result.generator is not None) == plays == bool(result.samples)
    assert all(math.isfinite(value) for value in result.record.metrics.values())


@pytest.mark.parametrize(
    ("row", "short"), [("digits-kd-real", SHORT | {"updates": 500, "evaluations": 2}), ("rooms-kd-real", TINY)]
)
def test_the_metrics_are_what_they_are_called(row: str, short: dict[str, Any]) -> None:
    result, updates, evaluations = SMOKE.run(row, progress=False, **short), short["updates"], short["evaluations"]
    x, y = (torch.cat(parts) for parts in zip(*result.test.batches(), strict=True))
    with torch.no_grad(), run.frozen(result.student):
        student, teacher = result.student(x).argmax(1), result.teacher(x).argmax(1)
    found = result.record.metrics
    score, mean, expected = "accuracy", "mean_accuracy", (student == y).float().mean().item()
    if row.startswith("rooms"):
        score, mean = "mean_iou", "average_mean_iou"
        expected = metrics.mean_iou(metrics.confusion_matrix(student, y, 7))
    _, curve = result.history.curve(score)
    assert found[score] == pytest.approx(expected) == pytest.approx(curve[-1])
    assert found[f"best_{score}"] == max(curve) and found[mean] == pytest.approx(sum(curve) / evaluations)
    assert found["agreement"] == pytest.approx((student == teacher).float().mean().item())
    places = [x for x, _ in result.record.curves[score]]
    assert places == [updates * (k + 1) // evaluations for k in range(evaluations)]  # student updates
    assert result.record.passes["student_forward"] == updates


def test_looking_at_samples_leaves_the_generator_as_it_was() -> None:
    of_row = start("digits-dfad")
    before = players.state(of_row.generator)
    assert of_row.sample(3).shape == (3, 1, 8, 8)
    assert not list(players.differences(before, players.state(of_row.generator)))


def test_classes_covered_is_the_exponential_of_the_entropy() -> None:
    images = torch.eye(4).repeat(5, 1)
    mixed = math.exp(-sum(share * math.log(share) for share in (0.75, 0.25)))
    for chosen, expected in ((slice(None), 4), (slice(1), 1), ([0, 0, 0, 1], mixed)):
        assert job.classes_covered(torch.nn.Identity(), images[chosen]) == pytest.approx(expected)


def test_the_ceilings_and_floors() -> None:
    rows = ("digits-teacher", "digits-untrained", "digits-dfad", "rooms-teacher", "rooms-untrained")
    teacher, untrained, learned, *rooms = (SMOKE.run(row, progress=False).record.metrics for row in rows)
    assert teacher["agreement"] == 1 and teacher["accuracy"] > 0.95
    assert untrained["accuracy"] + 0.2 < min(learned["accuracy"], 0.7)
    assert rooms[0]["mean_iou"] > 0.5 > 0.2 > rooms[1]["mean_iou"]


def test_the_blind_network_names_the_most_frequent_class_of_each_place() -> None:
    images = zoo.images("rooms32-segmenter", "train").subset(slice(50))
    often = [[max(range(7), key=lambda c: (images.masks[:, y, x] == c).sum()) for x in range(32)] for y in range(32)]
    found = segmentation.Blind(images)(torch.zeros(2, 3, 32, 32)).argmax(1)
    assert torch.equal(found, torch.tensor(often).expand(2, 32, 32))


def test_the_generators_loss_is_the_log_form_unless_the_row_says_otherwise() -> None:
    d = torch.tensor(1.5)
    for row, expected in (("rooms-dfad", -math.log(2.5)), ("rooms-dfad-plain", -1.5), ("digits-dfad", -1.5)):
        assert next(start(row).plan())[0].generation(d) == pytest.approx(expected)


def test_the_equations_shown_are_the_equations_trained() -> None:
    equations.check("dfad", lambda: SMOKE.run("rooms-dfad", progress=False, **TINY))
