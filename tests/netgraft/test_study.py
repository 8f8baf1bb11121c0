"""Chapter 04's rows: paired, repeatable, with the official settings, and measured by what the metrics say."""

from __future__ import annotations

import functools
import math
from typing import Any

import equations
import players
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import chapters, netgraft, nets, report, run
from reuselib.errors import BadValue
from reuselib.netgraft import study
from reuselib.netgraft.job import METHODS, NetGraftJob
from reuselib.nets import zoo

SMOKE, LAPTOP, PAPER = (chapters.study("netgraft", scale) for scale in ("smoke", "laptop", "paper"))
SHORT: dict[str, Any] = {"limit": 60, "watched": 40}
GRAFTING = ("netgraft", "netgraft-pruned", "features", "unnormalised", "stage1", "stage2", "whole")

drawn_once = functools.cache(zoo.images)


@pytest.fixture(autouse=True)
def images_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "images", drawn_once)


def start(row: str, seed: int = 0, scale: Any = SMOKE, **changes: Any) -> NetGraftJob:
    return scale.job(scale.settings[row].but(**changes), seed)


def advance(method: run.Method, updates: int) -> None:
    for _ in range(updates):
        method.step()
        method.iteration += 1


# --- settings


def test_the_rows_of_a_task_differ_in_their_rates_alone() -> None:
    for scale in (SMOKE, LAPTOP, PAPER):
        alike: dict[str, set[str]] = {}
        for row in scale.settings.values():
            if row.method == "netgraft-slow":
                assert (row.lr, row.block_lr) == (2e-3, study.TUNED["netgraft"])
                continue
            alike.setdefault(row.task, set()).add(str(row.but(method="", lr=0)))
            assert row.lr == study.TUNED.get(row.method, 2e-3) or scale is PAPER
            assert len(row.network_steps) == len(row.block_steps) - 1
            assert row.shared <= row.hint < row.shared + len(row.block_steps) - 1
        assert all(len(texts) == 1 for texts in alike.values())
    assert len(PAPER.rows) == 202


def test_the_ablations_spread_the_same_updates_over_their_grafts() -> None:
    def plan(method: str) -> list[tuple[tuple[int, ...], int]]:
        job = start(f"symbols.1-{method}", block_steps=(10,) * 5, network_steps=(11, 12, 13, 14))
        return [(graft.blocks, graft.steps) for graft in job.grafts()]

    single, growing = [(block,) for block in range(5)], [tuple(range(end)) for end in range(2, 6)]
    whole = [*zip(single, [10] * 5, strict=True), *zip(growing, (11, 12, 13, 14), strict=True)]
    expected = {"stage1": [(blocks, 20) for blocks in single], "stage2": [(b, 20) for b in [(0,), *growing]]}
    for method in GRAFTING:
        assert plan(method) == (expected | {"whole": [((0, 1, 2, 3, 4), 100)]}).get(method, whole)


def test_cifar_has_the_official_schedule() -> None:
    for shots, batch in {1: 6, 5: 32, 50: 320}.items():
        for classes, passes, rates in (
            (10, (100, 60, 60, 100, 100), (2.5e-4, 2.5e-4, 2.5e-4, 2.5e-3)),  # of three blocks and of the adapters
            (100, (1000, 200, 200, 150, 150), (2.5e-4, 1e-3, 1e-3, 1e-3)),
        ):
            job = PAPER.job(PAPER.settings[f"cifar{classes}.shared.{shots}-netgraft"], device="meta")
            plan, updates = job.grafts(), math.ceil(classes * shots / batch)
            assert dict(job.settings.options) == {"batch": batch, "epochs": True} and job.settings.padding == 4
            assert [graft.blocks for graft in plan] == [(3,), (4,), (5,), (3, 4), (3, 4, 5)]
            assert [graft.steps for graft in plan] == [updates * each for each in passes]
            *blocks, adapters = (each * shots / 10 for each in rates)
            assert [graft.lr for graft in plan] == pytest.approx([*blocks, 1e-4, 1e-4])
            assert [graft.adapter_lr for graft in plan] == [*[pytest.approx(adapters)] * 3, None, None]


def test_the_papers_networks_are_the_published_ones() -> None:
    for row, counts in {
        "cifar10.shared.1-netgraft": (14_983_498, 5_412_682),
        "cifar100.shared.1-netgraft": (15_029_668, 5_458_852),
        "imagenet.1-netgraft": (21_797_672, 11_689_512),
    }.items():
        job = PAPER.job(PAPER.settings[row], device="meta")
        method = job.graft()
        assert (nets.parameter_count(job.teacher), nets.parameter_count(job.student)) == counts
        assert nets.parameter_count(method.folded()) == counts[1]
        if row == "cifar10.shared.1-netgraft":  # biases included
            assert sum(p.numel() for scion in method.scions for p in scion.adapters()) == 525_824


def test_predicted_operations_are_those_of_a_run() -> None:
    for row in ("symbols.1-netgraft", "symbols.1-fitnet"):
        changes = {"options": {"batch": 4, "epochs": True}}
        method = start(row, **changes).method()
        with FlopCounterMode(display=False) as counter:
            advance(method, 27)
        assert SMOKE.predict(row, **changes).operations == pytest.approx(counter.get_total_flops())
    assert SMOKE.predict("symbols-teacher").operations == 0


# --- rows


@pytest.mark.parametrize("method", [*(m for m in METHODS if m != "netgraft-slow"), "teacher", "untrained"])
def test_a_row_runs_and_gives_what_it_is_to_give(method: str) -> None:
    row = f"symbols{'' if method in study.PLAIN_BOUNDS else '.1'}-{method}"
    result, fresh = SMOKE.run(row, 3, progress=False, **SHORT), start(row, 3)
    found, trained = result.metrics, method in METHODS
    single = {f"{name}_{block}" for name in ("graft", "saved") for block in range(1, 6)}
    grafted = {"unfolded_accuracy", "fold_error", "fold_digits"} if method in GRAFTING else set()
    early = {"early_accuracy", "early_gap"} if method == "kd" or (grafted and method != "stage2") else set()
    blocks = single if grafted and method not in ("stage2", "whole") else set()
    assert found.keys() == {"accuracy", "agreement", "parameters"} | grafted | early | blocks
    assert all(math.isfinite(value) for value in found.values()) and (not grafted or found["fold_digits"] > 4)
    assert (result.method is not None) == bool(result.record.curves["loss"]) == trained
    assert result.student.state_dict().keys() == fresh.student.state_dict().keys()
    assert not list(players.differences(players.state(result.teacher), players.state(fresh.teacher)))
    assert not trained or len(result.job.images) == (10 * fresh.settings.shots or 6000)
    if trained and fresh.settings.shots and method != "fskd":
        assert result.record.curves["loss"][-1][0] == 27 == result.method.iteration
    if method == "untrained":
        assert not list(players.differences(*map(players.state, (fresh.student, result.student))))
    assert method != "teacher" or (found["agreement"] == 1 and found["accuracy"] > 0.9)


@torch.no_grad()
def slow_gap(job: NetGraftJob, network: nn.Module) -> float:
    """NetGraft's loss per image on the watched test images, less that on the few."""
    both = [images.normalised(images.images) for images in (job.watched, job.images)]
    test, few = ((2 - 2 * torch.cosine_similarity(job.teacher(x), network(x))).mean().item() for x in both)
    return test - few


@pytest.mark.parametrize(("method", "count"), [("netgraft", 5), ("kd", 1), ("whole", 1)])
def test_early_is_after_as_many_updates_as_one_block_gets_and_nothing_before(method: str, count: int) -> None:
    row = f"symbols.1-{method}"
    found, job = SMOKE.run(row, 2, progress=False, **SHORT).metrics, start(row, 2, **SHORT)
    again, accuracies, gaps = job.method(), [], []
    for block in range(count):
        advance(again, 3)
        network = job.student if method == "kd" else again.hybrid([block] if method == "netgraft" else range(5))
        with run.frozen(network):
            accuracies.append(run.accuracy(network, job.watched))
            gaps.append(slow_gap(job, network))
    assert found["early_accuracy"] == pytest.approx(sum(accuracies) / count)
    assert found["early_gap"] == pytest.approx(sum(gaps) / count, abs=1e-4)
    if method == "netgraft":
        assert [found[f"graft_{block}"] for block in range(1, 6)] == pytest.approx(accuracies)
        both = (list(map(nets.parameter_count, netgraft.blocks_of(each))) for each in (job.student, job.teacher))
        saved = [1 - new / old for new, old in zip(*both, strict=True)]
        assert [found[f"saved_{block}"] for block in range(1, 6)] == pytest.approx(saved)
    job = start(row, 2, **SHORT)
    learning = job.method()
    cut = run.run(learning, 2, progress=False, evaluate=lambda: job.watch(learning, {3}))
    assert job.early(learning, cut) == {} and "accuracy" in job.measure(learning, cut)


def test_what_the_folded_student_shows_is_what_it_is_called() -> None:
    result = SMOKE.run("symbols.5-netgraft", 1, progress=False)
    found, chain, test = result.metrics, nn.Sequential(*result.method.scions).eval(), result.test
    with torch.no_grad(), run.frozen(result.student):
        x, everything = (images.normalised(images.images) for images in (result.job.watched, test))
        before, after = chain(x), result.student(x)
        chosen, unfolded, teachers = (net(everything).argmax(1) for net in (result.student, chain, result.teacher))
    error = ((before - after).abs().max() / before.abs().max()).item()
    assert found["fold_error"] == pytest.approx(error, rel=1e-3, abs=1e-9) and 0 < error < 1e-4
    assert found["fold_digits"] == pytest.approx(-math.log10(found["fold_error"]))
    same = {"accuracy": chosen == test.labels, "agreement": chosen == teachers}
    for name, each in (same | {"unfolded_accuracy": unfolded == test.labels}).items():
        assert found[name] == pytest.approx(each.float().mean().item())


def test_all_methods_of_a_seed_start_from_one_student_and_see_the_same_few_images() -> None:
    rows = ["symbols.5-netgraft", "symbols.5-kd", "symbols.5-stage1", "symbols-supervised"]
    first, other = start(rows[0]), start(rows[0], 1)
    assert first.images.labels.bincount().tolist() == [5] * 10
    for row in rows:
        job = start(row)
        assert not list(players.differences(players.state(first.student), players.state(job.student))), row
        assert torch.equal(first.images.images, job.images.images) or not job.settings.shots, row
    assert list(players.differences(players.state(first.student), players.state(other.student)))
    assert not torch.equal(first.images.images, other.images.images)
    pruned = []
    for method in (".1-cd", ".1-netgraft-pruned", "-kd-full-pruned"):
        job = start(f"symbols{method}")
        job.method()
        pruned.append(players.state(job.student))
    assert not any(list(players.differences(pruned[0], each)) for each in pruned[1:])


def test_with_a_prefix_every_method_keeps_the_teachers_blocks() -> None:
    for method in (".1-netgraft-pruned", ".1-fitnet", ".1-cd", "-supervised"):
        job = start(f"symbols-prefix{method}", scale=LAPTOP)
        advance(job.method(), 2)
        for own, model in zip(job.student.blocks[:2], job.teacher.blocks[:2], strict=True):
            assert not list(players.differences(players.state(own), players.state(model))), method


def test_the_equations_shown_are_the_equations_trained() -> None:
    rows = ("symbols.1-netgraft", "symbols.1-fitnet", "symbols.1-fskd", "symbols.1-cd")
    equations.check("netgraft", lambda: [SMOKE.run(row, progress=False, **SHORT) for row in rows])


def test_adapters_with_biases_stay_in_place_and_count() -> None:
    settings = run.Settings(**SMOKE.settings["symbols.1-netgraft"].but(limit=60, watched=20), bias=True)
    found = study.NetGraftJob(settings).result()
    adapters = sum(p.numel() for scion in found.method.scions for p in scion.adapters())
    assert found.metrics["accuracy"] == found.metrics["unfolded_accuracy"]
    assert found.metrics["folded_accuracy"] == run.accuracy(found.student, found.test)
    assert found.metrics["parameters"] == nets.parameter_count(found.student) + adapters


def test_rates_are_chosen_on_training_images_that_are_not_among_the_few() -> None:
    job = start("symbols.5-kd").aside(5000)  # of 6,000, so that some of the few are among them
    held, few = ({image.numpy().tobytes() for image in each.images} for each in (job.test, job.images))
    training = {image.numpy().tobytes() for image in zoo.images("symbols16-vgg", "train", "cpu").images}
    assert held <= training and not held & few and len(job.test) < 5000


def test_open_rates_are_tried_with_seeds_of_no_table_and_the_best_comes_first() -> None:
    ((row, found),) = SMOKE.choose(["symbols.5-kd"], 3)
    again = start(row, 1003, lr=found[0]["lr"]).aside(2000).result().metrics
    assert row == "symbols.5-kd" and sorted(each["lr"] for each in found) == list(study.GRID)
    assert found[0]["accuracy"] == max(each["accuracy"] for each in found) == round(again["accuracy"], 4)
    assert all(record.seed < study.TRIED for record in report.records("netgraft"))
    with pytest.raises(BadValue, match="symbols.5-fskd chooses no rate"):
        list(SMOKE.choose(["symbols.5-fskd"]))
    colab = chapters.study("netgraft", "colab").settings.items()
    left = {row for row, settings in colab if study.leaves_rate_open(settings)}
    five = {f"cifar10{kind}.5-{name}" for kind in ("", ".shared") for name in ("netgraft", "kd", "fitnet", "cd")}
    assert {row for row in left if ".5-" in row} == five - {"cifar10.shared.5-netgraft"}


def test_a_graft_is_followed_from_its_start() -> None:
    seen = start("symbols.1-netgraft", block_steps=(4,) * 5).follow((1,), 0.01, points=2)
    assert [point["iteration"] for point in seen] == [0, 2, 4] and {"accuracy", "gap"} <= seen[0].keys()
    assert seen[0]["accuracy"] != seen[-1]["accuracy"] or seen[0]["gap"] != seen[-1]["gap"]
