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

from reuselib import chapters, netgraft, nets, run
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


def test_every_task_has_its_methods_which_differ_in_their_rates_alone() -> None:
    assert {*METHODS, "teacher", "untrained"} - {"netgraft-slow"} == {
        settings.method for settings in SMOKE.settings.values()
    }
    assert len(LAPTOP.rows) == 208 and len(PAPER.rows) == 202
    for task in ("symbols", "symbols-prefix", "fashion", "fashion-prefix"):
        rows = [f"{task}.{k}-{method}" for k in study.SHOTS for method in study.METHODS]
        rows += [f"{task}.{k}-{method}" for k in study.FEW for method in study.PRUNED]
        assert {*rows, *(f"{task}-{method}" for method in study.PLAIN_BOUNDS)} <= LAPTOP.settings.keys()
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


def test_the_ablations_spread_the_same_updates_over_their_grafts() -> None:
    def plan(method: str) -> list[tuple[tuple[int, ...], int]]:
        job = start(f"symbols.1-{method}", block_steps=(10,) * 5, network_steps=(11, 12, 13, 14))
        return [(graft.blocks, graft.steps) for graft in job.grafts()]

    single, growing = [(block,) for block in range(5)], [tuple(range(end)) for end in range(2, 6)]
    whole = [*zip(single, [10] * 5, strict=True), *zip(growing, (11, 12, 13, 14), strict=True)]
    expected = {"stage1": [(blocks, 20) for blocks in single], "stage2": [(b, 20) for b in [(0,), *growing]]}
    for method in GRAFTING:
        assert plan(method) == (expected | {"whole": [((0, 1, 2, 3, 4), 100)]}).get(method, whole)


BATCHES = {1: 6, 2: 12, 3: 19, 4: 25, 5: 32, 6: 38, 7: 44, 8: 51, 9: 57, 10: 64, 20: 128, 50: 320}


def test_cifar_has_the_official_schedule() -> None:
    for shots, batch in BATCHES.items():
        for classes, passes, rates, adapter in (
            (10, (100, 60, 60, 100, 100), (2.5e-4, 2.5e-4, 2.5e-4), 2.5e-3),
            (100, (1000, 200, 200, 150, 150), (2.5e-4, 1e-3, 1e-3), 1e-3),
        ):
            row, updates = f"cifar{classes}.shared.{shots}-netgraft", math.ceil(classes * shots / batch)
            job = PAPER.job(PAPER.settings[row], device="meta")
            assert dict(job.settings.options) == {"batch": batch, "epochs": True} and job.settings.padding == 4
            assert updates == 2 if classes == 10 else updates in (16, 17)
            plan = job.grafts()
            assert [graft.blocks for graft in plan] == [(3,), (4,), (5,), (3, 4), (3, 4, 5)]
            assert [graft.steps for graft in plan] == [updates * each for each in passes]
            assert [graft.lr for graft in plan] == pytest.approx([each * shots / 10 for each in rates] + [1e-4] * 2)
            assert [graft.adapter_lr for graft in plan[:3]] == pytest.approx([adapter * shots / 10] * 3)
            assert [graft.adapter_lr for graft in plan[3:]] == [None] * 2 and job.updates == updates * sum(passes)


def test_the_papers_networks_are_the_published_ones() -> None:
    for row, counts in {
        "cifar10.shared.1-netgraft": (14_983_498, 5_412_682),
        "cifar100.shared.1-netgraft": (15_029_668, 5_458_852),
        "imagenet.1-netgraft": (21_797_672, 11_689_512),
    }.items():
        job = PAPER.job(PAPER.settings[row], device="meta")
        assert (nets.parameter_count(job.teacher), nets.parameter_count(job.student)) == counts
        assert nets.parameter_count(job.graft().folded()) == counts[1]
    stages = [[nets.parameter_count(block) for block in network.blocks] for network in (job.teacher, job.student)]
    assert (stages[0][2], stages[1][2]) == (6_822_400, 2_099_712)  # of ImageNet's networks
    adapters = PAPER.job(PAPER.settings["cifar10.shared.1-netgraft"], device="meta").graft().scions
    count = sum(p.numel() for scion in adapters for p in scion.adapters())
    assert count == 525_824  # biases included


def test_predicted_operations_are_those_of_a_run_and_the_papers_to_a_factor_of_two() -> None:
    for method in ("netgraft", "kd", "fitnet", "cd"):
        row, changes = f"symbols.1-{method}", {"options": {"batch": 4, "epochs": True}}
        method = start(row, **changes).method()
        with FlopCounterMode(display=False) as counter:
            advance(method, 27)
        assert SMOKE.predict(row, **changes).operations == pytest.approx(counter.get_total_flops())
    assert SMOKE.predict("symbols-teacher").operations == 0 and SMOKE.predict("symbols.1-fskd").operations > 0
    for row in ("cifar10.shared.1-cd", "cifar10.5-fitnet", "imagenet.10-fitnet", "cifar10-supervised"):
        assert PAPER.predict(row).operations > 0  # their networks fit
    kd, grafting = (PAPER.predict(f"cifar10.shared.10-{method}") for method in ("kd", "netgraft"))
    # 840 updates on 50 images: VGG16's 0.63 GFLOP, and three times the 0.07 of the student's last blocks
    assert kd.operations == pytest.approx(840 * 50 * (0.63e9 + 3 * 0.07e9), rel=0.1)
    colab = chapters.study("netgraft", "colab")
    assert sum(colab.predict(row).hours("T4, fp16") for row in colab.rows) < 0.5
    assert 0.5 < grafting.operations / kd.operations < 2 and 0.1e9 < grafting.memory < 1e9


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
    assert players.hooks(result.teacher) == 0 and not any(module.training for module in result.teacher.modules())
    assert not list(players.differences(players.state(result.teacher), players.state(fresh.teacher)))
    assert not trained or len(result.job.images) == (10 * fresh.settings.shots or 6000)
    if trained and fresh.settings.shots and method != "fskd":
        assert result.record.curves["loss"][-1][0] == 27 == result.method.iteration
    if not trained:
        assert method == "teacher" or not list(
            players.differences(*map(players.state, (fresh.student, result.student)))
        )
        assert (found["agreement"] == 1 and found["accuracy"] > 0.9) if method == "teacher" else found["accuracy"] < 0.4


def slow_gap(job: NetGraftJob, network: nn.Module) -> float:
    """NetGraft's loss per image on the watched test images, less that on the few, image by image."""
    result = []
    for images in (job.watched, job.images):
        x = images.normalised(images.images)
        with torch.no_grad():
            cosines = [torch.cosine_similarity(job.teacher(one[None]), network(one[None])).item() for one in x]
        result.append(sum(2 * (1 - cosine) for cosine in cosines) / len(x))
    return result[0] - result[1]


@pytest.mark.parametrize("method", ["netgraft", "kd", "whole"])
def test_early_is_after_as_many_updates_as_one_block_gets(method: str) -> None:
    row = f"symbols.1-{method}"
    found, job = SMOKE.run(row, 2, progress=False, **SHORT).metrics, start(row, 2, **SHORT)
    again, accuracies, gaps = job.method(), [], []
    for block in range(5 if method == "netgraft" else 1):
        advance(again, 3)
        network = job.student if method == "kd" else again.hybrid([block] if method == "netgraft" else range(5))
        network.eval()
        accuracies.append(run.accuracy(network, job.watched))
        gaps.append(slow_gap(job, network))
        network.train()
    assert found["early_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies))
    assert found["early_gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-4)
    if method == "netgraft":
        assert [found[f"graft_{block}"] for block in range(1, 6)] == pytest.approx(accuracies)
        pairs = zip(*(netgraft.blocks_of(network) for network in (job.teacher, job.student)), strict=True)
        saved = [1 - nets.parameter_count(new) / nets.parameter_count(old) for old, new in pairs]
        assert [found[f"saved_{block}"] for block in range(1, 6)] == pytest.approx(saved)


@pytest.mark.parametrize("method", ["netgraft", "kd", "whole"])
def test_a_run_that_was_cut_before_the_first_border_has_no_early_values(method: str) -> None:
    job = start(f"symbols.1-{method}", 2, **SHORT)
    learning = job.method()
    history = run.run(learning, 2, progress=False, evaluate=lambda: job.watch(learning, {3}))
    assert job.early(learning, history) == {} and "accuracy" in job.measure(learning, history)


def test_what_the_folded_student_shows_is_what_it_is_called() -> None:
    result = SMOKE.run("symbols.5-netgraft", 1, progress=False)
    found, chain = result.metrics, nn.Sequential(*result.method.scions).eval()
    watched, test = result.job.watched, result.test
    x, everything = (images.normalised(images.images) for images in (watched, test))
    with torch.no_grad(), run.frozen(result.student):
        before, after = chain(x), result.student(x)
        chosen, teachers = result.student(everything).argmax(1), result.teacher(everything).argmax(1)
        unfolded = chain(everything).argmax(1)
    error = ((before - after).abs().max() / before.abs().max()).item()
    assert found["fold_error"] == pytest.approx(error, rel=1e-3, abs=1e-9) and 0 < error < 1e-4
    assert found["fold_digits"] == pytest.approx(-math.log10(found["fold_error"]))
    for name, same in (("accuracy", chosen == test.labels), ("agreement", chosen == teachers)):
        assert found[name] == pytest.approx(same.float().mean().item())
    assert found["unfolded_accuracy"] == pytest.approx((unfolded == test.labels).float().mean().item())
    assert result.student is not result.method.student


def test_all_methods_of_a_seed_start_from_one_student() -> None:
    first = players.state(start("symbols.1-netgraft").student)
    for row in SMOKE.rows:
        assert not list(players.differences(first, players.state(start(row).student))), row
    assert list(players.differences(first, players.state(start(SMOKE.rows[0], 1).student)))
    pruned = []
    for row in ("symbols.1-cd", "symbols.1-netgraft-pruned", "symbols.1-kd-pruned", "symbols-kd-full-pruned"):
        job = start(row)
        job.method()
        pruned.append(players.state(job.student))
    assert not any(list(players.differences(pruned[0], each)) for each in pruned[1:])


def test_with_a_prefix_every_method_keeps_the_teachers_blocks() -> None:
    for method in (*study.METHODS, *study.PRUNED, *study.PLAIN_BOUNDS):
        shots = method in study.METHODS + study.PRUNED
        job = start(f"symbols-prefix{'.1' if shots else ''}-{method}", scale=LAPTOP)
        if trained := job.method():
            advance(trained, 2)
        for own, model in zip(job.student.blocks[:2], job.teacher.blocks[:2], strict=True):
            assert not list(players.differences(players.state(own), players.state(model))), method


def test_the_few_images_are_new_for_each_seed_and_the_same_for_all_methods() -> None:
    five = start("symbols.5-netgraft", scale=LAPTOP).images
    assert five.labels.bincount().tolist() == [5] * 10
    for row in ("symbols.5-kd", "symbols.5-cd", "symbols-prefix.5-kd"):
        assert torch.equal(start(row, scale=LAPTOP).images.images, five.images)
    assert not torch.equal(start("symbols.5-netgraft", 1, LAPTOP).images.images, five.images)


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


def test_a_graft_is_followed_from_its_start() -> None:
    seen = start("symbols.1-netgraft", block_steps=(4,) * 5).follow((1,), 0.01, points=2)
    assert [point["iteration"] for point in seen] == [0, 2, 4] and {"accuracy", "gap"} <= seen[0].keys()
    assert seen[0]["accuracy"] != seen[-1]["accuracy"] or seen[0]["gap"] != seen[-1]["gap"]
